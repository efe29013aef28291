"""Sends a share of live traffic to a candidate too; its answers are discarded.

It sees a row only after its caller has been answered, so it can neither delay nor fail a request.
Rows that do not fit, or that arrive while the active pool has a queue, are dropped: a rehearsal
must not cost a caller time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from server.pool.pool import Pool
from server.rehearsal.submit import is_inconclusive, submit
from server.telemetry.sampler import uniform
from server.types import Outcome, Work

MOST_WAITING = 16
MOST_BYTES = 32 << 20
LOW = 2
WITHIN_S = 30.0  # limit for an answer of the candidate
LOOK_S = 0.05


@dataclass(eq=False)
class Shadow:
    """`on_pair` gets a live row, the answer its caller received, and the answer of the
    candidate."""

    share: float
    active: Pool
    candidate: Pool
    on_pair: Callable[[Work, Outcome, Outcome], None]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.answered = self.dropped = 0
        self._waiting: deque[tuple[Work, Outcome]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def offer(self, pool: Pool, work: Work, outcome: Outcome) -> None:
        """A row has been answered. Returns at once and never raises."""
        if pool is not self.active or work.task != "classify":
            return
        too_late = outcome.fault is not None and outcome.fault.code == "DEADLINE_EXCEEDED"
        if too_late or is_inconclusive(outcome):
            return
        # A separate draw from the one for kept payloads: otherwise all of those would be shadowed.
        if uniform(f"shadow {work.id}") >= self.share:
            return
        full = len(self._waiting) >= MOST_WAITING or self._bytes + len(work.example) > MOST_BYTES
        if full or self.active.waiting:
            self.dropped += 1
            return
        self._waiting.append((work, outcome))
        self._bytes += len(work.example)
        self._arrived.set()

    async def run(self) -> None:
        """A worker that submits waiting rows to the candidate, until it is cancelled."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            work, outcome = self._waiting.popleft()
            self._bytes -= len(work.example)
            if self.active.waiting:
                self.dropped += 1
                await asyncio.sleep(LOOK_S)
                continue
            again = replace(
                work,
                id=f"{work.id}-shadow",
                priority=LOW,
                deadline=self.clock() + WITHIN_S,
                session="",
                expected_stamps=frozenset(),
                keep_payload=False,
            )
            answer = await submit(self.candidate, again)
            if is_inconclusive(answer):
                self.dropped += 1
                continue
            self.answered += 1
            self.on_pair(work, outcome, answer)
