"""No text is cut while there is space for it: every label, cell and legend of every page and panel,
as the window paints them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from console.app.window import LEAST_HEIGHT, LEAST_WIDTH, Window
from console.panels.table import Table
from console.plots.style import ZOOMS, fitting_zoom, next_zoom
from console.state.dashboard import View
from tests.console.test_console_window import T0, kept, make
from tests.support.painted_text import cut_beside_room, texts_of
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
WAITING = frozenset(("…", "searching …"))  # in place of what is still being read
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


@pytest.fixture
def window(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> Window:
    found = make(None, kept(tmp_path), View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    found.resize(1600, 960)
    qtbot.waitUntil(lambda: found.board.latency is not None, timeout=patience_ms(5))  # type: ignore[union-attr]
    return found


def pages(qtbot: QtBot, window: Window) -> Iterator[str]:
    """Every page, then every panel alone, each painted with its content."""

    def filled() -> bool:
        return WAITING.isdisjoint(painted.text for painted in texts_of(window))

    for number in range(window.plan.pages.count()):
        window.plan.show_page(number)
        qtbot.wait(30)
        qtbot.waitUntil(filled, timeout=patience_ms(5))
        yield f"page {number}"
    for name, panel in window.panels.items():
        window.focus_panel(name)
        window.plan.maximise(panel)
        qtbot.wait(30)
        qtbot.waitUntil(filled, timeout=patience_ms(5))
        yield name
        window.plan.maximise(panel)


def has_size(window: Window, size: tuple[int, int]) -> bool:
    return (window.width(), window.height()) == size


def heads_cut(window: Window) -> tuple[int, list[object]]:
    """How many heads of columns are shown, and those that do not fit."""
    cut: list[object] = []
    heads = 0
    for table in window.findChildren(Table):
        header = table.horizontalHeader()
        if not table.isVisible() or header.isHidden():
            continue
        for number, column in enumerate(table.model().columns):  # type: ignore[attr-defined]
            if not table.isColumnHidden(number):
                heads += 1
                needed = header.fontMetrics().horizontalAdvance(column.title)
                if needed > header.sectionSize(number):
                    cut.append((column.title, needed, header.sectionSize(number)))
    return heads, cut


def test_a_refused_row_shows_its_sentence_over_the_empty_cells(
    qtbot: QtBot, window: Window
) -> None:
    next(places := pages(qtbot, window))
    next(places)
    head, *_ = (t for t in texts_of(window) if t.text == "conf")
    sentence, *_ = (t for t in texts_of(window) if t.text.startswith("parts[1].data"))
    assert sentence.place.right() > head.place.right(), "past the label's own column"


def test_no_text_is_cut_beside_room_for_it(qtbot: QtBot, window: Window) -> None:
    whole = frozenset(button.text() for button in window.findChildren(QAbstractButton))
    cut: list[object] = []
    painted = heads = 0
    for where in pages(qtbot, window):
        painted += len(texts_of(window))
        found, too_wide = heads_cut(window)
        heads += found
        cut += [(where, text) for text in (*cut_beside_room(window, whole), *too_wide)]
    assert painted > 1000 and heads > 60, "the walk sees what is painted"
    assert not cut, "\n".join(map(str, cut))


def test_a_small_window_keeps_every_panel(qtbot: QtBot, window: Window) -> None:
    """Below 1,100 pixels panels were a few pixels wide, and some lay outside of the window."""
    for size in ((LEAST_WIDTH, LEAST_HEIGHT), (1099, 700), (1280, 800)):
        window.resize(*size)
        qtbot.waitUntil(partial(has_size, window, size), timeout=patience_ms(5))
        qtbot.wait(50)
        for number in range(window.plan.pages.count()):
            window.plan.show_page(number)
            qtbot.wait(20)
            for name, panel in window.panels.items():
                if panel.isVisible():
                    corner = panel.mapTo(window, panel.rect().bottomRight())
                    wide, high = panel.width(), panel.height()
                    assert wide >= 170 and high >= 110, (size, name, wide, high)
                    assert window.rect().contains(corner), (size, name, corner)


def test_text_grows_and_shrinks_everywhere_and_the_next_start_remembers(
    qtbot: QtBot,
    make: Callable[..., Window],
    tmp_path: Path,
    kept: Callable[[Path], Path],
) -> None:
    path = kept(tmp_path)
    window = make(None, path, View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    heights = {t.text: t.place.height() for t in texts_of(window)}
    qtbot.keyClicks(window, "+", Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClicks(window, "+", Qt.KeyboardModifier.ControlModifier)
    zoom = next_zoom(next_zoom(1.0, 1), 1)
    assert window.ui_style.zoom == zoom == 1.25
    qtbot.wait(50)
    grown = [t for t in texts_of(window) if t.text in heights]
    small = [t.text for t in grown if t.place.height() < 1.1 * heights[t.text]]
    assert len(grown) > 60 and not small, small
    window.close()
    again = make(None, path, View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    qtbot.waitUntil(lambda: again.ui_style.zoom == zoom, timeout=patience_ms(5))
    qtbot.keyClick(again, Qt.Key.Key_0, Qt.KeyboardModifier.ControlModifier)
    assert again.ui_style.zoom == 1.0
    qtbot.keyClick(again, Qt.Key.Key_Minus, Qt.KeyboardModifier.ControlModifier)
    assert again.ui_style.zoom == 0.9


def test_a_large_window_has_larger_text_by_itself() -> None:
    assert [fitting_zoom(height) for height in (800, 960, 1080, 1440, 2160)] == [
        *(1.0, 1.0, 1.0),
        *(1.25, 1.75),
    ]
    assert next_zoom(1.3, 1) == 1.5 and next_zoom(ZOOMS[-1], 1) == ZOOMS[-1]
    assert next_zoom(ZOOMS[0], -1) == ZOOMS[0]


def test_the_name_of_a_row_keeps_its_room_in_a_small_window(qtbot: QtBot, window: Window) -> None:
    window.resize(1280, 800)
    qtbot.waitUntil(partial(has_size, window, (1280, 800)), timeout=patience_ms(5))
    seen = 0
    for page in pages(qtbot, window):
        for table in (one for one in window.findChildren(Table) if one.isVisible()):
            for number, column in enumerate(table._columns):
                if not column.width and not table.isColumnHidden(number):
                    room, least = table.columnWidth(number), window.ui_style.whole(column.least)
                    assert room >= least, f"{page}: {column.title} has {room} of {least} pixels"
                    seen += 1
    assert seen > 10
