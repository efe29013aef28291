"""Decides whether to retry, where and when. Pure: the clock and the random draw are arguments.

Only errors that may pass with time or on another server are retried: UNAVAILABLE and
RESOURCE_EXHAUSTED, after the wait that the server names, if any. INVALID_ARGUMENT and
FAILED_PRECONDITION are never retried, because the same request would be refused again. All attempts
share one deadline.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from trefoil.errors import Overloaded, TrefoilError, Unavailable

# Callers that were given the same wait must not return at the same moment.
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The backoff doubles from `initial_backoff_s` to `max_backoff_s`; the wait is drawn from its
    upper half."""

    max_attempts: int = 6
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 2.0

    def wait_s(
        self,
        error: TrefoilError,
        attempt: int,
        elsewhere: bool,
        draw: Callable[[], float] = random.random,
    ) -> float | None:
        """How long to wait after attempt number `attempt` (from 1) failed; None: do not retry.

        `elsewhere`: another server has not been tried yet, so there is no reason to wait.
        """
        if not isinstance(error, (Unavailable, Overloaded)) or attempt >= self.max_attempts:
            return None
        if elsewhere:
            return 0.0
        if error.retry_after_s:
            return error.retry_after_s * (1 + SPREAD * draw())
        longest: float = min(self.max_backoff_s, self.initial_backoff_s * 2 ** (attempt - 1))
        return longest * (1 + draw()) / 2


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
        """Whether time is left after a wait of `wait_s`."""
        return wait_s < self.left_s
