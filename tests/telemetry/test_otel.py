"""OpenTelemetry in the server itself, and that it never gets in the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families as plain_text

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.listener import Listener
from server.engine import Engine
from server.ops.loop_lag import LoopLag
from server.ops.otel_setup import OtelSetup
from server.telemetry.otel import metric_definitions
from server.telemetry.record import FeatureSpec, Record
from server.types import REPLICA_STATES
from tests.support.otel_bench import PARENT, PREDICT, ROOT, scrape, wait_for
from tests.support.otlp_collector import Collector, plain
from tests.support.patience import patience
from tests.support.running import IDENTITY, channel_to, program, until
from tests.support.stub_replica import STAMP, stub_config, stub_pool


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[str, Kept, OtelSetup]]:
    """A real engine over a stub replica behind a real port, instrumented as `server` does it."""
    config = stub_config(listen="127.0.0.1:0", trace_share=1.0, **settings)
    kept = Kept()
    otel = OtelSetup(config, IDENTITY)
    engine = Engine(config, stub_pool(config), otel.recorder(kept))
    listener = Listener(
        engine, config, IDENTITY, leave=lambda: None, interceptors=otel.interceptors(())
    )
    address = await listener.start()
    otel.watch(engine, listener.budget, LoopLag(), address=address)
    try:
        await engine.start()
        await until(lambda: engine.snapshot().state == "READY", 60)
        yield address, kept, otel
    finally:
        await listener.stop(0)
        await engine.stop()
        await otel.close()


def request(*texts: str) -> pb.PredictRequest:
    return pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text=text)]) for text in texts])


async def test_a_request_is_traced_from_its_caller_to_the_stages(receiver: Collector) -> None:
    async with served() as (address, kept, _), channel_to(address) as channel:
        stub = stubs.InferenceStub(channel)
        metadata = (("traceparent", PARENT), ("tracestate", "vendor=1"))
        answer = await stub.Predict(request("hum"), metadata=metadata)
        await stub.Predict(request("hum", "hiss"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request("boom"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(request("sleep 1"), timeout=0.2)
        async for _ in stub.Generate(pb.GenerateRequest(example=request("a b").examples[0])):
            pass
        stream = stub.PredictStream()
        await stream.write(request("hum"))
        await stream.read()
        await stream.done_writing()
        await until(lambda: len(kept.records) >= 6)
    spans = receiver.all_spans()
    servers = {
        plain(span.attributes)["trefoil.prediction.id"]: span
        for span in spans
        if span.name == PREDICT and "trefoil.prediction.id" in plain(span.attributes)
    }
    mine = servers[answer.results[0].prediction_id]
    assert (mine.trace_id.hex(), mine.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert mine.trace_state == "vendor=1"
    children = {span.name for span in spans if span.parent_span_id == mine.span_id}
    assert "trefoil.forward" in children and "trefoil.queue" in children
    traced = {span.trace_id.hex() for span in spans}
    assert {one.trace_id for one in kept.records} <= traced
    counts = {
        (plain(point.attributes)["rpc.method"].rpartition("/")[2],
         plain(point.attributes)["rpc.status_code"]): point.count
        for point in receiver.points(metric_definitions.CALL_DURATION)
    }  # fmt: skip
    assert counts == {
        ("Predict", "OK"): 2,
        ("Predict", "INVALID_ARGUMENT"): 1,
        ("Predict", "INTERNAL"): 1,
        ("Predict", "DEADLINE_EXCEEDED"): 1,
        ("Generate", "OK"): 1,
        ("PredictStream", "OK"): 1,
    }
    assert "trefoil.error" in receiver.events()
    ends = plain(mine.attributes)
    port = int(address.rpartition(":")[2])
    assert (ends["server.address"], ends["server.port"]) == ("127.0.0.1", port)
    assert ends["client.address"] == ends["network.peer.address"] == "127.0.0.1"
    assert ends["client.port"] == ends["network.peer.port"] > 1024
    assert (ends["network.transport"], ends["network.protocol.version"]) == ("tcp", "2")
    about = [plain(span.attributes) for span in spans]
    (generated,) = [one for one in about if "gen_ai.operation.name" in one]
    assert generated["gen_ai.operation.name"] == "generate_content"
    assert generated["gen_ai.provider.name"] == "trefoil"
    assert generated["gen_ai.usage.output_tokens"] == 2
    assert generated["gen_ai.response.finish_reasons"] == ["stop"]
    assert generated["gen_ai.response.time_to_first_chunk"] > 0.0
    (first,) = receiver.points(metric_definitions.FIRST_TOKEN)
    assert first.count == 1 and plain(first.attributes)["gen_ai.provider.name"] == "trefoil"
    assert receiver.schemas() == {metric_definitions.SCHEMA_URL}
    deploy = plain(receiver.events()["trefoil.deploy"].attributes)
    assert deploy["trefoil.stamp"] == STAMP


async def test_the_state_of_the_server_can_be_scraped() -> None:
    async with served(prometheus="127.0.0.1:0") as (address, _, otel):
        assert otel.instruments is not None
        made = otel.instruments
        async with channel_to(address) as channel:
            await stubs.InferenceStub(channel).Predict(request("hum"))

        def ready() -> bool:
            return "trefoil_ready 1.0" in scrape(made) and "trefoil_stage" in scrape(made)

        await asyncio.to_thread(wait_for, ready)
        families = {one.name: one for one in plain_text(await asyncio.to_thread(scrape, made))}
    states = {
        one.labels["trefoil_state"]: one.value for one in families["trefoil_replicas"].samples
    }
    # Each known state is there, also with 0: no alert fires on a series that has vanished.
    assert states == {state: int(state == "ready") for state in REPLICA_STATES}
    rows = {one.labels["trefoil_outcome"]: one.value for one in families["trefoil_rows"].samples}
    assert rows["answered"] >= 0
    assert families["target_info"].samples[0].labels["service_instance_id"] == IDENTITY.instance


def test_the_program_exports_what_it_did_and_ends_well(
    receiver: Collector, tiny_bundle: Path, tmp_path: Path
) -> None:
    flags: tuple[str, ...] = (
        "--warm-pool",
        "1",
        "--prometheus",
        "127.0.0.1:0",
        "--trace-share",
        "1",
    )
    flags += ("--data", str(tmp_path))
    with program("--bundle", str(tiny_bundle), *flags) as server:
        (line,) = [line for line in server.lines if " metrics on " in line]
        with grpc.insecure_channel(server.address) as channel:
            answer = stubs.InferenceStub(channel).Predict(request("hum"))
        with urllib.request.urlopen(
            line.partition(" metrics on ")[2], timeout=patience(10)
        ) as scraped:
            assert "trefoil_replicas" in scraped.read().decode()
        assert server.stop() == 0, "\n".join(server.lines)
    assert not any("Error" in line for line in server.lines), "\n".join(server.lines)
    attributes = plain(receiver.spans()[PREDICT].attributes)
    assert attributes["trefoil.prediction.id"] == answer.results[0].prediction_id
    about = [
        plain(resource.resource.attributes)
        for request in receiver.traces
        for resource in request.resource_spans
    ]
    assert {one["trefoil.stamp"] for one in about} == {answer.stamp.hex}
    assert {one["trefoil.stamp.name"] for one in about} == {answer.stamp.name}
    (point,) = receiver.points(metric_definitions.PREDICTION_DURATION)
    assert point.count == 1


def test_the_program_refuses_what_it_cannot_export(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "server.main", "--bundle", str(tiny_bundle)]
    done = subprocess.run(
        [*command, "--prometheus", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert done.returncode == 2
    assert "--prometheus 'nowhere' is not HOST:PORT" in done.stderr
