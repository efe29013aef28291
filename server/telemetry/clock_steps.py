"""Notices when the wall clock was moved: it went further, or less far, than time that passed."""

from __future__ import annotations

from dataclasses import dataclass, field

LARGE_S = 3600.0


@dataclass(slots=True)
class ClockSteps:
    """`speed`: unix seconds that pass in one of the monotonic clock, for a simulated clock."""

    speed: float = 1.0
    _seen: tuple[float, float] | None = field(default=None, init=False)

    def step(self, now: float, monotonic: float) -> float:
        """By how many seconds the clock was moved since the last look; 0.0 when by less than an
        hour, which is no matter to anything that is counted in days."""
        before, self._seen = self._seen, (now, monotonic)
        if before is None:
            return 0.0
        moved = now - before[0] - (monotonic - before[1]) * self.speed
        return moved if abs(moved) >= LARGE_S else 0.0
