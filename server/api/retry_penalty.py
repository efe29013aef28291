"""Slows a caller that ignores RetryInfo: when it retries too early, its refusal is held until the
time RetryInfo gave. Immediate refusals would be answered by immediate retries, and the refusals
alone would use up the capacity they protect."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable


class RetryPenalty:
    """Remembers, per peer connection, when its RetryInfo allows the next call.

    # Invariant: at most `peers` entries and at most `held` sleeping refusals, so that the penalty
    itself cannot be filled up; beyond that a refusal is immediate again.
    """

    def __init__(
        self,
        longest_s: float = 1.0,
        peers: int = 4096,
        held: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._longest_s = longest_s
        self._peers = peers
        self._most_held = held
        self._clock = clock
        self._sleep = sleep
        self._until: OrderedDict[str, float] = OrderedDict()
        self.held = 0

    async def refuse(self, peer: str, retry_after_s: float, remaining_s: float | None) -> None:
        """Return when this refusal may be sent: at once for a peer's first, later for the next.

        `remaining_s` is what the caller's deadline leaves; at most half of it is spent here, so
        that the caller reads the reason and not DEADLINE_EXCEEDED.
        """
        now = self._clock()
        wait_s = min(self._until.get(peer, now) - now, self._longest_s)
        if remaining_s is not None:
            wait_s = min(wait_s, remaining_s / 2)
        self._remember(peer, now + max(wait_s, 0.0) + retry_after_s)
        if wait_s <= 0 or self.held >= self._most_held:
            return
        self.held += 1
        try:
            await self._sleep(wait_s)
        finally:
            self.held -= 1

    def _remember(self, peer: str, until: float) -> None:
        self._until[peer] = max(until, self._until.pop(peer, until))
        while len(self._until) > self._peers:
            self._until.popitem(last=False)
