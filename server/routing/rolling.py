"""Replacing a pool replica by replica, where two whole pools do not fit into memory.

What is left of the old pool and what there is of the new one serve side by side, rows in proportion
to their replicas. One replica that is wrong or slow ends it, and the old ones come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from server.errors import DeployRefused, draining
from server.pool.pool import Pool
from server.routing.candidate_checks import LOOK_S, prove, step
from server.routing.progress import Report, Step

RESTORED_WITHIN_S = 900.0


class Routing(Protocol):
    """What sends rows to pools: the PoolSet."""

    async def admit(self, pool: Pool) -> None:
        """Raises DeployRefused for a pool whose bundle may not serve."""

    def split(self, pool: Pool, share: Callable[[], float]) -> None:
        """Send it a share of the rows."""

    def turn_to(self, pool: Pool) -> None:
        """Send it every row, and the other pool no more."""


class Rolling:
    """`surge`: one replica more than the pool has fits, so each new one comes before the old one
    goes and nothing is ever missing."""

    def __init__(self, old: Pool, new: Pool, replicas: int, surge: bool, drain_s: float) -> None:
        self._old = old
        self._new = new
        self._replicas = replicas
        self._surge = surge
        self._drain_s = drain_s

    def share(self) -> float:
        """Of the rows, for the new pool."""
        new, old = self._new.serving, self._old.serving
        return new / (new + old) if new else 0.0

    async def run(self, routing: Routing, report: Report) -> None:
        """Raises DeployRefused with the evidence once the old replicas serve again."""
        report(step("rolling", 0.0, self._new, self._how()))
        try:
            for index in range(self._replicas):
                if not self._surge:
                    await self._leave(index, routing)
                await prove(
                    self._new, self._start(index), self._beside, self._numbered(index, report)
                )
                if index == 0:
                    await routing.admit(self._new)
                    routing.split(self._new, self.share)
                if self._surge:
                    await self._leave(index, routing)
        except DeployRefused:
            await self._restore(routing)
            raise

    def _numbered(self, index: int, report: Report) -> Report:
        def numbered(one: Step) -> None:
            share = (index + one.fraction) / self._replicas
            report(replace(one, name=f"{one.name} {index + 1}", fraction=share))

        return numbered

    def _how(self) -> str:
        order = "each new one comes first" if self._surge else "each old one leaves first"
        return f"{self._replicas} replicas in turn, {order}"

    async def _start(self, index: int) -> None:
        if index == 0:
            await self._new.start(1)
        else:
            self._new.open(index)

    def _beside(self) -> Pool:
        return self._old if self._old.serving else self._new

    async def _leave(self, index: int, routing: Routing) -> None:
        """An old replica goes; before the last one does, the queue behind it is worked off."""
        if index == self._replicas - 1:
            routing.turn_to(self._new)
            await self._old.finish(self._drain_s, draining())
        await self._old.close(index, self._drain_s)

    async def _restore(self, routing: Routing) -> None:
        """New ones leave and old ones come back in turn, the newest first, so that some replica
        always serves."""
        kept = {replica.index for replica in self._old.statuses()}
        for index in reversed(range(self._replicas)):
            if index == 0:
                routing.turn_to(self._old)
                await self._new.finish(self._drain_s, draining())
            await self._new.close(index, self._drain_s)
            if index not in kept:
                self._old.open(index)
                await self._wait_for(index)
            if index and self._old.serving and self._new.serving:
                routing.turn_to(self._old)
                routing.split(self._new, self.share)

    async def _wait_for(self, index: int) -> None:
        """Until the old replica has come, well or not: what becomes of it then is its pool's."""
        loop = asyncio.get_running_loop()
        until = loop.time() + RESTORED_WITHIN_S
        while loop.time() < until:
            replica = next(s for s in self._old.statuses() if s.index == index)
            if replica.state not in ("starting", "loading", "warming"):
                return
            await asyncio.sleep(LOOK_S)
