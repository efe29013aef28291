"""Collects cycles of Python objects in the UI thread only.

CPython runs its garbage collector in whichever thread happens to reach the allocation threshold. A
cycle that holds a widget or a signal could then be destroyed by a thread that reads the cache,
while Qt still uses it in the UI thread. The result is a segmentation fault, seconds or days later.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer

EVERY_MS = 500


def collect_due() -> None:
    """Run the generations that the automatic collector would run now, by CPython's own counts and
    thresholds."""
    for generation in (2, 1, 0):
        if gc.get_count()[generation] > gc.get_threshold()[generation]:
            gc.collect(generation)
            return


class GarbageTimer(QObject):
    """Between `start` and `stop`, only the thread of this object collects."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._automatic = False
        self._timer = QTimer(self)
        self._timer.timeout.connect(collect_due)

    def start(self) -> None:
        self._automatic = gc.isenabled()
        gc.disable()
        self._timer.start(EVERY_MS)

    def stop(self) -> None:
        self._timer.stop()
        if self._automatic:
            gc.enable()
