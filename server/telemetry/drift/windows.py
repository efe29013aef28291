"""The counts of the last hour, four hours and day, for every slice of one stamp.

The short window has twelve slots of five minutes. The longer windows consist of closed hours and
the running hour; one more closed hour would delay the detection of a lasting shift by an hour.
Times are unix seconds. A clock that jumps only empties windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.profile import Ints

SLOT_S = 300
HOUR_S = 3600
SLOTS = 12  # in the short window
CLOSED = (3, 23)  # closed hours in the middle and in the long window
HOURS = max(CLOSED)
SHORT_S, MIDDLE_S, LONG_S = SLOT_S * SLOTS, *(HOUR_S * (hours + 1) for hours in CLOSED)
WINDOWS = (SHORT_S, MIDDLE_S, LONG_S)

HourOf = Callable[[int], Mapping[str, Ints]]  # hour -> slice -> flat counts, from the store


class TrailingWindows:
    """`past` reads a closed hour from the store: at start, and when it leaves a window."""

    def __init__(self, cells: int, past: HourOf, signed: bool = False) -> None:
        """`signed`: added counts may be negative."""
        self._cells = cells
        self._past = past
        self._signed = signed
        self._slots: dict[str, dict[int, NDArray[np.integer[Any]]]] = {}
        self._running: dict[str, Ints] = {}
        self._closed: dict[int, dict[str, Ints]] = {hours: {} for hours in CLOSED}
        self._hour = -1  # index of the running hour

    def add(self, slice_name: str, at: float, counts: Ints) -> None:
        """Counts of rows that happened at `at`."""
        self.add_recent(slice_name, at, counts)
        hour = int(at // HOUR_S)
        if hour == self._hour:
            self._plus(self._running, slice_name, counts)
        for hours, closed in self._closed.items():
            if self._hour - hours <= hour < self._hour:
                self._plus(closed, slice_name, counts)

    def add_recent(self, slice_name: str, at: float, counts: Ints) -> None:
        """Like `add`, but only for the short window: the store has the counts of the others."""
        slots = self._slots.setdefault(slice_name, {})
        slot = int(at // SLOT_S)
        if slot not in slots:
            kind = np.int64 if self._signed else np.uint32
            slots[slot] = np.zeros(self._cells, dtype=kind)
        slots[slot] += counts.astype(slots[slot].dtype)

    def advance(self, now: float) -> None:
        """Moves the windows to `now`. Call it before `add` and before reading."""
        hour = int(now // HOUR_S)
        if hour == self._hour:
            return
        if self._hour >= 0 and hour == self._hour + 1:
            for hours, closed in self._closed.items():
                for name, counts in self._running.items():
                    self._plus(closed, name, counts)
                for name, counts in self._past(self._hour - hours).items():
                    self._plus(closed, name, -counts)
            self._running = {}
        else:
            self._reload(hour)
        self._hour = hour
        oldest = int(now // SLOT_S) - SLOTS
        for slots in self._slots.values():
            for slot in [s for s in slots if not oldest <= s <= oldest + SLOTS + 1]:
                del slots[slot]

    def _reload(self, hour: int) -> None:
        """Reads everything from the store: after a start or a jump of the clock."""
        self._closed, self._running = {hours: {} for hours in CLOSED}, {}
        for past in range(hour - HOURS, hour):
            for name, counts in self._past(past).items():
                for hours, closed in self._closed.items():
                    if past >= hour - hours:
                        self._plus(closed, name, counts)
        for name, counts in self._past(hour).items():
            self._plus(self._running, name, counts)

    def slices(self) -> list[str]:
        """The slices with rows in the long window; "" (all traffic) comes first."""
        return sorted({*self._running, *self._closed[HOURS], ""})

    def window(self, slice_name: str, now: float, seconds: int) -> Ints:
        """Flat counts of one of WINDOWS, up to `now`."""
        if seconds == SHORT_S:
            last = int(now // SLOT_S)
            return self.slot_sum(slice_name, last - SLOTS + 1, last)
        total = np.zeros(self._cells, dtype=np.int64)
        for part in (self._running, self._closed[seconds // HOUR_S - 1]):
            if slice_name in part:
                total += part[slice_name]
        return total if self._signed else np.maximum(total, 0)

    def slot_sum(self, slice_name: str, first: int, last: int) -> Ints:
        """Counts of the slots `first` to `last`, both included."""
        total = np.zeros(self._cells, dtype=np.int64)
        for slot, counts in self._slots.get(slice_name, {}).items():
            if first <= slot <= last:
                total += counts
        return total

    def _plus(self, into: dict[str, Ints], name: str, counts: Ints) -> None:
        if name not in into:
            into[name] = np.zeros(self._cells, dtype=np.int64)
        into[name] += counts
