"""Waits between attempts: doubling, with full jitter, so that the consoles do not all reconnect to
a returning fleet at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Backoff:
    uniform: Callable[[float, float], float]
    first_s: float = 0.5
    most_s: float = 30.0
    healthy_s: float = 30.0

    def __post_init__(self) -> None:
        self.attempts = 0

    def wait_s(self) -> float:
        """Seconds before the next attempt: at least a tenth of the bound, or a server that refuses
        at once would be called in a tight loop."""
        bound = min(self.most_s, self.first_s * 2.0 ** min(self.attempts, 20))
        self.attempts += 1
        return self.uniform(bound / 10, bound)

    def lived(self, seconds: float) -> None:
        """Report that the last connection lasted this long; a healthy one resets the failures
        before it."""
        if seconds >= self.healthy_s:
            self.attempts = 0

    def reset(self) -> None:
        self.attempts = 0
