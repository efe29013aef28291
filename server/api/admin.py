"""trefoil.v1.Admin: changes what is served, and ends the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from proto import admin_pb2 as pb
from proto import inference_pb2
from server.api.observe_requests import text_within
from server.api.rehearsal_messages import event_of, replayed, wanted_of
from server.deploy.bundle_listing import bundle_message, list_bundles, roles
from server.deploy.deployment import Deployment
from server.deploy.strategy import SWAPS
from server.engine import Engine
from server.errors import DeployRefused
from server.pool.pool import Pool
from server.pool.readiness import SERVING
from server.rehearsal.service import RehearsalService
from server.request.actor import ACTOR
from server.request.caller import caller_of
from server.request.lazy_parse import message_of
from server.request.responses import stamp_message
from server.request.status import Refused, bad_input
from server.routing.progress import Step, Work, streamed
from server.types import Fault, ReplicaStatus

PROGRESS_S = 0.2
# Time for a replica to load and pass its probe; the restart continues when its caller leaves.
RESTART_S = 600.0
LONGEST_PATH = 4096  # most characters of a path, a stamp or a reason
CANARY_MINUTES = 30.0
DONE = ("ready", "canary", "canary rolled back")  # these steps, and every step with a switch

Request = TypeVar(
    "Request",
    pb.LoadRequest,
    pb.ActivateRequest,
    pb.RollbackRequest,
    pb.RehearseRequest,
    pb.DrainRequest,
    pb.RestartRequest,
    pb.ReplayRequest,
)


@dataclass(frozen=True, slots=True)
class Admin:
    """`leave` ends the server once it is drained; it must return at once."""

    engine: Engine
    deployment: Deployment | None
    grace_s: float
    leave: Callable[[], None]
    rehearsal_service: RehearsalService | None = None  # None when `deployment` is None

    async def Load(self, data: bytes, context: Any) -> AsyncIterator[pb.Progress]:
        _asked_by(context)
        request = _request(pb.LoadRequest, data)
        if request.swap not in ("", *SWAPS):
            message = f"{request.swap!r} is not a swap; give {' or '.join(SWAPS)}"
            raise Refused(bad_input("swap", "UNKNOWN_SWAP", message))
        deployment = self._deployment()
        if request.rollback:
            load: Work[Step] = partial(deployment.roll_back_cold, request.reason, request.swap)
        else:
            load = partial(deployment.load, request.path, request.swap, request.activate)
        try:
            async with aclosing(streamed(load)) as steps:
                async for step in steps:
                    yield _progress(step)
        except DeployRefused as refusal:
            raise _refused(refusal) from None

    async def Activate(self, data: bytes, context: Any) -> pb.Progress:
        _asked_by(context)
        request = _request(pb.ActivateRequest, data)
        share, minutes = request.canary_share, request.canary_minutes or CANARY_MINUTES
        if not 0 <= share < 1:
            raise Refused(bad_input("canary_share", "NOT_A_SHARE", f"{share} is not in [0, 1)"))
        if not 0 < minutes < float("inf"):
            raise Refused(
                bad_input(
                    "canary_minutes",
                    "NOT_A_TIME",
                    f"{minutes} minutes: give a finite number above 0",
                )
            )
        deployment = self._deployment()
        try:
            if share:
                begun = await deployment.start_canary(
                    request.stamp, share, minutes * 60, request.reason
                )
                return _progress(begun)
            return _progress(await deployment.activate(request.stamp, request.reason))
        except DeployRefused as refusal:
            raise _refused(refusal) from None

    async def Rollback(self, data: bytes, context: Any) -> pb.Progress:
        _asked_by(context)
        request = _request(pb.RollbackRequest, data)
        try:
            deployment = self._deployment()
            return _progress(await deployment.roll_back(request.reason, request.canary_only))
        except DeployRefused as refusal:
            raise _refused(refusal) from None

    async def Bundles(self, data: bytes, _context: Any) -> pb.BundlesResponse:
        message_of(pb.BundlesRequest, data)
        deployment = self._deployment()
        held = roles(deployment.pool_set)
        found = await asyncio.to_thread(list_bundles, deployment.store)
        response = pb.BundlesResponse()
        for one in found:
            message = response.bundles.add()
            message.CopyFrom(bundle_message(one))
            message.roles.extend(held.get(one.stored.stamp, ()))
        return response

    async def Rehearse(self, data: bytes, context: Any) -> AsyncIterator[pb.RehearseEvent]:
        _asked_by(context)
        request = _request(pb.RehearseRequest, data)
        wanted = wanted_of(request)
        self._deployment()
        assert self.rehearsal_service is not None  # there is a deployment
        try:
            rehearse = partial(self.rehearsal_service.rehearse, request.stamp, request.path, wanted)
            async with aclosing(streamed(rehearse)) as events:
                async for event in events:
                    yield event_of(event)
        except DeployRefused as refusal:
            raise _refused(refusal) from None

    def _deployment(self) -> Deployment:
        if self.deployment is None:
            message = "this server was started without a store for bundles"
            raise Refused(Fault("FAILED_PRECONDITION", "", "NO_STORE", message))
        return self.deployment

    async def Drain(self, data: bytes, context: Any) -> AsyncIterator[pb.Progress]:
        _asked_by(context)
        request = _request(pb.DrainRequest, data)
        if self.deployment is not None:
            self.deployment.record("drain", None, request.reason)
        draining = asyncio.create_task(self.engine.drain(request.grace_s or self.grace_s))
        # The drain continues when its caller disconnects.
        if request.exit:
            draining.add_done_callback(lambda _: self.leave())
        waiting = most = self._left()
        while not draining.done():
            most = max(most, waiting)
            done_share = 1 - waiting / most if most else 1.0
            yield self._progress("draining", done_share, f"{waiting} rows left")
            await asyncio.wait([draining], timeout=PROGRESS_S)
            waiting = self._left()
        await draining
        yield self._progress("drained", 1.0, "exiting" if request.exit else "not exiting")

    async def Restart(self, data: bytes, context: Any) -> AsyncIterator[pb.Progress]:
        _asked_by(context)
        request = _request(pb.RestartRequest, data)
        pool, index = self.engine.pool_set.active, request.replica
        before = now = _replica(pool, index)
        if before is None:
            message = f"there is no replica {index}: {pool.why_not()}"
            raise Refused(bad_input("replica", "NO_SUCH_REPLICA", message))
        why = f"restart asked for by {ACTOR.get()}: {request.reason}".rstrip(": ")
        if self.deployment is not None:
            self.deployment.record(
                "restart", None, f"replica {index}: {request.reason}".rstrip(": ")
            )
        grace_s = request.grace_s or self.grace_s
        ending = asyncio.create_task(pool.restart(index, grace_s, why))
        until = time.monotonic() + grace_s + RESTART_S
        while now is not None and time.monotonic() < until:
            if now.restarts > before.restarts and now.state in SERVING:
                yield self._progress("restarted", 1.0, f"replica {index} {now.state}")
                return
            yield self._progress(now.state, now.loading_fraction, f"replica {index}: {now.reason}")
            await asyncio.wait([ending], timeout=PROGRESS_S)
            await asyncio.sleep(PROGRESS_S if ending.done() else 0)
            now = _replica(pool, index)
        now_why = "its place went to another bundle" if now is None else now.reason
        reason = f"replica {index} does not serve again: {now_why}"
        raise Refused(Fault("FAILED_PRECONDITION", "", "NOT_SERVING", reason))

    async def Replay(self, data: bytes, context: Any) -> pb.ReplayResponse:
        _asked_by(context)
        request = _request(pb.ReplayRequest, data)
        text_within("prediction_id", request.prediction_id, needed=True)
        self._deployment()
        assert self.rehearsal_service is not None  # there is a deployment
        try:
            found = await self.rehearsal_service.replay(request.prediction_id, request.stamp)
        except DeployRefused as refusal:
            raise _refused(refusal) from None
        return replayed(*found)

    def _left(self) -> int:
        now = self.engine.snapshot()
        return now.queued + now.in_flight

    def _progress(self, step: str, fraction: float, detail: str) -> pb.Progress:
        return pb.Progress(
            step=step,
            fraction=fraction,
            detail=detail,
            done=step in ("drained", "restarted"),
            stamp=stamp_message(self.engine.facts),
        )


def _replica(pool: Pool, index: int) -> ReplicaStatus | None:
    """The status of a replica; None if the pool has no such replica, or has given up its place."""
    return next((replica for replica in pool.statuses() if replica.index == index), None)


def _request(kind: type[Request], data: bytes) -> Request:
    """Parse a request. Its strings may be no longer than a path."""
    request = message_of(kind, data)
    for name in ("path", "stamp", "reason", "swap", "prediction_id"):
        text_within(name, getattr(request, name, ""), longest=LONGEST_PATH)
    return request


def _asked_by(context: Any) -> None:
    """Set the actor: the authenticated identity, or else the name that the client sent."""
    if not ACTOR.get():
        ACTOR.set(caller_of(context).client)


def _progress(step: Step) -> pb.Progress:
    return pb.Progress(
        step=step.name,
        fraction=step.fraction,
        detail=step.detail,
        done=step.name in DONE or step.switch is not None,
        stamp=inference_pb2.Stamp(hex=step.stamp, name=step.stamp_name),
    )


def _refused(refusal: DeployRefused) -> Refused:
    reason = f"DEPLOY_{refusal.check.upper()}"
    return Refused(Fault("FAILED_PRECONDITION", "", reason, refusal.message))
