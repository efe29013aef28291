"""The levels of the last ticks of every feature x slice x window. A shift that was flagged often
enough opens an alert; the alert closes after the shift was absent for long enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.scores import (
    CALM_OVERLAPPING,
    FALSE_DISCOVERIES,
    FALSE_DISCOVERIES_OVERLAPPING,
)

LOOKS = 4  # evaluations considered
NEEDED = 3  # number of them that must be flagged
SPACING_S = 3600  # between looks at the one-hour window, so that no two looks share a row
# Looks at a longer window share most rows at any spacing: waiting for more looks delays every alert
# and proves little.
LONG_SPACING_S = 1800

UNKNOWN = -1  # insufficient data: neither bad nor calm

Levels = NDArray[np.int8]
Bools = NDArray[np.bool_]


class Confirmation:
    """A ring of levels [features, windows] for each slice, with one entry a tick.

    A skipped tick repeats the tick before it for up to half an hour, then it is UNKNOWN. An open
    alert stays open until LOOKS hourly looks in a row are calm. An UNKNOWN level does not interrupt
    a calm run; it extends the run only if the caller marks it as calm.
    """

    def __init__(self, features: int, windows_s: Sequence[int], tick_s: float) -> None:
        spacings = [SPACING_S if w <= SPACING_S else LONG_SPACING_S for w in windows_s]
        self._every = [max(1, round(spacing_s / tick_s)) for spacing_s in spacings]
        self._hold = max(1, round(SPACING_S / tick_s)) // 2
        self._depth = max(1, round(SPACING_S / tick_s)) * (LOOKS - 1) + 1
        self._shape = (features, len(windows_s))
        self._ring: dict[str, Levels] = {}
        self._calm: dict[str, NDArray[np.int32]] = {}
        self._open: dict[str, Bools] = {}
        self._at = 0
        self._step = 1  # ticks the next note stands for
        self._tick_s, self._ticked = tick_s, -1

    def move_to(self, now: float) -> None:
        """Moves forward to the tick that contains `now` (unix seconds), if that is a new one."""
        tick = int(now // self._tick_s)
        if tick != self._ticked:
            self.advance(1 if self._ticked < 0 else max(1, tick - self._ticked))
            self._ticked = tick

    def advance(self, ticks: int = 1) -> None:
        """Moves forward by `ticks`; the next `note` is about the last one."""
        held = self._at if ticks - 1 <= self._hold else None
        for left in range(min(ticks, self._depth) - 1, -1, -1):
            self._at = (self._at + 1) % self._depth
            for ring in self._ring.values():
                ring[self._at] = ring[held] if left and held is not None else UNKNOWN
        self._step = ticks if held is not None else 1

    def note(self, slice_name: str, level: Levels, calm: Bools) -> None:
        """Notes the level of this tick (UNKNOWN, 0 ok, 1 warning, 2 high, 3 critical). `calm`:
        below the thresholds by the margin required to close an alert."""
        if slice_name not in self._ring:
            self._ring[slice_name] = np.full((self._depth, *self._shape), UNKNOWN, dtype=np.int8)
            self._calm[slice_name] = np.zeros(self._shape, dtype=np.int32)
            self._open[slice_name] = np.zeros(self._shape, dtype=bool)
        self._ring[slice_name][self._at] = level
        run = self._calm[slice_name]
        run = np.where(calm, run + self._step, np.where(level == UNKNOWN, run, 0))
        self._calm[slice_name] = run = run.astype(np.int32)
        still = self._open[slice_name] & (run < self._depth)
        self._open[slice_name] = still | (self.confirmed(slice_name) > 0)

    def confirmed(self, slice_name: str) -> Levels:
        """The level that NEEDED of the LOOKS reached; 0 if none."""
        ring = self._ring[slice_name]
        found: Levels = np.zeros(self._shape, dtype=np.int8)
        for window, every in enumerate(self._every):
            looks = [(self._at - k * every) % self._depth for k in range(LOOKS)]
            ordered = np.sort(ring[looks, :, window], axis=0)
            found[:, window] = np.maximum(ordered[LOOKS - NEEDED], 0)
        return found

    def open(self, slice_name: str) -> Bools:
        return self._open[slice_name]

    def slices(self) -> list[str]:
        return sorted(self._ring)

    def forget(self, slice_name: str) -> None:
        for kept in (self._ring, self._calm, self._open):
            kept.pop(slice_name, None)


def limits(window_s: int) -> tuple[float, float]:
    """(q below which a look at such a window is flagged, q from which it is calm)"""
    if window_s <= SPACING_S:
        return FALSE_DISCOVERIES, FALSE_DISCOVERIES
    return FALSE_DISCOVERIES_OVERLAPPING, CALM_OVERLAPPING
