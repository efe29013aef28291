"""Sends the questions of the panels *what changed* and *compare* to the cache, and again once the
servers have sent the rows that the cache did not hold."""

from __future__ import annotations

from PySide6.QtCore import QObject, Qt, QTimer

from console.app.bridge import Bridge
from console.looks.changes import WhatChanged
from console.looks.comparing import Compared
from console.panels.changes import ChangesPanel
from console.panels.compare import ComparePanel
from console.state.query_types import ReadChanges, ReadComparison, SearchServers

STOPS_MS = 250  # while a brush is being drawn, the questions wait until it stops


class Looks(QObject):
    def __init__(self, bridge: Bridge, changes: ChangesPanel, compare: ComparePanel) -> None:
        super().__init__()
        self._bridge = bridge
        self._changes, self._compare = changes, compare
        self._wanted: tuple[ReadChanges | None, ReadComparison | None] = (None, None)
        self._numbers = [0, 0]
        self._searches: set[int] = set()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(STOPS_MS)
        self._soon.timeout.connect(self._ask)
        changes.asked.connect(self._want_changes)
        compare.asked.connect(self._want_comparison)
        bridge.answered.connect(self._answered)
        bridge.searched.connect(self._searched, Qt.ConnectionType.QueuedConnection)

    def _want_changes(self, wanted: ReadChanges) -> None:
        self._wanted = (wanted, self._wanted[1])
        self._soon.start()

    def _want_comparison(self, wanted: ReadComparison) -> None:
        self._wanted = (self._wanted[0], wanted)
        self._soon.start()

    def _ask(self) -> None:
        """Ask the cache at once, and the servers for the newest rows of each window."""
        self._read()
        changes, compared = self._wanted
        spans = [changes.before, changes.after] if changes is not None else []
        if compared is not None:
            spans += [compared.here.span, compared.there.span]
        self._searches = {
            self._bridge.search(SearchServers(span=span)) for span in dict.fromkeys(spans)
        }

    def _read(self) -> None:
        for place, wanted in enumerate(self._wanted):
            if wanted is not None:
                self._numbers[place] = self._bridge.ask(wanted)

    def _searched(self, number: int, _: object) -> None:
        if number not in self._searches:
            return
        self._searches.discard(number)
        if not self._searches:
            self._read()

    def _answered(self, number: int, answer: object) -> None:
        match answer:
            case WhatChanged() if number == self._numbers[0]:
                self._changes.show_found(answer)
            case Compared() if number == self._numbers[1]:
                self._compare.show_compared(answer)
