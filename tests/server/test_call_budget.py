"""Places for calls: what one host or one kind of call can take, and what no load can."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto import admin_pb2, admin_pb2_grpc, observe_pb2, observe_pb2_grpc
from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.call_budget import kind_of_call, shares_of
from server.api.health import HealthService
from server.api.listener import MOST_CALLS, Listener
from server.api.observe import LONGEST_INTERVAL_S, Watchers
from server.config import ServerConfig
from server.security.roles import ALLOWED
from tests.support.patience import patience
from tests.support.ruled_engine import ruled
from tests.support.running import IDENTITY, channel_to, idle_engine, listener, until
from trefoil.errors import Overloaded, Unavailable, error_of
from trefoil.retry_policy import RetryPolicy

WAIT = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text="wait")])])
HUM = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text="hum")])])


async def watched(channel: grpc.aio.Channel) -> Any:
    """The first answer of a Health.Watch that stays open, or its refusal."""
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    try:
        return call, await call.read()
    except grpc.aio.AioRpcError as error:
        return call, error


async def test_watchers_of_one_host_take_a_share_and_everybody_else_is_served() -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ruled())
        address = await stack.enter_async_context(listener(engine, max_watchers_peer=8))
        channels = [
            await stack.enter_async_context(
                channel_to(address, use_local_subchannel_pool=1, max_concurrent_streams=1000)
            )
            for _ in range(9)
        ]
        calls = [watched(channel) for channel in channels for _ in range(30)]
        found = await asyncio.gather(*calls)
        refused = [one for _, one in found if isinstance(one, grpc.aio.AioRpcError)]
        assert len(found) - len(refused) == 8
        errors = [error_of(one, address) for one in refused]
        assert {error.reason for error in errors} == {"TOO_MANY_CALLS"}
        assert all(isinstance(one, Overloaded) and one.retry_after_s > 0 for one in errors)
        channel = channels[0]
        check = health_pb2.HealthCheckRequest()
        assert (await health_pb2_grpc.HealthStub(channel).Check(check)).status == 1
        assert (await stubs.InferenceStub(channel).Predict(HUM)).results
        watch = observe_pb2_grpc.ObserveStub(channel).Watch(observe_pb2.WatchRequest(once=True))
        assert [event async for event in watch]
        drain = admin_pb2_grpc.AdminStub(channel).Drain(admin_pb2.DrainRequest(grace_s=1))
        assert [step async for step in drain][-1].done


async def test_a_refusal_that_waits_takes_no_place_from_others() -> None:
    config = replace(ServerConfig(), listen="127.0.0.1:0", max_watchers=3, max_watchers_peer=1)
    may_leave = asyncio.Event()
    async with ruled() as engine:
        running = Listener(engine, config, IDENTITY, leave=lambda: None)

        async def wait(_seconds: float) -> None:
            await may_leave.wait()

        running.pace.burst, running.pace.sleep = 0, wait
        async with channel_to(await running.start()) as channel:
            _, first = await watched(channel)
            refused = [asyncio.create_task(watched(channel)) for _ in range(5)]
            await until(lambda: running.pace.held == 5)
            assert first.status == 1 and running.budget.open["health-watch"] == 1
            may_leave.set()
            errors = [error_of(one, "") for _, one in await asyncio.gather(*refused)]
            assert {error.reason for error in errors} == {"TOO_MANY_CALLS"}
            await until(lambda: running.budget.open["health-watch"] == 1)
        await running.stop(0)


async def test_predictions_cannot_take_the_places_of_those_who_operate_the_server() -> None:
    async with ruled() as engine, listener(engine, max_calls=6, max_calls_peer=6) as address:
        async with channel_to(address) as channel:
            stub = stubs.InferenceStub(channel)
            waiting = [asyncio.ensure_future(stub.Predict(WAIT)) for _ in range(6)]
            await until(lambda: engine.at_work == 6)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Predict(HUM)
            error = error_of(caught.value, address)
            assert (error.reason, error.retry_after_s) == ("TOO_MANY_CALLS", 1.0)
            assert "6 calls in all" in error.message and len(engine.received) == 6
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
            once = observe_pb2.WatchRequest(once=True)
            assert [one async for one in observe_pb2_grpc.ObserveStub(channel).Watch(once)]
            engine.gate.open()
            await asyncio.gather(*waiting)
            for _ in range(12):  # every place is free again
                await stub.Predict(HUM)


async def test_a_cancelled_call_gives_its_place_back() -> None:
    async with ruled() as engine, listener(engine, max_calls=2, max_calls_peer=2) as address:
        async with channel_to(address) as channel:
            stub = stubs.InferenceStub(channel)
            for calls in (2, 4, 6):
                waiting = [stub.Predict(WAIT) for _ in range(2)]
                await until(lambda calls=calls: len(engine.received) == calls)  # type: ignore[misc]
                for call in waiting:
                    call.cancel()
                await until(lambda calls=calls: engine.counters.cancelled == calls)  # type: ignore[misc]
            engine.gate.open()
            assert (await stub.Predict(WAIT, timeout=patience(10.0))).results


def test_every_method_has_a_kind_and_all_places_together_fit() -> None:
    shares = shares_of(ServerConfig())
    assert {kind_of_call(method) for method in ALLOWED} == shares.keys()
    assert sum(share.in_all for share in shares.values()) < MOST_CALLS
    assert all(share.of_host < share.in_all for share in shares.values())


async def test_two_thousand_calls_at_once_are_served_or_refused_with_a_time() -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ruled())
        address = await stack.enter_async_context(
            listener(engine, max_calls_peer=1500, max_streams=500)
        )
        channels = [
            await stack.enter_async_context(channel_to(address, use_local_subchannel_pool=1))
            for _ in range(4)
        ]
        made = [stubs.InferenceStub(one).Predict(WAIT) for one in channels for _ in range(500)]
        answers = [asyncio.ensure_future(_ended(call)) for call in made]
        await until(lambda: engine.at_work == 1500, 60.0)
        engine.gate.open()
        found = await asyncio.gather(*answers)
    errors = [error_of(one, address) for one in found if isinstance(one, grpc.aio.AioRpcError)]
    assert {error.code for error in errors} <= {"RESOURCE_EXHAUSTED"}
    assert all(error.retry_after_s > 0 for error in errors)
    assert len(found) - len(errors) >= 1500


async def _ended(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


def test_a_call_that_a_server_cancelled_is_tried_again() -> None:
    nothing = grpc.aio.Metadata()
    cancelled = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "")
    error = error_of(cancelled, "a:1")
    assert isinstance(error, Unavailable) and not error.unreachable
    assert RetryPolicy().wait_s(error, 1, elsewhere=False) is not None


class Taking:
    def __init__(self) -> None:
        self.taken = 0

    def take(self) -> observe_pb2.ServerSnapshot:
        self.taken += 1
        return observe_pb2.ServerSnapshot()


def test_watchers_share_one_snapshot_and_the_turns_of_the_loop() -> None:
    now, taking = [10.0], Taking()
    watchers = Watchers(taking, lambda: now[0])  # type: ignore[arg-type]
    for _ in range(1000):
        watchers.snapshot("READY")
    assert taking.taken == 1
    watchers.snapshot("DRAINING")
    now[0] += 1.0
    watchers.snapshot("DRAINING")
    assert taking.taken == 3
    for watching in (1, 10, 32, 256, 1000):
        watchers.watching = watching
        assert watching / watchers.interval_s(0.001) <= 100
    assert watchers.interval_s(1e9) == LONGEST_INTERVAL_S


async def test_a_health_watch_ends_after_its_time() -> None:
    service = HealthService(idle_engine(), longest_watch_s=0.05)
    seen = [one async for one in service.Watch(b"", None)]
    assert len(seen) == 1
