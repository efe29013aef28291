"""Every head, chip and panel has a tool tip of one plain sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from console.app.window import Window
from console.panels.detail import oddest
from console.panels.table import Table
from console.state import glossary
from console.state.dashboard import View
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
            assert panel.title.tip_at(1) == glossary.PANELS[panel.name]
            for place, text in panel.title._places:
                assert panel.title.tip_at(place.center().x()) == glossary.chip(text) != ""
    assert not unexplained and heads > 40


def test_sentences_are_short_and_plain() -> None:
    every = [*glossary.PANELS.values(), *glossary.HEADS.values(), *(t for _, t in glossary.TERMS)]
    for sentence in every:
        assert re.fullmatch(r"[A-Z0-9≠].*\.|.*\)\.", sentence), sentence
        assert len(sentence) <= 110, sentence
    assert glossary.chip("━ p95 204 ms").startswith("95 of 100")
    assert glossary.chip("something of a server") == "something of a server"


def test_the_oddest_features_are_those_at_the_ends_of_the_reference() -> None:
    shares = (0.5, 0.999, 0.2, 0.001, float("nan"), 0.4, 0.9, 0.7)
    features = [(f"f{n}", "1", share) for n, share in enumerate(shares)]
    assert [name for name, _, _ in oddest(features)] == ["f3", "f1", "f6", "f2", "f7"]
    assert oddest([]) == []
