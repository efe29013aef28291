"""Refusals by format, cut parts and warnings, from the row to metrics and `server status`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proto import observe_pb2 as pb
from server.commands.output.status_report import report
from server.main import main
from server.ops.otel_setup import state_of
from server.part_counts import MOST_NAMES, OTHER, PartCounts
from server.telemetry.outputs import Timing
from server.telemetry.rows import FormatCount, refused_formats
from server.types import Fault, Outcome, PartUsed
from tests.support import media_bytes as made
from tests.support.running import idle_engine
from tests.support.stub_replica import STAMP, work
from trefoil import Client, InputRefused, audio, image, text


def refused(counts: PartCounts, name: str, mix: str, times: int = 1) -> None:
    fault = Fault("INVALID_ARGUMENT", "parts[0].data", f"UNSUPPORTED_{name}", "")
    row = replace(work("a", "x"), mix=mix)
    for _ in range(times):
        counts.add(row, Outcome("a", None, fault, Timing(), 0, STAMP, 0))


def answered(counts: PartCounts, mix: str, *parts: PartUsed, times: int = 1) -> None:
    row = replace(work("a", "x"), mix=mix)
    for _ in range(times):
        counts.add(row, Outcome("a", None, None, Timing(), 1, STAMP, 0, parts_used=parts))


def test_share_is_of_the_rows_with_that_medium() -> None:
    counts = PartCounts()
    answered(counts, "text", times=900)
    answered(counts, "audio+text", times=70)
    refused(counts, "M4A", "audio+text", 20)
    refused(counts, "M4A", "audio+image+text", 10)
    refused(counts, "HEIC", "image", 2)
    refused(counts, "PDF", "unknown")
    assert counts.figures().formats == (
        FormatCount("M4A", 30, "audio", 100),
        FormatCount("HEIC", 2, "image", 12),
        FormatCount("PDF", 1, "", 1003),
    )


def test_other_refusals_are_not_formats_and_names_are_bounded() -> None:
    counts = PartCounts()
    fault = Fault("INVALID_ARGUMENT", "parts[0].data", "IMAGE_TRUNCATED", "")
    counts.add(work("a", "x"), Outcome("a", None, fault, Timing(), 0, STAMP, 0))
    assert counts.figures().formats == ()
    for number in range(MOST_NAMES + 50):
        refused(counts, f"F{number}", "audio")
    found = counts.figures().formats
    assert len(found) == MOST_NAMES + 1
    assert (found[0].format, found[0].rows) == (OTHER, 50)


def test_cut_parts_and_warnings_are_counted() -> None:
    counts = PartCounts()
    frames = PartUsed(modality=2, cut=True, frames_sent=3)
    answered(counts, "image", frames, PartUsed(modality=3, warning="LENGTH_UNKNOWN"))
    answered(counts, "audio", PartUsed(modality=3, cut=True, warning="NO_END"))
    figures = counts.figures()
    assert (figures.cut, figures.warnings) == (2, {"LENGTH_UNKNOWN": 1, "NO_END": 1})
    snapshot = replace(idle_engine().snapshot(), parts=figures)
    readings = [one for one in state_of(snapshot) if one.name.startswith("trefoil.parts.")]
    assert [(one.name, one.value, one.attributes) for one in readings] == [
        ("trefoil.parts.cut", 2, ()),
        ("trefoil.parts.warned", 1, (("trefoil.warning", "LENGTH_UNKNOWN"),)),
        ("trefoil.parts.warned", 1, (("trefoil.warning", "NO_END"),)),
    ]


def test_lines_of_people() -> None:
    snapshot = pb.ServerSnapshot()
    assert refused_formats(snapshot.refused_formats) == ""
    snapshot.refused_formats.add(format="M4A", rows=30, medium="audio", of_rows=100)
    snapshot.refused_formats.add(format="PDF", rows=1, of_rows=1003)
    line = "M4A 30 (30 % of rows with sound), PDF 1 (0.1 % of rows)"
    assert refused_formats(snapshot.refused_formats) == line
    assert f"  formats  refused: {line}" in report(snapshot, 0.0)


def test_whole_program_counts_them(tiny_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    sent = b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42isom" + bytes(64)
    with Client(tiny_server) as client:
        with pytest.raises(InputRefused) as caught:
            client.predict(text("hum"), audio(sent))
        assert caught.value.reason == "UNSUPPORTED_M4A"
        client.predict(image(made.image()), audio(made.wav_claiming(0xFFFFFFFF)))
    assert main(["status", "--server", tiny_server, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (count,) = [one for one in found["refused_formats"] if one["format"] == "M4A"]
    assert count["medium"] == "audio" and 1 <= count["rows"] < count["of_rows"]
    assert found["part_warnings"]["LENGTH_UNKNOWN"] >= 1
