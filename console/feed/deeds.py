"""Does what an operator asked for, each by the same calls as its command. Nothing is tried twice:
an answer that was lost may mean that it was done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from console.feed import address as reach
from console.feed import faults
from console.state import deeds
from console.state.access import ConnectionAccess
from console.state.domain import Action
from console.state.sanitize import sanitized
from proto import (  # fmt: skip
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    observe_pb2,
    observe_pb2_grpc,
)

CALL_S = 30.0
LONG_S = 600.0  # loading a bundle again, draining, hashing it
COLD = "has to be loaded"  # what a server answers that keeps no bundle warm
UNSURE = "no answer in time; it may have happened: look at the events of the server"


class DeedRefused(Exception):
    """Nothing happened, or all went back; the message is for the person who asked."""


@dataclass
class Peer:
    """One server that is asked. `roles` has what each stamp is there for."""

    address: str
    channel: aio.Channel
    metadata: tuple[tuple[str, str], ...]
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stamp: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        self.admin = admin_pb2_grpc.AdminStub(self.channel)  # type: ignore[no-untyped-call]
        self.observe = observe_pb2_grpc.ObserveStub(self.channel)  # type: ignore[no-untyped-call]
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)  # type: ignore[no-untyped-call]

    async def call(self, method: Any, request: Any, timeout_s: float = CALL_S) -> Any:
        return await method(request, timeout=timeout_s, metadata=self.metadata)

    async def last(self, method: Any, request: Any) -> Any:
        """Of a stream of progress the last message."""
        found = None
        async for message in method(request, timeout=LONG_S, metadata=self.metadata):
            found = message
        return found

    async def look(self) -> None:
        listed = await self.call(self.admin.Bundles, admin_pb2.BundlesRequest())
        self.roles = {one.stamp: tuple(one.roles) for one in listed.bundles}
        self.stamp = self.having("serves")
        if self.stamp and self.name:
            return
        stream = self.observe.Watch(
            observe_pb2.WatchRequest(once=True), timeout=CALL_S, metadata=self.metadata
        )
        async for message in stream:
            self.stamp = self.stamp or message.snapshot.stamp
            self.name = sanitized(message.snapshot.server, 100)

    def having(self, role: str) -> str:
        for stamp, roles in self.roles.items():
            if any(one.startswith(role) for one in roles):
                return stamp
        return ""


async def perform(action: Action, access: ConnectionAccess) -> tuple[str, str]:
    """(done | refused, the outcome as a sentence)."""
    deed = deeds.DEEDS[action.kind]
    async with AsyncExitStack() as stack:
        try:
            peers = [
                Peer(
                    address,
                    await stack.enter_async_context(reach.open_channel(address, access)),
                    reach.named(access, action.actor),
                )
                for address in action.server.split()
            ]
            work = _FLEET[action.kind] if len(peers) > 1 else _ONE[action.kind]
            return "done", sanitized(await work(peers, action), 400)
        except DeedRefused as error:
            return "refused", sanitized(str(error), 400)
        except aio.AioRpcError as error:
            return "refused", refused(error, deed)
        except OSError as error:
            return "refused", sanitized(str(error), 300)


async def bundles(address: str, access: ConnectionAccess, actor: str) -> list[tuple[str, str, str]]:
    """(stamp, name, roles) of what can be activated there. Raises DeedRefused, OSError."""
    async with reach.open_channel(address, access) as channel:
        peer = Peer(address, channel, reach.named(access, actor))
        try:
            listed = await peer.call(peer.admin.Bundles, admin_pb2.BundlesRequest())
        except aio.AioRpcError as error:
            raise DeedRefused(refused(error, deeds.DEEDS["activate"])) from None
        found = []
        for one in listed.bundles:
            roles = [sanitized(role, 60) for role in one.roles]
            if any(role.startswith(("loaded", "standby", "canary")) for role in roles):
                found.append((sanitized(one.stamp, 64), sanitized(one.name, 100), ", ".join(roles)))
        return found


def refused(error: aio.AioRpcError, deed: deeds.Deed) -> str:
    """Why, as a sentence; never gRPC's own text."""
    if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return deeds.refusal(deed, sanitized(str(error.details()), 200))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UNSURE
    return faults.phrase(error)


# ---- one server ------------------------------------------------------------------------------


async def _roll_back(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    try:
        request = admin_pb2.RollbackRequest(reason=action.note)
        done = await peer.call(peer.admin.Rollback, request)
    except aio.AioRpcError as error:
        if COLD not in str(error.details()):
            raise
        load = admin_pb2.LoadRequest(rollback=True, reason=action.note)
        done = await peer.last(peer.admin.Load, load)
    return _serves(done)


async def _activate(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    request = admin_pb2.ActivateRequest(stamp=action.target, reason=action.note)
    return _serves(await peer.call(peer.admin.Activate, request))


async def _drain(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    request = admin_pb2.DrainRequest(exit=True, reason=action.note)
    began = False
    try:
        async for _ in peer.admin.Drain(request, timeout=LONG_S, metadata=peer.metadata):
            began = True
    except aio.AioRpcError as error:
        # It exits when it has drained, and that may end the call before its last message.
        if not began or error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    return "it has left"


async def _verify(peers: Sequence[Peer], _: Action) -> str:
    (peer,) = peers
    event = await peer.call(peer.observe.Verify, observe_pb2.VerifyRequest(), LONG_S)
    replicas = event.snapshot.replicas
    changed = [item.message for replica in replicas for item in replica.self_check.changed]
    errors = [replica.self_check.error for replica in replicas if replica.self_check.error]
    if errors:
        raise DeedRefused(f"the check failed: {errors[0]}")
    if changed:
        return f"{len(changed)} items differ from what was loaded: {changed[0]}"
    return f"every byte of {len(replicas)} replicas is as it was loaded"


async def _feedback(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    identity, _, label = action.target.partition(deeds.LABEL)
    request = inference_pb2.FeedbackRequest()
    source = f"{action.actor}: {action.note}" if action.note else action.actor
    request.items.add(prediction_id=identity, label=label, source=source[:200])
    (result,) = (await peer.call(peer.inference.Feedback, request)).results
    if result.status not in ("joined", "corrected", "duplicate"):
        raise DeedRefused(f"{result.status} {result.fault.message}".strip())
    return f"{label}: {result.status}"


async def _replay(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    asked = observe_pb2.SamplesRequest(prediction_ids=[action.target], with_payload=True)
    samples = (await peer.call(peer.observe.Samples, asked)).samples
    if not samples or not samples[0].example:
        why = samples[0].no_example if samples else ""
        raise DeedRefused(why or "the server no longer keeps this payload")
    before = samples[0].row
    request = inference_pb2.PredictRequest()
    request.examples.add().ParseFromString(samples[0].example)
    (now,) = (await peer.call(peer.inference.Predict, request)).results
    if now.WhichOneof("outcome") == "fault":
        raise DeedRefused(f"{now.fault.code}: {now.fault.message}")
    label, confidence = now.prediction.label, now.prediction.confidence
    same = "the same answer" if label == before.label else "ANOTHER ANSWER"
    return (
        f"{same}: {before.label} {before.confidence:.3f} then, {label} {confidence:.3f} now "
        f"(as {now.prediction_id})"
    )


def _serves(done: admin_pb2.Progress | None) -> str:
    if done is None:
        raise DeedRefused("the server closed the call without an answer")
    return f"{done.step} {done.stamp.name} {done.detail}".strip()


# ---- the fleet -------------------------------------------------------------------------------


async def _roll_back_all(peers: Sequence[Peer], action: Action) -> str:
    await _look_all(peers)
    targets = {peer.having("standby") for peer in peers}
    if any(peer.having("canary") for peer in peers):
        raise DeedRefused("a canary runs: end it on its server first")
    if len(targets) != 1 or "" in targets:
        rows = ", ".join(f"{_label(p)}: {p.having('standby')[:12] or 'none'}" for p in peers)
        raise DeedRefused(f"the servers do not keep one bundle warm: {rows}")
    request = admin_pb2.RollbackRequest(reason=action.note)
    return await _all_or_none(
        peers, targets.pop(), lambda peer: peer.call(peer.admin.Rollback, request)
    )


async def _activate_all(peers: Sequence[Peer], action: Action) -> str:
    await _look_all(peers)
    stamp = action.target
    for peer in peers:
        ready = peer.roles.get(stamp, ())
        loaded = any(role.startswith(("loaded", "standby", "canary")) for role in ready)
        if peer.stamp != stamp and not loaded:
            raise DeedRefused(f"{_label(peer)} has not loaded {stamp[:12]}; nothing has changed")
    request = admin_pb2.ActivateRequest(stamp=stamp, reason=action.note)
    asked = [peer for peer in peers if peer.stamp != stamp]
    return await _all_or_none(asked, stamp, lambda peer: peer.call(peer.admin.Activate, request))


async def _all_or_none(
    peers: Sequence[Peer], stamp: str, forth: Callable[[Peer], Awaitable[Any]]
) -> str:
    """Switch all; on a failure those that switched go back to what each served before."""
    before = {peer.address: peer.stamp for peer in peers}
    errors = await _each(peers, forth)
    stuck = await _each(peers, Peer.look)  # an answer may be lost, a switch may not be
    failed = [p for p in peers if p.stamp != stamp or p.address in stuck]
    if not failed:
        return f"{stamp[:12]} on {len(peers)} servers"
    first = failed[0]
    cause = errors.get(first.address) or stuck.get(first.address) or "it did not switch"
    reason = f"fleet: {stamp[:12]} failed on {_label(first)}: {cause}"

    async def back(peer: Peer) -> Any:
        if peer.having("standby") == before[peer.address]:
            undo = admin_pb2.RollbackRequest(reason=reason)
            return await peer.call(peer.admin.Rollback, undo)
        again = admin_pb2.ActivateRequest(stamp=before[peer.address], reason=reason)
        return await peer.call(peer.admin.Activate, again)

    switched = [p for p in peers if p not in failed]
    left = await _each(switched, back)
    unknown = [_label(p) for p in peers if p.address in left or p.address in stuck]
    end = f"look at {', '.join(unknown)}" if unknown else "nothing has changed"
    raise DeedRefused(f"{reason}; {end}")


async def _look_all(peers: Sequence[Peer]) -> None:
    await asyncio.gather(*(peer.look() for peer in peers))


async def _each(peers: Sequence[Peer], call: Callable[[Peer], Awaitable[Any]]) -> dict[str, str]:
    """Address -> what went wrong, of those where something did."""

    async def one(peer: Peer) -> str:
        try:
            await call(peer)
        except aio.AioRpcError as error:
            return faults.phrase(error)
        return ""

    found = await asyncio.gather(*(one(peer) for peer in peers))
    return {p.address: error for p, error in zip(peers, found, strict=True) if error}


def _label(peer: Peer) -> str:
    return peer.name or peer.address


_Work = Callable[[Sequence[Peer], Action], Awaitable[str]]
_ONE: dict[str, _Work] = {
    "rollback": _roll_back,
    "activate": _activate,
    "drain": _drain,
    "verify": _verify,
    "feedback": _feedback,
    "replay": _replay,
}
_FLEET: dict[str, _Work] = {"rollback": _roll_back_all, "activate": _activate_all}
