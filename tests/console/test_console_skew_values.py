"""Skew shown by values: the settings of preprocessing on both sides instead of two digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from console.cache.build_board import empty_board
from console.panels.skew_detail import lines_of
from console.state import skew, status_messages
from console.state.dashboard import View
from console.state.domain import STAMP_PARTS, Link, ServerRecord, ServerSnapshot
from server.replica.bundle_values import values_of

BUNDLE = Path(__file__).resolve().parents[2] / "pipelines" / "triage" / "bundle"


def server(name: str, preprocessing: str, detail: dict[str, str]) -> ServerRecord:
    parts = {part: "a" * 64 for part in STAMP_PARTS} | {"preprocessing": preprocessing * 64}
    file = {"preprocessing/preprocess.json": preprocessing * 64}
    found = ServerSnapshot(
        server=name, stamp=preprocessing * 64, stamp_parts=parts, stamp_detail=file | detail
    )
    return ServerRecord(Link(f"{name}:1", "live", heard_s=100.0), found)


def changed(tmp_path: Path) -> dict[str, str]:
    text = (BUNDLE / "preprocess.json").read_text()
    (tmp_path / "preprocess.json").write_text(text.replace("12544", "6272"))
    return values_of(tmp_path)


def test_the_values_of_a_bundle_are_read_by_name(tmp_path: Path) -> None:
    found = values_of(BUNDLE)
    assert found["preprocessing/image.max_pixels"] == "12544"
    assert found["preprocessing/image.resize"] == "bicubic-antialias-uint8"
    assert {k for k, v in changed(tmp_path).items() if found[k] != v} == {
        "preprocessing/image.max_pixels"
    }
    assert values_of(tmp_path / "nowhere") == {}


def test_a_server_with_other_preprocessing_is_named_with_both_values(tmp_path: Path) -> None:
    usual, other = values_of(BUNDLE), changed(tmp_path)
    servers = [server("a", "1", usual), server("b", "1", usual), server("c", "2", other)]
    lines = {line.name: line for line in skew.compare(servers, (), 100.0, "")}
    assert lines["c"].details == (("image.max_pixels", "6272", "12544"),)
    (message,) = status_messages.skewed(list(lines.values()))
    assert message.detail == (
        "c: preprocessing differs from the fleet (image.max_pixels 6272, fleet 12544)"
    )


def test_of_two_versions_as_frequent_none_is_called_right(tmp_path: Path) -> None:
    usual, other = values_of(BUNDLE), changed(tmp_path)
    for servers in (
        [server("a", "1", usual), server("c", "2", other)],
        [server("c", "2", other), server("a", "1", usual)],
    ):
        lines = skew.compare(servers, (), 100.0, "")
        assert all(line.odd and line.tied for line in lines)
        (message,) = status_messages.skewed(lines)
        assert "differ in preprocessing, none has the majority (image.max_pixels" in message.detail
        assert {"a", "c"} < set(message.detail.split()), "both are named"
        assert "fleet" not in message.detail
        assert {line.name: line.details[0][1:] for line in lines} == {
            "a": ("12544", "6272"), "c": ("6272", "12544"),
        }, "each beside the other"  # fmt: skip
        for line in lines:
            texts = [text for text, _ in lines_of(line, empty_board(View(), 100.0, None, ""))]
            assert not any("fleet" in text for text in texts), texts
            assert any("· others " in text for text in texts)
    lines = skew.compare([*servers, server("b", "1", usual)], (), 100.0, "")
    assert [(line.name, line.tied) for line in lines if line.odd] == [("c", False)]


def test_a_part_that_the_expected_server_does_not_report_is_no_tie() -> None:
    """An older server reports fewer parts, and parts may differ under one stamp."""
    older, newer = server("a", "1", {}), server("b", "1", {})
    assert older.snapshot is not None
    parts = {k: v for k, v in older.snapshot.stamp_parts.items() if k != "data"}
    lines = skew.compare(
        [replace(older, snapshot=replace(older.snapshot, stamp_parts=parts)), newer],
        (), 100.0, older.snapshot.stamp,
    )  # fmt: skip
    (message,) = status_messages.skewed(lines)
    assert message.detail.startswith("b: data differs from the fleet")


def test_servers_without_values_are_compared_by_digest() -> None:
    usual = values_of(BUNDLE)
    servers = [server("a", "1", {}), server("b", "1", usual), server("c", "2", {})]
    lines = {line.name: line for line in skew.compare(servers, (), 100.0, "")}
    assert [what for what, _, _ in lines["c"].details] == ["preprocessing/preprocess.json"]
