"""Replaces a pool replica by replica, when two whole pools do not fit into memory.

The remaining replicas of the old pool and the new replicas serve side by side, with rows in
proportion to their numbers. One replica that is wrong or slow ends the roll, and the old replicas
come back.
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
    """Sends rows to pools; the PoolSet implements it."""

    async def admit(self, pool: Pool) -> None:
        """Raises DeployRefused for a pool whose bundle may not serve."""

    def split(self, pool: Pool, share: Callable[[], float]) -> None:
        """Send the pool a share of the rows."""

    def turn_to(self, pool: Pool) -> None:
        """Send the pool every row, and none to the other pool."""


class Rolling:
    """`surge`: one replica more than the pool has fits into memory, so each new one starts before
    the old one ends and the pool always has its full size."""

    def __init__(self, old: Pool, new: Pool, replicas: int, surge: bool, drain_s: float) -> None:
        self._old = old
        self._new = new
        self._replicas = replicas
        self._surge = surge
        self._drain_s = drain_s

    def share(self) -> float:
        """The share of the rows for the new pool."""
        new, old = self._new.serving, self._old.serving
        return new / (new + old) if new else 0.0

    async def run(self, routing: Routing, report: Report) -> None:
        """Raises DeployRefused with the evidence, once the old replicas serve again."""
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
        """End an old replica; before the last one ends, the old pool's queue is emptied."""
        if index == self._replicas - 1:
            routing.turn_to(self._new)
            await self._old.finish(self._drain_s, draining())
        await self._old.close(index, self._drain_s)

    async def _restore(self, routing: Routing) -> None:
        """New replicas end and old ones restart in turn, the newest first, so that some replica
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
        """Wait until the old replica has started, successfully or not; its pool handles the
        rest."""
        loop = asyncio.get_running_loop()
        until = loop.time() + RESTORED_WITHIN_S
        while loop.time() < until:
            replica = next(s for s in self._old.statuses() if s.index == index)
            if replica.state not in ("starting", "loading", "warming"):
                return
            await asyncio.sleep(LOOK_S)
