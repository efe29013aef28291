"""Cycles of Python objects are collected in the UI thread alone.

CPython collects in whichever thread happens to allocate once too often. A cycle that holds a
widget or a signal would then be destroyed by a thread that reads the cache, while Qt still uses it
in the UI thread: a segmentation fault, seconds or days later.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer

EVERY_MS = 500


def collect_due() -> None:
    """What the automatic collection would do by now: by CPython's counts and thresholds."""
    for generation in (2, 1, 0):
        if gc.get_count()[generation] > gc.get_threshold()[generation]:
            gc.collect(generation)
            return


class GarbageTimer(QObject):
    """Between `start` and `stop` nothing but the thread of this object collects."""

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
