"""Every column head, legend piece and panel has a tool tip of one plain sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from console.app.window import Window
from console.panels.prediction_facts import oddest, prediction_lines
from console.panels.server import facts_of
from console.panels.table import Table
from console.state import glossary
from console.state.dashboard import ServerLine, View
from console.state.domain import (
    CachedPrediction,
    Link,
    ProbeEvidence,
    ReplicaSnapshot,
    ServerSnapshot,
)
from server.telemetry.outputs import STAGES
from server.telemetry.rows import FormatCount
from tests.console.test_console_window import T0, kept, make
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")
TIP = Qt.ItemDataRole.ToolTipRole


def test_every_head_and_panel_is_explained(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    assert set(window.panels) == set(glossary.PANELS)
    unexplained, heads = [], 0
    for page in range(4):
        window.plan.show_page(page)
        qtbot.waitUntil(lambda: window.board is not None, timeout=patience_ms(5))
        window.grab()
        for panel in window.panels.values():
            if not panel.isVisible():
                continue
            for table in panel.findChildren(Table):
                model = table.model()
                for column in range(model.columnCount()):
                    heads += 1
                    if not model.headerData(column, Qt.Orientation.Horizontal, TIP):
                        title = model.headerData(column, Qt.Orientation.Horizontal)
                        unexplained.append((panel.name, title))
            assert panel.title.tip_at(1, 1) == glossary.PANELS[panel.name]
            for place, text in panel.title._places:
                assert panel.title.tip_at(place.center().x(), 1) == glossary.chip(text) != ""
    assert not unexplained and heads > 40


def test_sentences_are_short_and_plain() -> None:
    terms = [text for _, text in (*glossary.TERMS, *glossary.FACTS)]
    every = [*glossary.PANELS.values(), *glossary.HEADS.values(), *terms]
    for sentence in every:
        assert re.fullmatch(r"[A-Z0-9≠].*\.|.*\)\.", sentence), sentence
        assert len(sentence) <= 110, sentence
    assert glossary.chip("━ p95 204 ms").startswith("95 of 100")
    assert glossary.chip("something of a server") == "something of a server"


def test_every_line_about_a_server_is_explained() -> None:
    """Of each kind of replica, and of everything that a server may report about itself."""
    evidence = ProbeEvidence("image+text", False, "p50 212 ms", 212.0, 260.0, 120.0, 9, 1.0, 0.1, 1)
    replicas = [
        ReplicaSnapshot(
            number, state, "the reason", "cpu", restarts=2, in_flight=3, private_bytes=1 << 20,
            evidence=(evidence,), p95_ms=30.0, last_progress_unix_ms=1, last_exit="exit code 1",
        )
        for number, state in enumerate(("ready", "slow", "wrong", "dead", "starting", "loading"))
    ]  # fmt: skip
    names = ("device", "dtype", "threads", "batch", "bundle")
    snapshot = ServerSnapshot(
        "gpu-01", "0.1.0", "degraded", replicas=tuple(replicas), requests=9, failed=1,
        quarantined=1, telemetry_bytes=9, parts_cut=1, simulated_speed=50.0,
        refused_formats=(FormatCount("webm", 1, "audio", 2),),
        reasons={name: "automatic" for name in names},
    )  # fmt: skip
    link = Link("a:1", "live", heard_s=1.0, offset_ms=3.0)
    line = ServerLine(link, snapshot, "warning", "degraded", "", 0.0)
    texts = [fact.text for fact in facts_of(line, 100.0)]
    own = ("a:1 · v0.1.0", "the reason", "p50 212 ms")
    unexplained = [text for text in texts if text not in own and not glossary.fact(text)]
    assert len(texts) > 25 and not unexplained, unexplained


def test_every_line_about_a_prediction_is_explained() -> None:
    right = CachedPrediction(label="ok", true_label="ok", stamp="a" * 64, mix="text", parts_cut=1)
    for row in (right, replace(right, confidence=0.9, closed_set_mass=0.1)):
        texts = [text for text, _ in prediction_lines(row, "gpu-01")]
        unexplained = [text for text in texts if text != "ok" and not glossary.fact(text)]
        assert len(texts) > 6 and not unexplained, unexplained
    assert all(glossary.fact(stage) for stage in STAGES)


def test_a_refused_row_shows_the_sentence_of_its_caller_first() -> None:
    code = "INVALID_ARGUMENT/IMAGE_TRUNCATED/examples[0].parts[1].data"
    row = CachedPrediction(error=code, error_message="the JPEG ends after 812 of 40,960 bytes")
    _, first, second, *_ = prediction_lines(row, "gpu-01")
    assert first == ("the JPEG ends after 812 of 40,960 bytes", "critical")
    assert second[0] == "INVALID_ARGUMENT · IMAGE_TRUNCATED · in examples[0].parts[1].data"
    older = prediction_lines(replace(row, error_message=""), "gpu-01")
    assert older[1] == (second[0], "critical")


def test_the_oddest_features_are_those_at_the_ends_of_the_reference() -> None:
    shares = (0.5, 0.999, 0.2, 0.001, float("nan"), 0.4, 0.9, 0.7)
    features = [(f"f{n}", "1", share) for n, share in enumerate(shares)]
    assert [name for name, _, _ in oddest(features)] == ["f3", "f1", "f6", "f2", "f7"]
    assert oddest([]) == []
