"""The incident sheet is one file that any browser opens; a maximised panel fills the window."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PySide6.QtGui import QImage
from pytestqt.qtbot import QtBot

from console.app import sheet
from console.app.window import Window
from console.state.access import PLAIN
from console.state.dashboard import View
from tests.console.test_console_window import T0, actions_of, kept, make
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_sheet_has_state_figures_changes_alerts_commands_and_pictures(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    qtbot.waitUntil(lambda: window.board.latency is not None, timeout=patience_ms(5))  # type: ignore[union-attr]
    with qtbot.waitSignal(window.bridge.written, timeout=patience_ms(20)) as written:
        actions_of(window).incident_sheet()
    assert written.args is not None and not written.args[1]
    text = Path(written.args[0]).read_text()
    board = window.board
    assert board is not None
    assert escape(board.fleet_state.sentence) in text
    for part in ("Figures", "What changed before", "Alerts", "Commands", "Pictures"):
        assert f"<h2>{part}</h2>" in text
    assert "activate" in text and "server status --server" in text
    tags = Tags()
    tags.feed(text)
    images = [str(attrs["src"]) for tag, attrs in tags.found if tag == "img"]
    assert len(images) > 4
    for source in images:
        picture = QImage.fromData(base64.b64decode(source.removeprefix("data:image/png;base64,")))
        assert picture.width() > 100
    assert not re.search(r'(src|href)="(?!data:)', text), "it asks for nothing"


def test_what_a_server_sent_is_text_in_the_sheet(
    make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=900, end_s=T0), clock=lambda: T0 + 5)
    board = window.board
    assert board is not None
    state = replace(board.fleet_state, sentence='<script>alert("x")</script>')
    text = sheet.html(replace(board, fleet_state=state), [("<img>", b"")], "<b>", PLAIN)
    tags = Tags()
    tags.feed(text)
    assert not {"script", "b"} & {tag for tag, _ in tags.found}


@pytest.mark.parametrize("name", ["skew", "server", "drift", "latency", "predictions", "alerts"])
def test_a_panel_alone_has_the_room_of_the_window(
    qtbot: QtBot,
    make: Callable[..., Window],
    tmp_path: Path,
    kept: Callable[[Path], Path],
    name: str,
) -> None:
    """85 % of the window stayed black around a panel that was to be alone."""
    window = make(None, kept(tmp_path), clock=lambda: T0 + 5)
    before = {key: panel.size() for key, panel in window.panels.items() if panel.isVisible()}
    window.focus_panel(name)
    panel = window.panels[name]
    window.plan.maximise(panel)
    room = window.plan.whole

    def filled() -> bool:
        foot = 120 if name in ("predictions", "alerts") else 12
        return panel.width() >= room.width() - 12 and panel.height() >= room.height() - foot

    qtbot.waitUntil(filled, timeout=patience_ms(5))
    window.plan.maximise(panel)
    window.plan.show_page(0)
    qtbot.waitUntil(
        lambda: {k: p.size() for k, p in window.panels.items() if p.isVisible()} == before,
        timeout=patience_ms(5),
    )
