"""Whether to try again, where and when: pure, with the clock and the dice passed in.

Tried again is only what another moment or another server can answer: UNAVAILABLE, and
RESOURCE_EXHAUSTED after the time the server names. Never INVALID_ARGUMENT or FAILED_PRECONDITION:
the same request would be refused again. All attempts share one deadline.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from trefoil.errors import Overloaded, TrefoilError, Unavailable

# Callers who were told the same time must not come back at the same moment.
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` in all. Waits double from `first_s` to `longest_s`, and are drawn from their
    upper half."""

    attempts: int = 6
    first_s: float = 0.05
    longest_s: float = 2.0

    def wait_s(
        self,
        error: TrefoilError,
        attempt: int,
        elsewhere: bool,
        dice: Callable[[], float] = random.random,
    ) -> float | None:
        """How long to wait after this attempt (counted from 1) failed; None: not again.

        `elsewhere`: another server has not been asked yet, so there is nothing to wait for.
        """
        if not isinstance(error, (Unavailable, Overloaded)) or attempt >= self.attempts:
            return None
        if elsewhere:
            return 0.0
        if isinstance(error, Overloaded) and error.retry_after_s:
            return error.retry_after_s * (1 + SPREAD * dice())
        longest: float = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        return longest * (1 + dice()) / 2


@dataclass(frozen=True, slots=True)
class Deadline:
    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    @property
    def left_s(self) -> float:
        return max(self.at - self.clock(), 0.0)

    def allows(self, wait_s: float) -> bool:
        """Is there time left after waiting so long?"""
        return wait_s < self.left_s
