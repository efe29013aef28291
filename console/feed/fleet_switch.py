"""Switches the whole fleet as one, all or nothing, as `server fleet` does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpc import aio

from console.feed import faults
from console.feed.peers import ActionRefused, Peer
from console.state import action_kinds
from console.state.domain import Action
from proto import admin_pb2


async def roll_back_all(peers: Sequence[Peer], action: Action) -> str:
    await _look_all(peers)
    targets = {peer.having("standby") for peer in peers}
    if any(peer.having("canary") for peer in peers):
        raise ActionRefused("a canary runs: end it on its server first")
    if len(targets) != 1 or "" in targets:
        rows = ", ".join(f"{p.label}: {p.having('standby')[:12] or 'none'}" for p in peers)
        raise ActionRefused(f"the servers do not keep one bundle warm: {rows}")
    request = admin_pb2.RollbackRequest(reason=action.note)
    return await _all_or_none(
        peers, targets.pop(), lambda peer: peer.call(peer.admin.Rollback, request)
    )


async def activate_all(peers: Sequence[Peer], action: Action) -> str:
    await _look_all(peers)
    stamp = action.target
    for peer in peers:
        ready = peer.roles.get(stamp, ())
        loaded = any(role.startswith(action_kinds.KINDS["activate"].bundles) for role in ready)
        if peer.stamp != stamp and not loaded:
            raise ActionRefused(f"{peer.label} has not loaded {stamp[:12]}; nothing has changed")
    request = admin_pb2.ActivateRequest(stamp=stamp, reason=action.note)
    asked = [peer for peer in peers if peer.stamp != stamp]
    return await _all_or_none(asked, stamp, lambda peer: peer.call(peer.admin.Activate, request))


async def _all_or_none(
    peers: Sequence[Peer], stamp: str, forth: Callable[[Peer], Awaitable[Any]]
) -> str:
    """Switch all servers. On a failure, those that switched go back to the bundle they served
    before."""
    before = {peer.address: peer.stamp for peer in peers}
    errors = await _each(peers, forth)
    # An answer may be lost, so look at what each server really serves.
    stuck = await _each(peers, Peer.look)
    failed = [p for p in peers if p.stamp != stamp or p.address in stuck]
    if not failed:
        return f"{stamp[:12]} on {len(peers)} servers"
    first = failed[0]
    cause = errors.get(first.address) or stuck.get(first.address) or "it did not switch"
    reason = f"fleet: {stamp[:12]} failed on {first.label}: {cause}"

    async def back(peer: Peer) -> Any:
        if peer.having("standby") == before[peer.address]:
            undo = admin_pb2.RollbackRequest(reason=reason)
            return await peer.call(peer.admin.Rollback, undo)
        again = admin_pb2.ActivateRequest(stamp=before[peer.address], reason=reason)
        return await peer.call(peer.admin.Activate, again)

    switched = [p for p in peers if p not in failed]
    left = await _each(switched, back)
    unknown = [p.label for p in peers if p.address in left or p.address in stuck]
    end = f"look at {', '.join(unknown)}" if unknown else "nothing has changed"
    raise ActionRefused(f"{reason}; {end}")


async def _look_all(peers: Sequence[Peer]) -> None:
    await asyncio.gather(*(peer.look() for peer in peers))


async def _each(peers: Sequence[Peer], call: Callable[[Peer], Awaitable[Any]]) -> dict[str, str]:
    """Address -> error, for the servers where the call failed."""

    async def one(peer: Peer) -> str:
        try:
            await call(peer)
        except aio.AioRpcError as error:
            return faults.phrase(error)
        return ""

    found = await asyncio.gather(*(one(peer) for peer in peers))
    return {p.address: error for p, error in zip(peers, found, strict=True) if error}
