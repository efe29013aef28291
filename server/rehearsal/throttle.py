"""Keeps a rehearsal out of the way of the serving pool, and decides when it must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from server import host
from server.engine import Engine
from server.pool.pool import Pool

# A row waits this long for the active pool's queue to empty, and is then sent. So a rehearsal ends
# on a full server too, at two rows a second at most.
GIVES_WAY_S = 0.5
LOOK_S = 0.02
GONE_S = 30.0  # after this long without a replica of the candidate, the rehearsal ends


class RehearsalEnded(Exception):
    """The bundle under rehearsal is no longer there; the message has the reason."""


class CandidateGone(Exception):
    """No replica of the candidate serves any more; the message has the reason."""


@dataclass(slots=True)
class Throttle:
    engine: Engine
    active: Pool
    candidate: Pool
    clock: Callable[[], float]
    _serving_at: float = field(init=False)
    _yielding: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._serving_at = self.clock()

    def check(self) -> None:
        """Raises RehearsalEnded or CandidateGone."""
        pool_set = self.engine.pool_set
        if pool_set.active is self.candidate:
            raise RehearsalEnded("it was activated meanwhile; rollback goes back")
        if pool_set.active is not self.active:
            raise RehearsalEnded("another bundle was activated meanwhile; rehearse against that")
        if self.candidate not in pool_set.pools:
            raise RehearsalEnded("it is not loaded any more: it was discarded meanwhile")
        if self.engine.snapshot().state == "DRAINING":
            raise RehearsalEnded("the server is draining")
        if pool_set.branch is not None and self._yielding:
            self.give_way(False)  # a canary has begun: callers now wait for this candidate
        if self.candidate.serving:
            self._serving_at = self.clock()
        elif self.clock() - self._serving_at > GONE_S:
            raise CandidateGone(f"no replica of it serves any more: {self.candidate.why_not()}")

    async def gap(self) -> None:
        """Wait until the active pool's queue is empty, or the wait has been long enough."""
        until = self.clock() + GIVES_WAY_S
        while self.active.waiting:
            if self.clock() >= until:
                return
            await asyncio.sleep(LOOK_S)

    async def quiet(self) -> bool:
        """Whether the active pool has nothing to do now, or soon."""
        until = self.clock() + GIVES_WAY_S
        while self.active.waiting or self.active.in_flight:
            if self.clock() >= until:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def busyness(self) -> tuple[int, int]:
        """(rows the active pool has answered, rows it holds)."""
        answered = sum(replica.answered for replica in self.active.statuses())
        return answered, self.active.in_flight

    def give_way(self, yielding: bool) -> None:
        """Lower the priority of the candidate's replicas below the active ones. Only for a
        candidate that serves no caller: a standby has sessions, and so has a canary."""
        pool_set = self.engine.pool_set
        if yielding and (pool_set.candidate is not self.candidate or pool_set.branch is not None):
            return
        self._yielding = yielding
        for replica in self.candidate.statuses():
            if replica.pid:
                host.give_way(replica.pid, yielding)
