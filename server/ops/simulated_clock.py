"""A wall clock that runs faster, so that weeks of telemetry can be played in minutes.

Only telemetry reads it: deadlines, timeouts and latencies stay in real seconds.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SimulatedWall:
    """Unix seconds that begin at `start` and pass `speed` times as fast as those of the real
    clock."""

    start: float
    speed: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_began", self.clock())

    def __call__(self) -> float:
        return self.start + (self.clock() - self._began) * self.speed


def read(text: str) -> tuple[float, float]:
    """`2026-11-02T00:00Z,4000` as (unix seconds, speed). Raises ValueError."""
    start, _, speed = text.rpartition(",")
    moment = dt.datetime.fromisoformat(start)
    if moment.tzinfo is None:
        raise ValueError(f"{start} needs a time zone, e.g. a Z at its end")
    if not 1 <= float(speed) <= 1e6:
        raise ValueError(f"a speed of {speed}")
    return moment.timestamp(), float(speed)
