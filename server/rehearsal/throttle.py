"""How a rehearsal keeps out of the way of what serves, and when it has to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from server import host
from server.engine import Engine
from server.pool.pool import Pool

# A row waits so long for the active pool to be done with its queue, and then goes: a rehearsal ends
# on a full server too, asking two rows a second at most.
GIVES_WAY_S = 0.5
LOOK_S = 0.02
GONE_S = 30.0  # without a replica of the candidate for so long, it is over


class RehearsalEnded(Exception):
    """What was rehearsed is not there any more: why."""


class CandidateGone(Exception):
    """No replica of it serves any more: why."""


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
            self.give_way(False)  # a canary has begun: callers wait for it now
        if self.candidate.serving:
            self._serving_at = self.clock()
        elif self.clock() - self._serving_at > GONE_S:
            raise CandidateGone(f"no replica of it serves any more: {self.candidate.why_not()}")

    async def gap(self) -> None:
        """Until nothing waits for the active pool, or it has been waited for long enough."""
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
        """Rows the active pool has answered, and those it holds."""
        answered = sum(replica.answered for replica in self.active.statuses())
        return answered, self.active.in_flight

    def give_way(self, yielding: bool) -> None:
        """Let the candidate's replicas run behind the active ones. Only those of a candidate that
        nobody waits for: a standby has sessions, and so has a canary."""
        pool_set = self.engine.pool_set
        if yielding and (pool_set.candidate is not self.candidate or pool_set.branch is not None):
            return
        self._yielding = yielding
        for replica in self.candidate.statuses():
            if replica.pid:
                host.give_way(replica.pid, yielding)
