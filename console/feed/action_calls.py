"""Performs an operator's actions with the same calls as the command for each. No call is retried:
when an answer is lost, the action may already have been done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import grpc
from grpc import aio

from console.feed import address as reach
from console.feed import fleet_switch
from console.feed.peers import LONG_S, LONGEST_S, ActionRefused, Peer, refused
from console.state import action_kinds
from console.state.access import ConnectionAccess
from console.state.domain import Action
from console.state.sanitize import sanitized
from proto import admin_pb2, inference_pb2, observe_pb2

__all__ = ["ActionRefused", "Peer", "bundles", "perform"]
COLD = "has to be loaded"  # a server that keeps no bundle warm answers with this phrase


async def perform(action: Action, access: ConnectionAccess) -> tuple[str, str]:
    """(done | refused, the outcome as a sentence)."""
    kind = action_kinds.KINDS[action.kind]
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
        except ActionRefused as error:
            return "refused", sanitized(str(error), 400)
        except aio.AioRpcError as error:
            return "refused", refused(error, kind)
        except OSError as error:
            return "refused", sanitized(str(error), 300)


async def bundles(
    address: str,
    access: ConnectionAccess,
    actor: str,
    wanted: Sequence[str] = action_kinds.KINDS["activate"].bundles,
) -> list[tuple[str, str, str]]:
    """(stamp, name, roles) of the server's bundles with one of the `wanted` roles; "stored" means
    every bundle that is not serving. Raises ActionRefused, OSError."""
    async with reach.open_channel(address, access) as channel:
        peer = Peer(address, channel, reach.named(access, actor))
        try:
            listed = await peer.call(peer.admin.Bundles, admin_pb2.BundlesRequest())
        except aio.AioRpcError as error:
            raise ActionRefused(refused(error, action_kinds.KINDS["activate"])) from None
        found = []
        for one in listed.bundles:
            roles = [sanitized(role, 60) for role in one.roles]
            serves = any(role.startswith("serves") for role in roles)
            held = any(role.startswith(tuple(wanted)) for role in roles)
            if held or ("stored" in wanted and not serves):
                found.append((sanitized(one.stamp, 64), sanitized(one.name, 100), ", ".join(roles)))
        return found


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


async def _start_canary(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    stamp, share, minutes = action.target.split(action_kinds.LABEL)
    request = admin_pb2.ActivateRequest(
        stamp=stamp,
        canary_share=float(share),
        canary_minutes=float(minutes),
        reason=action.note,
    )
    return _serves(await peer.call(peer.admin.Activate, request))


async def _end_canary(peers: Sequence[Peer], action: Action) -> str:
    """End the canary. The server refuses when none runs: it may have ended between the look and the
    call."""
    (peer,) = peers
    request = admin_pb2.RollbackRequest(reason=action.note, canary_only=True)
    return _serves(await peer.call(peer.admin.Rollback, request))


async def _rehearse(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    request = admin_pb2.RehearseRequest(stamp=action.target, reason=action.note)
    done = await peer.last(peer.admin.Rehearse, request, LONGEST_S)
    if done is None or not done.verdict:
        raise ActionRefused("the server closed the call without a verdict")
    return f"{done.verdict}: {done.reason}"


async def _restart(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    request = admin_pb2.RestartRequest(replica=int(action.target), reason=action.note)
    done = await peer.last(peer.admin.Restart, request)
    if done is None or not done.done:
        raise ActionRefused("the replica does not serve yet: look at Server")
    return str(done.detail)


async def _drain(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    request = admin_pb2.DrainRequest(exit=True, reason=action.note)
    began = False
    try:
        async for _ in peer.admin.Drain(request, timeout=LONG_S, metadata=peer.metadata):
            began = True
    except aio.AioRpcError as error:
        # The server exits once it has drained, and that may end the call before its last message.
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
        raise ActionRefused(f"the check failed: {errors[0]}")
    if changed:
        return f"{len(changed)} items differ from what was loaded: {changed[0]}"
    return f"every byte of {len(replicas)} replicas is as it was loaded"


async def _feedback(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    identity, _, label = action.target.partition(action_kinds.LABEL)
    request = inference_pb2.FeedbackRequest()
    source = f"{action.actor}: {action.note}" if action.note else action.actor
    request.items.add(prediction_id=identity, label=label, source=source[:200])
    (result,) = (await peer.call(peer.inference.Feedback, request)).results
    if result.status not in ("joined", "corrected", "duplicate"):
        raise ActionRefused(f"{result.status} {result.fault.message}".strip())
    return f"{label}: {result.status}"


async def _replay(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    asked = observe_pb2.SamplesRequest(prediction_ids=[action.target], with_payload=True)
    samples = (await peer.call(peer.observe.Samples, asked)).samples
    if not samples or not samples[0].example:
        why = samples[0].no_example if samples else ""
        raise ActionRefused(why or "the server no longer keeps this payload")
    before = samples[0].row
    request = inference_pb2.PredictRequest()
    request.examples.add().ParseFromString(samples[0].example)
    (now,) = (await peer.call(peer.inference.Predict, request)).results
    answer = _answer(now)
    return (
        f"{_same(before.label, answer.label)}: {before.label} {before.confidence:.3f} then, "
        f"{answer.label} {answer.confidence:.3f} now (as {now.prediction_id})"
    )


async def _replay_against(peers: Sequence[Peer], action: Action) -> str:
    (peer,) = peers
    identity, _, stamp = action.target.partition(action_kinds.LABEL)
    request = admin_pb2.ReplayRequest(prediction_id=identity, stamp=stamp)
    found = await peer.call(peer.admin.Replay, request)
    before, now = found.before.prediction, _answer(found.now)
    was = f"{before.label} {before.confidence:.3f} by {found.before.stamp[:12]}"
    if found.before.WhichOneof("outcome") == "fault":
        was = f"{found.before.fault.code} by {found.before.stamp[:12]}"
    by = f"by {found.stamp.hex[:12]}"
    return f"{_same(before.label, now.label)}: {was}, {now.label} {now.confidence:.3f} {by}"


def _answer(result: inference_pb2.Result) -> inference_pb2.Prediction:
    if result.WhichOneof("outcome") == "fault":
        raise ActionRefused(f"{result.fault.code}: {result.fault.message}")
    return result.prediction


def _same(before: str, now: str) -> str:
    return "the same answer" if now == before else "ANOTHER ANSWER"


def _serves(done: admin_pb2.Progress | None) -> str:
    if done is None:
        raise ActionRefused("the server closed the call without an answer")
    return f"{done.step} {done.stamp.name} {done.detail}".strip()


_Work = Callable[[Sequence[Peer], Action], Awaitable[str]]
_ONE: dict[str, _Work] = {
    "rollback": _roll_back,
    "activate": _activate,
    "canary": _start_canary,
    "canary-end": _end_canary,
    "rehearse": _rehearse,
    "restart": _restart,
    "drain": _drain,
    "verify": _verify,
    "feedback": _feedback,
    "replay": _replay,
    "replay-against": _replay_against,
}
_FLEET: dict[str, _Work] = {
    "rollback": fleet_switch.roll_back_all,
    "activate": fleet_switch.activate_all,
}
