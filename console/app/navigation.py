"""Where to look: the search box, a typed time range, back and forward, notes."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from PySide6.QtCore import QObject

from console.app.bridge import Bridge
from console.app.timeaxis import TimeAxis
from console.app.window import Window
from console.finding import finder
from console.finding.finder import Hit
from console.finding.time_words import TimeRange
from console.panels.palette import FindBox
from console.panels.time_dialogs import NoteDialog, TimeRangeDialog
from console.state.action_kinds import LABEL
from console.state.dashboard import TimelineEvent


class Navigation(QObject):
    def __init__(
        self, window: Window, bridge: Bridge, axis: TimeAxis, clock: Callable[[], float]
    ) -> None:
        super().__init__(window)
        self._window, self._bridge, self._axis = window, bridge, axis
        self._clock = clock

    def _now(self) -> float:
        """The current time on the time axis, which simulated clocks of servers can move."""
        board = self._window.board
        return self._clock() + (board.ahead_s if board is not None else 0.0)

    def find(self) -> None:
        commands = [
            Hit("command", command.title, "  ".join(command.keys), command=command.id)
            for command in self._window.commands
        ]
        known = finder.known_of(self._window.board)
        box = FindBox(self._window, lambda text: finder.find(text, known, commands))
        box.chosen.connect(self._follow)
        box.open()

    def _follow(self, hit: Hit) -> None:
        if hit.command:
            self._window.commands[hit.command].run()
        elif hit.span is not None:
            self.show_range(hit.span)
        elif hit.panel:
            self._window.jump(hit.panel, hit.key, hit.at_s)

    def time_range(self) -> None:
        dialog = TimeRangeDialog(self._window, self._axis.span, self._now)
        dialog.chosen.connect(self.show_range)
        dialog.open()

    def show_range(self, wanted: TimeRange) -> None:
        self._axis.show_range(wanted.from_s, wanted.to_s, wanted.live)
        self._window.notify(f"showing {wanted.text}")

    def back(self) -> None:
        if not self._axis.back():
            self._window.notify("nothing was shown before this")

    def forward(self) -> None:
        if not self._axis.forward():
            self._window.notify("this is the newest of what was shown")

    def annotate(self) -> None:
        """Add a note about the brush, else about the locked cross-hair, else about now."""
        board = self._window.board
        if board is None or not board.servers:
            self._window.notify("no server is watched that could keep a note")
            return
        at = self._axis.cursor_s if self._axis.locked else self._now()
        span = self._axis.view.brush or (at, at)
        dialog = NoteDialog(self._window, span, self._bridge.user(), len(board.servers))
        dialog.wanted.connect(lambda text: self._send_note(span, text))
        dialog.open()

    def _send_note(self, span: tuple[float, float], text: str) -> None:
        """Send the note to all servers under one id, so that it counts as one note."""
        identity = secrets.token_hex(16)
        target = LABEL.join((identity, *(str(int(at_s * 1000)) for at_s in span)))
        self._to_all(target, text, undo=False)
        self._window.notify("annotated; sending it to every server")

    def remove_note(self) -> None:
        """Delete the note that is selected under Events."""
        row = self._window.events.table.row()
        if not isinstance(row, TimelineEvent) or row.kind != "note":
            self._window.focus_panel("events")
            self._window.notify("select an annotation among the events first")
            return
        self._to_all(row.id, "", undo=True)
        self._window.notify("annotation removed; every server is asked")

    def _to_all(self, target: str, text: str, undo: bool) -> None:
        board = self._window.board
        for line in board.servers if board is not None else ():
            self._bridge.act(line.address, "annotate", target, text, undo=undo)
