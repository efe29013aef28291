"""grpc.health.v1, Observe.Watch and Admin.Drain over real gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from proto import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    observe_pb2,
    observe_pb2_grpc,
)
from server.main import main
from tests.support.ruled_engine import ONE_PLACE, Rows, RuledEngine, fill, ruled, served
from tests.support.running import channel_to, idle_engine, listener, until
from tests.support.stub_replica import STAMP, work

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ask(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def reach(engine: RuledEngine, state: str) -> Rows:
    """Bring an engine to this state by what brings it there. The rows that keep it there."""
    rows = await fill(engine) if state == "DEGRADED" else []
    if state == "NOT_READY":
        engine.why_withheld = lambda: "another stamp is expected"
    if state == "DRAINING":
        engine.leave()
    await until(lambda: engine.snapshot().state == state)
    return rows


@pytest.mark.parametrize(
    ("state", "startup", "ready"),
    [
        ("STARTING", NOT_SERVING, NOT_SERVING),
        ("READY", SERVING, SERVING),
        ("DEGRADED", SERVING, SERVING),
        ("NOT_READY", SERVING, NOT_SERVING),
        ("DRAINING", SERVING, NOT_SERVING),
    ],
)
async def test_health_follows_the_engine(state: str, startup: int, ready: int) -> None:
    async with (
        ruled(ONE_PLACE, hold_load=state == "STARTING", rows=1) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        rows = await reach(engine, state)
        stub = health_pb2_grpc.HealthStub(channel)
        found = {
            name: (await stub.Check(ask(name))).status
            for name in ("", "trefoil.live", "trefoil.startup", "trefoil.ready")
        }
        listed = await stub.List(health_pb2.HealthListRequest())
        assert not any(row.done() for row in rows) and engine.snapshot().state == state
    assert found == {
        "": ready,
        "trefoil.live": SERVING,
        "trefoil.startup": startup,
        "trefoil.ready": ready,
    }
    assert {name: one.status for name, one in listed.statuses.items()} == found


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(ask("other"))
        watched = await stub.Watch(ask("other")).read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert watched.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_health_watch_tells_each_change_once() -> None:
    async with (
        ruled(ONE_PLACE, rows=1) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        call = health_pb2_grpc.HealthStub(channel).Watch(ask("trefoil.ready"))
        assert (await call.read()).status == SERVING
        rows = await reach(engine, "DEGRADED")  # still serving: nothing to report
        await asyncio.sleep(0.05)
        engine.why_withheld = lambda: "another stamp is expected"
        assert (await call.read()).status == NOT_SERVING
        engine.why_withheld = lambda: ""
        assert (await call.read()).status == SERVING
        assert not any(row.done() for row in rows)
        call.cancel()


async def test_watch_gives_the_whole_state_once_and_closes() -> None:
    async with served() as (engine, channel):
        for number in range(3):
            await engine.predict(work(str(number), "hum", expected_stamps=frozenset({"cd" * 32})))
        call = observe_pb2_grpc.ObserveStub(channel).Watch(observe_pb2.WatchRequest(once=True))
        (event,) = [event async for event in call]
    snapshot = event.snapshot
    assert (event.instance, snapshot.server, snapshot.stamp) == ("instance-1", "press-7", STAMP)
    assert snapshot.state == observe_pb2.READY
    assert [one.mix for one in snapshot.replicas[0].evidence] == ["image", "text"]
    assert (snapshot.pins[0].stamp, snapshot.pins[0].refused) == ("cd" * 32, 3)
    assert snapshot.rss_bytes > 1 << 20
    assert {limit.name for limit in snapshot.limits} == {"max_parts", "image_pixels"}


async def test_watch_tells_a_change_of_state_at_once() -> None:
    async with served() as (engine, channel):
        slow = observe_pb2.WatchRequest(interval_s=60)
        call = observe_pb2_grpc.ObserveStub(channel).Watch(slow)
        first = await call.read()
        engine.why_withheld = lambda: "another stamp is expected"
        second = await call.read()
        call.cancel()
    assert first.snapshot.state == observe_pb2.READY
    assert second.snapshot.reason == "another stamp is expected"


async def test_rows_refused_at_arrival_are_counted() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        row = inference_pb2.Example()
        await stub.Predict(inference_pb2.PredictRequest(examples=[row, row]))
        call = observe_pb2_grpc.ObserveStub(channel).Watch(observe_pb2.WatchRequest(once=True))
        snapshot = (await call.read()).snapshot
    assert (snapshot.requests, snapshot.refused) == (2, 2)


class Draining(RuledEngine):
    grace_s = 0.0

    async def drain(self, grace_s: float) -> None:
        self.grace_s = grace_s
        await super().drain(grace_s)


async def test_drain_tells_its_progress_and_ends() -> None:
    async with (
        ruled(kind=Draining) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        waiting = inference_pb2.Example(parts=[inference_pb2.Part(text="wait")])
        stub = inference_pb2_grpc.InferenceStub(channel)
        answer = stub.Predict(inference_pb2.PredictRequest(examples=[waiting]))
        await until(lambda: engine.at_work)
        call = admin_pb2_grpc.AdminStub(channel).Drain(admin_pb2.DrainRequest(grace_s=5))
        steps = []
        async for progress in call:
            steps.append(progress)
            engine.gate.open()
        assert (await answer).results[0].prediction.label == "ok"
        assert isinstance(engine, Draining) and engine.grace_s == 5
    first = steps[0]
    assert (first.step, first.detail, first.done) == ("draining", "1 rows left", False)
    assert (steps[-1].step, steps[-1].fraction, steps[-1].done) == ("drained", 1.0, True)


SYMBOLS = (
    "inference.GRPCInferenceService",
    "google.rpc.BadRequest",  # of the details of a refusal
    "google.rpc.RetryInfo",
    "grpc.reflection.v1.ServerReflection",
    "trefoil.v1.Inference.Predict",
)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_every_service_and_describes_its_types(version: str) -> None:
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    for symbol in SYMBOLS:
        asked.append(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        first, *rest = [answer async for answer in call(iter(asked))]
    names = {service.name for service in first.list_services_response.service}
    assert names == {
        "trefoil.v1.Inference",
        "trefoil.v1.Observe",
        "trefoil.v1.Admin",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for symbol, answer in zip(SYMBOLS, rest, strict=True):
        assert answer.file_descriptor_response.file_descriptor_proto, symbol


async def test_a_probe_asks_as_much_as_an_orchestrator_does() -> None:
    ends = {}
    async with ruled(hold_load=True) as engine, listener(engine) as address:
        for state in ("STARTING", "READY", "NOT_READY"):
            if state == "READY":
                engine.gate.open()
            await reach(engine, state)
            ends[state] = [
                await asyncio.to_thread(main, ["probe", "--server", address, "--for", question])
                for question in ("ready", "started", "live")
            ]
    assert ends == {"READY": [0, 0, 0], "NOT_READY": [1, 0, 0], "STARTING": [1, 1, 0]}
