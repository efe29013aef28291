"""What a row of each modality mix costs and how fast the pool works, learned from answered rows.

Cost is in seconds of a row's own work. Pure: no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from server.telemetry.outputs import Timing

WEIGHT = 0.1  # weight of the newest value in each running mean
ENOUGH_ROWS = 8  # with fewer rows, a mix counts as the average of all mixes
METER_S = 1.0  # seconds of work: the speed is that of about the last second of each replica


def own_work_ms(timing: Timing, batch_size: int) -> float:
    """The cost of one row: its own stages, and its share of the work for the whole batch."""
    shared_ms = (timing.forward_ms + timing.post_ms) / max(1, batch_size)
    return timing.decode_ms + timing.preprocess_ms + shared_ms


@dataclass(slots=True)
class _Mix:
    rows: int = 0
    work_s: float = 0.0  # its own share: a forward is divided by the rows in it


class ServiceTime:
    def __init__(self) -> None:
        self._mixes: dict[str, _Mix] = {}
        self._all = _Mix()
        self._done_s = 0.0  # work done, and ...
        self._busy_s = 0.0  # ... the time in which replicas had rows; older values count less
        self._busy = 0  # number of replicas that have rows
        self._looked = 0.0

    def learn(self, mix: str, timing: Timing, batch_size: int) -> None:
        """Take in one answered row."""
        work_s = own_work_ms(timing, batch_size) / 1e3
        for entry in (self._mixes.setdefault(mix, _Mix()), self._all):
            entry.rows += 1
            weight = max(WEIGHT, 1 / entry.rows)
            entry.work_s += weight * (work_s - entry.work_s)
        self._done_s += work_s

    def meter(self, now: float, busy: int) -> None:
        """Note how many replicas have rows from now on."""
        busy_s = self._busy * max(now - self._looked, 0.0)
        self._looked, self._busy = now, busy
        if busy_s:
            kept = exp(-busy_s / (METER_S * max(busy, 1)))
            self._done_s *= kept
            self._busy_s = self._busy_s * kept + busy_s

    @property
    def speed(self) -> float:
        """Seconds of work that one replica does in one second; 1 while nothing is known."""
        return self._done_s / self._busy_s if self._busy_s and self._done_s else 1.0

    def cost_s(self, mix: str) -> float | None:
        """The work of a row of this mix, in seconds; None while too little is known."""
        own = self._mixes.get(mix)
        known = own if own is not None and own.rows >= ENOUGH_ROWS else self._all
        return known.work_s if known.rows >= ENOUGH_ROWS else None
