"""The pools of a server: the active one, the previous one kept warm, and a candidate being proved.

A switch is one assignment on the event loop. A request keeps its pool to the end, so no answer and
no stream ever mixes two stamps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from server import host
from server.config import ServerConfig
from server.errors import DeployRefused, draining
from server.pool import memory
from server.pool.memory import Available
from server.pool.pool import Pool
from server.pool.readiness import Standing
from server.routing.canary import Canary
from server.routing.candidate_checks import prove, step
from server.routing.progress import Report, Step, Switch
from server.routing.rolling import Rolling
from server.routing.router import Branch, Router, stamp_of, switched
from server.types import Facts, Outcome, ReplicaStatus, Work

logger = logging.getLogger(__name__)

Build = Callable[[ServerConfig], Pool]
# A further check of a proved candidate; raises DeployRefused.
Check = Callable[[Facts], Awaitable[None]]


async def _accept(_facts: Facts) -> None:
    return None


@dataclass(eq=False)
class PoolSet:
    """`notes`: automatic choices, each with its reason."""

    config: ServerConfig
    active: Pool
    build: Build | None = None
    available: Available = host.available_bytes

    def __post_init__(self) -> None:
        self.standby: Pool | None = None
        self.candidate: Pool | None = None
        self.canary: Canary | None = None
        self.check: Check = _accept
        self.notes: dict[str, str] = {}
        self._router = Router()
        # Takes a share of the rows: a canary, or a pool that is rolling in.
        self.branch: Branch | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._loading = False
        self._ending = False

    @property
    def pools(self) -> tuple[Pool, ...]:
        second = self.branch.pool if self.branch is not None else None
        found = (self.active, self.standby, self.candidate, second)
        return tuple(dict.fromkeys(pool for pool in found if pool is not None))

    def pool_for(self, work: Work) -> Pool:
        """The pool that the work is pinned to or that its session began on; otherwise the active
        pool or, by its share, the canary or the pool that is rolling in."""
        return self._router.choose(work, self.active, self.standby, self.branch)

    def heard(self, pool: Pool, work: Work, outcome: Outcome) -> None:
        """A row has ended. Only rows placed by the draw are evidence about a canary."""
        canary, branch = self.canary, self.branch
        if canary is not None and branch is not None:
            drawn = branch.drawn(work)
            if drawn is not None and drawn == (pool is canary.pool):
                canary.analysis.ended(drawn, work, outcome)

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """The statuses of the serving replicas; while a pool rolls in, of both pools."""
        found = {one.index: one for pool in self._serving() for one in pool.statuses()}
        return tuple(found[index] for index in sorted(found))

    def standings(self) -> tuple[Standing, ...]:
        """The standings of the same replicas."""
        found = {one.index: one for pool in self._serving() for one in pool.standings()}
        return tuple(found[index] for index in sorted(found))

    def _serving(self) -> list[Pool]:
        if self.branch is not None and self.canary is None:
            return [self.active, self.branch.pool]
        return [self.active]

    def reasons(self) -> Mapping[str, str]:
        canary = self.canary
        return self.notes | ({"canary": canary.summary()} if canary is not None else {})

    async def begin_with(self, bundle: Path) -> None:
        """Serve this bundle first, after the intended one was refused."""
        assert self.build is not None
        await self.active.stop()
        self.active = self.build(replace(self.config, bundle=bundle))

    # ---- load ----------------------------------------------------------------------------------

    def misfit(self, bundle: Path) -> str:
        """Why a second whole pool does not fit beside what is loaded; "" if it does."""
        config = replace(self.config, bundle=bundle)
        return memory.misfit(config, config.warm_pool, self.available(), self.active.device_free())

    async def load(self, bundle: Path, report: Report) -> Step:
        """Verify, warm and probe a bundle beside the active pool; returns the step that it is
        ready.

        Raises DeployRefused with the evidence; then the active pool is unchanged.
        """
        pool = self._begin_load(bundle)
        async with AsyncExitStack() as failed:
            failed.callback(self._loaded)
            failed.push_async_callback(self._stop, pool)
            await prove(pool, pool.start(), lambda: self.active, self._while_open(report))
            await self.admit(pool)
            failed.pop_all()
        self._loaded()
        self.candidate = pool
        return step("ready", 1.0, pool, f"activate {stamp_of(pool)} to serve it")

    async def roll(self, bundle: Path, report: Report) -> Step:
        """Replace the active pool replica by replica. Meanwhile both stamps serve, each its own
        sessions. Raises DeployRefused with the evidence; then the old replicas serve again."""
        drain_s = self.config.drain_s
        if self.config.warm_pool < 2:
            raise DeployRefused("swap", "rolling needs --warm-pool 2: the others serve meanwhile")
        pool, old = self._begin_load(bundle), self.active
        async with AsyncExitStack() as failed:
            failed.callback(self._loaded)
            failed.push_async_callback(self._stop, pool)
            failed.callback(self._join)
            await self.retire_standby()
            rolling = Rolling(old, pool, self.config.warm_pool, self._fits_one_more(pool), drain_s)
            await rolling.run(self, report)
            failed.pop_all()
        self._loaded()
        self._stop_later(old)
        self.notes["standby"] = "none: it was replaced replica by replica"
        how = f"replica by replica, from {stamp_of(old)}"
        return replace(step("activated", 1.0, pool, how), switch=switched(pool, old, 0.0))

    def check_free(self) -> None:
        """Raises DeployRefused while no other bundle can be loaded."""
        self._check_open()
        if self.canary is not None:
            raise DeployRefused("load", "a canary is running: activate it or roll it back first")
        if self.build is None or self._loading:
            raise DeployRefused("load", "another bundle is being loaded")

    def _check_open(self) -> None:
        if self._ending:
            raise DeployRefused("drain", "this server is draining; load it after the restart")

    def _while_open(self, report: Report) -> Report:
        """Wrap `report` so that a load ends when the server drains."""

        def checked(one: Step) -> None:
            self._check_open()
            report(one)

        return checked

    def _begin_load(self, bundle: Path) -> Pool:
        self.check_free()
        assert self.build is not None
        self.discard()
        self._loading = True
        return self.build(replace(self.config, bundle=bundle))

    def _loaded(self) -> None:
        self._loading = False

    def _join(self) -> None:
        self.branch = None

    def _fits_one_more(self, pool: Pool) -> bool:
        return not memory.misfit(pool.config, 1, self.available(), self.active.device_free())

    async def admit(self, pool: Pool) -> None:
        """Raises DeployRefused for a bundle that already serves, or that the server's check
        refuses."""
        stamp = stamp_of(pool)
        if stamp == stamp_of(self.active):
            raise DeployRefused("load", f"stamp {stamp[:12]} is being served already")
        if pool.facts is not None:
            await self.check(pool.facts)

    def turn_to(self, pool: Pool) -> None:
        """Serve with only this pool; the sessions of the other one move to it."""
        old, self.active, self.branch = self.active, pool, None
        if old is not pool:
            self._router.forget(old)

    def split(self, pool: Pool, share: Callable[[], float]) -> None:
        """Give the pool a share of the work that is not bound to a pool yet."""
        self.branch = Branch(pool, share, self._router.sessions)

    def discard(self) -> asyncio.Task[None] | None:
        """Give up the candidate, and the canary with it; they have ended when the task is done."""
        pool, self.candidate, self.canary, self.branch = self.candidate, None, None, None
        if pool is None:
            return None
        self._router.forget(pool)
        return self._stop_later(pool)

    # ---- switch --------------------------------------------------------------------------------

    def activate(self, stamp: str) -> Switch:
        """Serve the candidate or standby with this stamp from now on. Raises DeployRefused."""
        chosen, canary = self._ready(stamp), self.canary
        if canary is not None and chosen is not canary.pool:
            message = (
                f"a canary of {stamp_of(canary.pool)[:12]} runs: activate that or roll it back"
            )
            raise DeployRefused("activate", message)
        return self._switch(chosen)

    def begin_canary(self, stamp: str, make: Callable[[Pool], Canary]) -> Canary:
        """Give a loaded stamp a share of the sessions. Raises DeployRefused."""
        if self.canary is not None:
            raise DeployRefused(
                "canary", f"{stamp_of(self.canary.pool)[:12]} already runs as a canary"
            )
        pool = self._ready(stamp)
        if pool is not self.candidate:
            raise DeployRefused(
                "canary", f"{stamp[:12]} is the standby: activate it, or load it again"
            )
        canary = self.canary = make(pool)
        self.split(pool, lambda: canary.share)
        return canary

    def roll_back(self) -> Switch:
        """Go back to the standby; sessions of the abandoned bundle move with it. Raises
        DeployRefused."""
        if self.standby is None:
            raise DeployRefused("rollback", "there is no bundle kept warm to go back to")
        switch = self.activate(stamp_of(self.standby))
        self.leave_sessions()
        return switch

    def leave_sessions(self) -> None:
        """Release the sessions of a bundle that is rolled back."""
        self._router.clear()

    def _ready(self, stamp: str) -> Pool:
        ready = [p for p in (self.candidate, self.standby) if p is not None and p.facts is not None]
        chosen = next((p for p in ready if stamp_of(p) == stamp), None)
        if chosen is None:
            if stamp == stamp_of(self.active):
                raise DeployRefused("activate", f"{stamp[:12]} is being served already")
            known = ", ".join(stamp_of(p)[:12] for p in ready) or "nothing"
            message = f"{stamp[:12]} is not loaded; {known} is (`server load BUNDLE` loads one)"
            raise DeployRefused("activate", message)
        if not chosen.serving:
            why = chosen.why_not()
            raise DeployRefused("activate", f"no replica of {stamp[:12]} serves: {why}")
        return chosen

    def _switch(self, chosen: Pool) -> Switch:
        began = time.perf_counter()
        old, self.active = self.active, chosen
        took_s = time.perf_counter() - began
        if self.branch is not None and self.branch.pool is chosen:
            self.canary = self.branch = None
        if self.candidate is chosen:
            self.candidate = None
        if self.standby is not None and self.standby is not chosen:
            self._stop_later(self.standby)
        self.standby = old
        if self._retiring is not None:
            self._retiring.cancel()
        keep_s, self.notes["standby"] = memory.standby_s(chosen.config, self.available())
        self._retiring = asyncio.create_task(self._retire(old, keep_s))
        return switched(chosen, old, took_s)

    async def retire_standby(self) -> None:
        """End the standby, because its memory is needed."""
        if self._retiring is not None:
            self._retiring.cancel()
        pool, self.standby = self.standby, None
        if pool is not None:
            await self._stop_later(pool)

    async def _retire(self, pool: Pool, keep_s: float) -> None:
        await asyncio.sleep(keep_s)
        if self.standby is pool:
            self.standby = None
            self._stop_later(pool)

    # ---- end -----------------------------------------------------------------------------------

    def end(self) -> None:
        """Load nothing more and end a running load. A roll continues, since both of its pools
        serve."""
        self._ending = True

    async def stop(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retiring
        await asyncio.gather(*(pool.stop() for pool in self.pools), *self._stopping)

    def _stop_later(self, pool: Pool) -> asyncio.Task[None]:
        """Stop a pool that is no longer needed after it has answered the rows that it holds."""
        task = asyncio.create_task(self._finish_and_stop(pool))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        return task

    async def _finish_and_stop(self, pool: Pool) -> None:
        await pool.finish(self.config.drain_s, draining())
        await self._stop(pool)

    async def _stop(self, pool: Pool) -> None:
        self._router.forget(pool)
        await pool.stop()
