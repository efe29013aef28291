"""Proves that a candidate is right and fast enough, beside the serving pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from server import host
from server.errors import DeployRefused, PoolRefused
from server.pool.pool import Pool
from server.routing.progress import Report, Step
from server.types import Evidence, ReplicaStatus

LOOK_S = 0.2
# A candidate may be slower than the active bundle by this factor, both measured now. With live
# traffic a probe is slow for either bundle, so only their ratio describes the candidate.
SLOWER = 1.5


async def prove(
    pool: Pool, start: Coroutine[Any, Any, None], beside: Callable[[], Pool], report: Report
) -> None:
    """Runs `start` and waits until every replica that it started has been judged.

    Raises DeployRefused with the evidence. `beside` is the pool for the comparison of speed.
    """
    starting = asyncio.create_task(start)
    try:
        while not starting.done() or _unjudged(pool):
            if starting.done() and starting.exception() is None:
                _check_alive(pool)
            _give_way(pool)
            report(step("loading", _fraction(pool), pool, pool.why_not()))
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
    report(step("proving", 1.0, pool, "golden answers and speed against the active bundle"))
    await _check_speed(pool, beside())


def step(name: str, fraction: float, pool: Pool, detail: str) -> Step:
    facts = pool.facts
    stamp, title = (facts.stamp, facts.stamp_name) if facts else ("", "")
    return Step(name, fraction, detail, stamp, title)


def slower(candidate: Evidence, active: tuple[Evidence, ...]) -> str:
    """Why a slow mix is caused by the bundle and not by the machine; "" if it is not."""
    if candidate.p50_ms <= candidate.limit_ms:
        return ""
    beside = next((e.p50_ms for e in active if e.mix == candidate.mix), 0.0)
    if beside and candidate.p50_ms <= SLOWER * beside:
        return ""
    return (
        f"{candidate.mix}: median {candidate.p50_ms:.1f} ms, limit {candidate.limit_ms:.1f} ms, "
        f"the active bundle now {beside:.1f} ms"
    )


def _check_alive(pool: Pool) -> None:
    """Raises if a replica was refused, died or answered wrongly: that ends the attempt."""
    for replica in pool.statuses():
        if replica.state == "wrong":
            raise DeployRefused("probe", f"replica {replica.index} wrong: {replica.reason}")
        if replica.state == "dead" or replica.restarts:
            raise DeployRefused("probe", pool.last_death)


async def _check_speed(pool: Pool, beside: Pool) -> None:
    _check_alive(pool)
    slow = [replica for replica in pool.statuses() if replica.state == "slow"]
    if not slow:
        return
    mixes = [e.mix for replica in slow for e in replica.evidence if e.p50_ms > e.limit_ms]
    now = await beside.probe_now(tuple(dict.fromkeys(mixes)))
    for replica in slow:
        for evidence in replica.evidence:
            reason = slower(evidence, now)
            if reason:
                raise DeployRefused("speed", f"replica {replica.index}, {reason}")


def _give_way(pool: Pool) -> None:
    """Lower the priority of the loading replicas: they must not slow down the answers of the active
    pool."""
    for replica in pool.statuses():
        if replica.pid:
            host.give_way(replica.pid, replica.state in ("starting", "loading"))


def _unjudged(pool: Pool) -> bool:
    return any(s.state in ("starting", "loading", "warming") for s in pool.statuses())


def _fraction(pool: Pool) -> float:
    replicas: tuple[ReplicaStatus, ...] = pool.statuses()
    return sum(replica.loading_fraction for replica in replicas) / max(len(replicas), 1)
