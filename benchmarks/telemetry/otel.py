"""What OpenTelemetry costs: on the request path, in the draining thread, and in memory.

Times are CPU time of one thread or process, so that a busy machine disturbs them little; each is
the lowest of several rounds. A collector runs beside, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.telemetry.recording import RECORD
from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.histogram import Histogram
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.metric_definitions import STAGE_BOUNDS

ROUNDS = 5
TURN = 30
PREDICT = "trefoil.v1.Inference/Predict"
METHODS = (PREDICT,)
ABOUT = {"service.name": "trefoil-server", "service.version": "0"}


def least_us(
    run: Callable[[int], object],
    count: int,
    clock: Callable[[], float],
    between: Callable[[], None] = lambda: None,
) -> float:
    """Microseconds of one of `count`, in the best of ROUNDS; `between` is not counted."""
    best = float("inf")
    for _ in range(ROUNDS):
        between()
        began = clock()
        run(count)
        best = min(best, clock() - began)
    return best / count * 1e6


def fill(made: Instruments, count: int) -> None:
    for _ in range(count):
        call = made.began(PREDICT)
        made.answered(RECORD, call)
        made.ended(call, "OK", 0.02)


def halted(share: float, prometheus: str = "") -> Instruments:
    """Instruments whose draining thread has ended, so that its work can be done and timed here."""
    made = Instruments(configuration_of(os.environ, prometheus, share), ABOUT, METHODS)
    made._worker.end()
    return made


def path_and_drain(calls: int, share: float) -> tuple[float, float]:
    """(request path, drain), microseconds a request."""
    made = halted(share)
    path = drain = float("inf")
    for _ in range(ROUNDS):
        for _ in range(max(1, calls // 4000)):
            began = time.thread_time()
            fill(made, 4000)
            filled = time.thread_time()
            made._worker.work_off()
            path = min(path, (filled - began) / 4000 * 1e6)
            drain = min(drain, (time.thread_time() - filled) / 4000 * 1e6)
    made.close(1.0)
    return path, drain


def sdk_us(calls: int) -> float:
    """The same seven values into the SDK's own histograms, one reader."""
    from opentelemetry.sdk.metrics import Histogram as Kind
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

    reader = InMemoryMetricReader(
        preferred_aggregation={Kind: ExponentialBucketHistogramAggregation()}
    )
    meter = MeterProvider([reader]).get_meter("x")
    stage = meter.create_histogram("stage", unit="s")
    attributes = {"trefoil.stage": "a", "trefoil.task": "classify", "trefoil.mix": "text"}

    def run(count: int) -> None:
        for index in range(count):
            for _ in range(7):
                stage.record(0.001 * (index % 100 + 1), attributes)

    return least_us(run, max(1, calls // 10), time.thread_time)


def own_us(calls: int) -> float:
    histogram = Histogram(STAGE_BOUNDS)

    def run(count: int) -> None:
        for index in range(count):
            for _ in range(7):
                histogram.add(0.001 * (index % 100 + 1))

    return least_us(run, calls, time.thread_time)


def collect_ms() -> float:
    made = halted(0.05)
    for task in ("classify", "embed"):
        for mix in ("text", "image", "audio", "audio+image", "audio+text", "image+text"):
            made.answered(replace(RECORD, task=task, mix=mix))
    made._worker.work_off()
    took = least_us(lambda count: [made.collect() for _ in range(count)], 50, time.thread_time)
    made.close(1.0)
    return took / 1e3


def longest_wait_ms() -> dict[str, float]:
    """How late a 1 ms tick of an event loop is at worst: alone, and while a backlog is drained."""

    async def worst(made: Instruments | None) -> float:
        late = 0.0
        for _ in range(300):
            if made is not None:
                fill(made, 4)
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late = max(late, time.perf_counter() - began - 0.001)
        return late * 1e3

    made = Instruments(configuration_of(os.environ, "", 0.05), ABOUT, METHODS)
    found = {"alone": asyncio.run(worst(None)), "draining": asyncio.run(worst(made))}
    made.close(1.0)
    return found


async def _grpc_us(calls: int) -> tuple[float, float]:
    """The event loop's time for one request over real gRPC, its client on the same loop, without
    and with the interceptor: the median of many short turns of each."""
    import grpc

    from proto import inference_pb2 as pb
    from proto import inference_pb2_grpc as stubs
    from server.api.listener import Listener
    from server.config import ServerConfig
    from server.ops.otel_interceptor import OtelInterceptor
    from tests.support.running import IDENTITY
    from tests.support.standin_engine import StandInEngine

    made = Instruments(configuration_of(os.environ, "", 0.05), ABOUT, METHODS)
    config = replace(ServerConfig(), listen="127.0.0.1:0")
    edges = [
        Listener(StandInEngine(), config, IDENTITY, lambda: None, interceptors)  # type: ignore[arg-type]
        for interceptors in ((), (OtelInterceptor(made),))
    ]
    request = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text="hum")])])
    found: tuple[list[float], list[float]] = ([], [])
    stubs_of = [
        stubs.InferenceStub(grpc.aio.insecure_channel(await listener.start())) for listener in edges
    ]
    for _ in range(calls // 100):
        for index, stub in enumerate(stubs_of):
            began = time.thread_time()
            for _ in range(TURN):
                await stub.Predict(request)
            found[index].append((time.thread_time() - began) / TURN * 1e6)
    for listener in edges:
        await listener.stop(0)
    made.close(1.0)
    return statistics.median(found[0]), statistics.median(found[1])


MEMORY = """
import os, sys
import server.api.listener, server.engine, server.ops.otel_setup
from server.host import rss_bytes
from benchmarks.telemetry.otel import ABOUT, METHODS, fill
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.configuration import configuration_of
plain = rss_bytes()
made = Instruments(configuration_of(os.environ, sys.argv[1], 0.05), ABOUT, METHODS)
loaded = rss_bytes()
import time
for _ in range(40):
    fill(made, 500)
    time.sleep(0.05)
time.sleep(0.5)
made.collect()
print(plain / 2**20, (loaded - plain) / 2**20, (rss_bytes() - plain) / 2**20)
made.close(1.0)
"""


def memory_mib(environ: dict[str, str], prometheus: str) -> tuple[float, float, float]:
    """(front without, more when loaded, more after 20,000 requests)."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, prometheus],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    plain, loaded, used = (float(word) for word in done.stdout.split())
    return plain, loaded, used


COLLECTOR = """
import sys
from tests.support.otlp_collector import collector
with collector() as found:
    print(found.address, flush=True)
    sys.stdin.read()
"""


def otel(args: argparse.Namespace) -> None:
    calls: int = args.calls
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": process.stdout.readline().strip()}
    found: dict[str, object] = {"python": platform.python_version(), "machine": platform.machine()}
    for name, environ, prometheus in (
        ("prometheus", {}, "127.0.0.1:0"),
        ("otlp", endpoint, ""),
        ("both", endpoint, "127.0.0.1:0"),
    ):
        plain, loaded, used = memory_mib(environ, prometheus)
        found[f"front MiB, {name}"] = [round(one, 1) for one in (plain, loaded, used)]
    os.environ.update(endpoint)
    for share in (0.0, 0.05, 1.0):
        path, drain = path_and_drain(calls, share)
        found[f"us a request at share {share:g}: path, drain"] = [round(path, 2), round(drain, 1)]
    without, with_ = asyncio.run(_grpc_us(calls))
    found["us of the loop a request, client included: without, with"] = [
        round(without),
        round(with_),
    ]
    found["us for seven values: own, sdk"] = [round(own_us(calls), 2), round(sdk_us(calls), 1)]
    found["ms a collection"] = round(collect_ms(), 2)
    found["ms the event loop waited at worst"] = longest_wait_ms()
    process.communicate("")
    print(json.dumps(found, indent=2))
