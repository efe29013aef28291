"""The console works without a mouse: every panel, link, button and number by keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from console.app.layout import PAGES
from console.app.window import Window
from console.panels.data_table import DataTable
from console.panels.palette import columns_of
from console.panels.status_bar import MessageButton
from console.state.access import ConnectionAccess
from console.state.dashboard import View
from tests.console.test_console_window import T0, actions_of, kept, make
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


def test_every_panel_is_reached_by_keys_and_hands_out_its_figures(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), clock=lambda: T0 + 5)
    window.activateWindow()
    seen: list[str] = []
    for page in range(len(PAGES)):
        window.plan.show_page(page)
        window.focus_panel("fleet")
        shown = [panel for panel in window.panels.values() if panel.isVisible()]
        for _ in shown:
            qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_F6)
            seen.append(window.focused_panel().name)
            assert window.focused_panel().property("active"), seen[-1]
            actions_of(window).export_csv()
            actions_of(window).export_png()
    assert set(seen) == set(window.panels)

    def written(ending: str) -> bool:
        files = (tmp_path / "out").glob(f"*.{ending}")
        return {path.name.split("-")[0] for path in files} == set(window.panels)

    for ending in ("csv", "png"):
        qtbot.waitUntil(
            partial(written, ending),
            timeout=patience_ms(10),
        )


def test_figures_of_a_plot_can_be_read_sorted_and_copied(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    qtbot.waitUntil(lambda: window.board.latency is not None, timeout=patience_ms(5))  # type: ignore[union-attr]
    window.focus_panel("latency")
    qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_N)
    figures = next(d for d in window.findChildren(DataTable) if d.isVisible())
    head, rows = window.latency.as_table()
    assert figures.table.model().rowCount() == len(rows) > 10
    for _ in range(3):
        qtbot.keyClick(figures.table, Qt.Key.Key_Right)
    qtbot.keyClick(figures.table, Qt.Key.Key_O)  # worst p99 first
    place = figures.table.model().index(0, 3)
    figures.table.setCurrentIndex(place)
    qtbot.keyClick(figures.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    slowest = max(float(row[3] or 0) for row in rows)
    assert head[3] == "p99_ms" and float(QApplication.clipboard().text()) == slowest
    qtbot.keyClick(figures.table, Qt.Key.Key_Escape)
    assert not figures.isVisible()


def test_cross_hair_and_examples_by_keys(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    qtbot.waitUntil(lambda: window.board.latency is not None, timeout=patience_ms(5))  # type: ignore[union-attr]
    window.focus_panel("latency")
    for _ in range(10):
        qtbot.keyClick(window.latency, Qt.Key.Key_BracketLeft)
    assert window.axis.locked
    assert window.axis.cursor_s == pytest.approx(window.axis.span[1] - 24, abs=1)
    qtbot.keyClick(window.latency, Qt.Key.Key_X)
    assert window.plan.pages.currentIndex() == 1
    assert window.predictions.line.text().startswith("id=")


def test_keys_press_what_has_the_keyboard(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    """Space and Enter on a link of the status line and on a tab; digits in a number are digits."""
    window = make(None, kept(tmp_path), clock=lambda: T0 + 5)
    jumps: list[str] = []
    window.status_bar.jump.connect(lambda panel, key, at_s: jumps.append(panel))
    link = window.status_bar.findChild(MessageButton)
    assert link is not None
    for key in (Qt.Key.Key_Space, Qt.Key.Key_Return):
        link.setFocus()
        qtbot.keyClick(link, key)
    assert len(jumps) == 2
    tab = window.plan._tabs[3]
    tab.setFocus()
    qtbot.keyClick(tab, Qt.Key.Key_Return)
    assert window.plan.pages.currentIndex() == 3
    window.alerts.threshold.setFocus()
    window.alerts.threshold.selectAll()
    qtbot.keyClicks(window.alerts.threshold, "0.35")
    assert window.alerts.threshold.value() == 0.35
    assert window.plan.pages.currentIndex() == 3
    qtbot.keyClick(window.alerts.threshold, Qt.Key.Key_F)  # no number has a letter
    assert window.plan.alone is window.alerts


def test_a_copied_view_states_how_the_servers_are_reached(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(measure="ks", expected_stamp="a b"), lambda: T0)
    window.bridge.access = ConnectionAccess(True, Path("/etc/my ca.pem"), None)
    text = actions_of(window).view_command()
    assert "--measure ks --expect 'a b' --tls --ca '/etc/my ca.pem' 10.0.0.1:8500" in text


def test_the_key_sheet_takes_as_many_columns_as_it_needs() -> None:
    heights = [290.0, 290.0, 70.0, 250.0, 110.0]
    assert columns_of(heights, 2000) == 1
    assert columns_of(heights, 700) == 2
    assert columns_of(heights, 300) == 5
