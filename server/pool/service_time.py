"""What a row of each modality mix costs, learned from the rows answered, and from that how long a
new row would take. Used to refuse a deadline that cannot be met and to compute RetryInfo."""

from __future__ import annotations

from dataclasses import dataclass

from server.telemetry.outputs import Timing

WEIGHT = 0.1  # of the newest value in each running mean
ENOUGH_ROWS = 8  # before this many a mix is not judged
METER_S = 0.5  # shortest time over which the speed of the pool is taken


def own_work_ms(timing: Timing, batch_size: int) -> float:
    """What one row cost: its own stages, and its share of what was done for the whole batch."""
    shared_ms = (timing.forward_ms + timing.post_ms) / max(1, batch_size)
    return timing.decode_ms + timing.preprocess_ms + shared_ms


@dataclass(slots=True)
class _Mix:
    rows: int = 0
    work_s: float = 0.0  # its own share: a forward is divided by the rows in it
    alone_s: float = 0.0  # what its caller waits for, without the queue


class ServiceTime:
    def __init__(self) -> None:
        self._mixes: dict[str, _Mix] = {}
        self._all = _Mix()
        self._speed = 0.0  # seconds of work done in a second while there was a queue
        self._metered_s = 0.0
        self._meter_since: float | None = None

    def learn(self, mix: str, timing: Timing, batch_size: int) -> float:
        """Take in one answered row; returns its own work in seconds."""
        work_s = own_work_ms(timing, batch_size) / 1e3
        alone_s = (timing.total_ms - timing.queue_ms) / 1e3
        for entry in (self._mixes.setdefault(mix, _Mix()), self._all):
            entry.rows += 1
            weight = max(WEIGHT, 1 / entry.rows)
            entry.work_s += weight * (work_s - entry.work_s)
            entry.alone_s += weight * (alone_s - entry.alone_s)
        return work_s

    def meter(self, work_s: float, now: float, backlog: bool) -> None:
        """How fast the pool works off a queue; measures nothing while there is none."""
        if not backlog or self._meter_since is None:
            self._meter_since = now if backlog else None
            self._metered_s = 0.0
            return
        self._metered_s += work_s
        elapsed_s = now - self._meter_since
        if elapsed_s >= METER_S:
            speed = self._metered_s / elapsed_s
            self._speed += (WEIGHT if self._speed else 1.0) * (speed - self._speed)
            self._meter_since, self._metered_s = now, 0.0

    def wait_s(self, rows: int, replicas: int) -> float:
        """How long until a queue of so many rows, each an average one, is worked off."""
        return rows * self._all.work_s / (self._speed or max(1, replicas))

    def total_s(self, mix: str, rows_before: int, replicas: int) -> float | None:
        """Expected seconds from now to the answer; None while this mix is too little known."""
        entry = self._mixes.get(mix)
        if entry is None or entry.rows < ENOUGH_ROWS:
            return None
        return self.wait_s(rows_before, replicas) + entry.alone_s
