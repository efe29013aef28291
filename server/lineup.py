"""Which pool serves: the active one, the one before it kept warm, and a candidate being proved.

A switch is one assignment on the event loop. Whoever holds a pool for a request keeps it to the
end, so no answer and no stream ever mixes two stamps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from server import host
from server.config import ServerConfig
from server.errors import DeployRefused, PoolRefused, draining
from server.pool import Pool
from server.types import Evidence, Facts, ReplicaStatus, Work

logger = logging.getLogger(__name__)

LOOK_S = 0.2
MOST_SESSIONS = 10_000
# A candidate may be slower than the active bundle by this much, both measured now: a probe beside
# live traffic is slow for either, so only their ratio says something about the bundle.
SLOWER = 1.5

Build = Callable[[ServerConfig], Pool]
# What else must hold of a proved candidate; raises DeployRefused.
Check = Callable[[Facts], Awaitable[None]]


async def _accept(_facts: Facts) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Step:
    """How far a load has come."""

    name: str
    fraction: float
    detail: str
    stamp: str = ""
    stamp_name: str = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """`took_s` is the time in which neither stamp could have been chosen."""

    stamp: str
    stamp_name: str
    from_stamp: str
    took_s: float


class Lineup:
    def __init__(
        self,
        config: ServerConfig,
        active: Pool,
        build: Build | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.active = active
        self.standby: Pool | None = None
        self.candidate: Pool | None = None
        self.check: Check = _accept
        self._config = config
        self._build = build
        self._clock = clock
        self._sessions: OrderedDict[str, Pool] = OrderedDict()
        self._retiring: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._loading = False

    @property
    def pools(self) -> tuple[Pool, ...]:
        return tuple(p for p in (self.active, self.standby, self.candidate) if p is not None)

    def pool_for(self, work: Work) -> Pool:
        """The active pool, unless the work is pinned to, or its session began on, the standby."""
        chosen = self.active
        old = self.standby
        if old is not None and old.serving and old.facts is not None:
            began_there = bool(work.session) and self._sessions.get(work.session) is old
            pinned = work.expected_stamps
            wanted = old.facts.stamp in pinned if pinned else began_there
            if wanted and not (pinned and _stamp(self.active) in pinned):
                chosen = old
        if work.session:
            self._sessions[work.session] = chosen
            self._sessions.move_to_end(work.session)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return chosen

    # ---- load ----------------------------------------------------------------------------------

    async def load(self, bundle: Path) -> AsyncGenerator[Step, None]:
        """Verify, warm and probe a bundle beside the active pool, step by step.

        Raises DeployRefused with the evidence; the active pool is untouched then.
        """
        if self._build is None or self._loading or self.candidate is not None:
            raise DeployRefused("load", "another bundle is being loaded or waits to be activated")
        self._loading = True
        pool = self._build(replace(self._config, bundle=bundle))
        try:
            async for step in self._prove(pool):
                yield step
            stamp = _stamp(pool)
            if stamp == _stamp(self.active):
                raise DeployRefused("load", f"stamp {stamp[:12]} is being served already")
            if pool.facts is not None:
                await self.check(pool.facts)
            self.candidate = pool
            yield self._step("ready", 1.0, pool, f"activate {stamp} to serve it")
        except BaseException:
            await self._stop(pool)
            raise
        finally:
            self._loading = False

    def discard(self) -> None:
        """Give up the candidate."""
        if self.candidate is not None:
            self._stop_later(self.candidate)
            self.candidate = None

    async def _prove(self, pool: Pool) -> AsyncGenerator[Step, None]:
        starting = asyncio.create_task(pool.start())
        try:
            while not starting.done() or _unjudged(pool):
                if starting.done() and starting.exception() is None:
                    self._check_alive(pool)
                self._give_way(pool)
                yield self._step("loading", _fraction(pool), pool, pool.why_not())
                await asyncio.wait([starting], timeout=LOOK_S)
                if starting.done():
                    await asyncio.sleep(LOOK_S)
            await starting
        except PoolRefused as refusal:
            raise DeployRefused(refusal.check, refusal.message) from None
        finally:
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
        yield self._step("proving", 1.0, pool, "golden answers and speed against the active bundle")
        await self._check_speed(pool)

    def _check_alive(self, pool: Pool) -> None:
        """A replica that was refused, died or answered wrongly ends the attempt."""
        for seat in pool.statuses():
            if seat.state in ("dead", "wrong") or seat.restarts:
                raise DeployRefused("probe", f"replica {seat.index} {seat.state}: {seat.reason}")

    async def _check_speed(self, pool: Pool) -> None:
        self._check_alive(pool)
        slow = [seat for seat in pool.statuses() if seat.state == "slow"]
        if not slow:
            return
        mixes = [e.mix for seat in slow for e in seat.evidence if e.p50_ms > e.limit_ms]
        now = await self.active.probe_now(tuple(dict.fromkeys(mixes)))
        for seat in slow:
            for evidence in seat.evidence:
                reason = slower(evidence, now)
                if reason:
                    raise DeployRefused("speed", f"replica {seat.index}, {reason}")

    def _give_way(self, pool: Pool) -> None:
        """Loading must not slow the answers of the active pool down."""
        for seat in pool.statuses():
            if seat.pid:
                host.give_way(seat.pid, seat.state in ("starting", "loading"))

    def _step(self, name: str, fraction: float, pool: Pool, detail: str) -> Step:
        facts = pool.facts
        stamp, title = (facts.stamp, facts.stamp_name) if facts else ("", "")
        return Step(name, fraction, detail, stamp, title)

    # ---- switch --------------------------------------------------------------------------------

    def activate(self, stamp: str) -> Switch:
        """Serve the candidate or standby with this stamp from now on. Raises DeployRefused."""
        ready = [p for p in (self.candidate, self.standby) if p is not None and p.facts is not None]
        chosen = next((p for p in ready if _stamp(p) == stamp), None)
        if chosen is None:
            known = ", ".join(_stamp(p)[:12] for p in ready) or "nothing"
            raise DeployRefused("activate", f"{stamp[:12]} is not loaded; {known} is")
        if not chosen.serving:
            raise DeployRefused(
                "activate", f"no replica of {stamp[:12]} serves: {chosen.why_not()}"
            )
        return self._switch(chosen)

    def roll_back(self) -> Switch:
        """Back to the standby; sessions of what is left move with it. Raises DeployRefused."""
        if self.standby is None:
            raise DeployRefused("rollback", "there is no bundle kept warm to go back to")
        self._sessions.clear()
        return self.activate(_stamp(self.standby))

    def _switch(self, chosen: Pool) -> Switch:
        began = time.perf_counter()
        old, self.active = self.active, chosen
        took_s = time.perf_counter() - began
        if self.candidate is chosen:
            self.candidate = None
        if self.standby is not None and self.standby is not chosen:
            self._stop_later(self.standby)
        self.standby = old
        if self._retiring is not None:
            self._retiring.cancel()
        self._retiring = asyncio.create_task(self._retire(old))
        facts = chosen.facts
        assert facts is not None
        return Switch(facts.stamp, facts.stamp_name, _stamp(old), took_s)

    async def _retire(self, pool: Pool) -> None:
        await asyncio.sleep(self._config.standby_s)
        if self.standby is pool:
            self.standby = None
            await pool.finish(self._config.drain_s, draining())
            await self._stop(pool)

    # ---- end -----------------------------------------------------------------------------------

    async def stop(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retiring
        await asyncio.gather(*(pool.stop() for pool in self.pools), *self._stopping)

    def _stop_later(self, pool: Pool) -> None:
        """A pool that is not wanted any more still answers what it holds."""
        task = asyncio.create_task(self._finish_and_stop(pool))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _finish_and_stop(self, pool: Pool) -> None:
        await pool.finish(self._config.drain_s, draining())
        await self._stop(pool)

    async def _stop(self, pool: Pool) -> None:
        for session in [s for s, p in self._sessions.items() if p is pool]:
            del self._sessions[session]
        await pool.stop()


def slower(candidate: Evidence, active: tuple[Evidence, ...]) -> str:
    """Why a slow mix is the bundle's fault and not the machine's; "" when it is not."""
    if candidate.p50_ms <= candidate.limit_ms:
        return ""
    beside = next((e.p50_ms for e in active if e.mix == candidate.mix), 0.0)
    if beside and candidate.p50_ms <= SLOWER * beside:
        return ""
    return (
        f"{candidate.mix}: median {candidate.p50_ms:.1f} ms, limit {candidate.limit_ms:.1f} ms, "
        f"the active bundle now {beside:.1f} ms"
    )


def _stamp(pool: Pool) -> str:
    return pool.facts.stamp if pool.facts else ""


def _unjudged(pool: Pool) -> bool:
    return any(s.state in ("starting", "loading", "warming") for s in pool.statuses())


def _fraction(pool: Pool) -> float:
    seats: tuple[ReplicaStatus, ...] = pool.statuses()
    return sum(seat.loading_fraction for seat in seats) / max(len(seats), 1)
