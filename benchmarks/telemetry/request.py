"""The cost of telemetry and OpenTelemetry for one request, and the time to find the worst slices.

Times are CPU time of one thread, the least of several rounds: a busy machine affects them little.
The collector of `otel` runs in a separate process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import ROOT
from benchmarks.support.payloads import MIXES, example
from benchmarks.telemetry.recording import RECORD
from server.ops.otel_interceptor import CALL, OtelRecorder
from server.record_of import record_of
from server.request.validation import prediction_id
from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.histogram import Histogram
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.metric_definitions import STAGE_BOUNDS
from server.telemetry.outputs import Timing
from server.telemetry.record import FeatureSpec
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from server.types import Answer, Outcome, Work

CALLS = 8000  # fewer than fit into the queue, so the thread that empties it need not be waited for
BUNDLE = ROOT / "pipelines/triage/bundle"
GOAL_US = 60.0
ROUNDS = 5
PREDICT = "trefoil.v1.Inference/Predict"
METHODS = (PREDICT,)
ABOUT = {"service.name": "trefoil-server", "service.version": "0"}


def least_us(
    run: Callable[[int], object],
    count: int,
    clock: Callable[[], float],
    between: Callable[[], None] = lambda: None,
) -> float:
    """Microseconds for one of `count`, in the best of ROUNDS; `between` is not counted."""
    best = float("inf")
    for _ in range(ROUNDS):
        between()
        began = clock()
        run(count)
        best = min(best, clock() - began)
    return best / count * 1e6


def request(names: tuple[str, ...]) -> tuple[Work, Outcome, dict[str, float]]:
    r = np.random.default_rng(1)
    values = {
        name: float(value) for name, value in zip(names, r.normal(size=len(names)), strict=True)
    }
    blob = np.array(list(values.values()), dtype="<f4").tobytes()
    answer = Answer("watch", (), b"", blob, confidence=0.9, closed_set_mass=0.99)
    made = Work(
        id=prediction_id(), example=b"x" * 125_000, task="classify", labels=(),
        want_embedding=False, max_new_tokens=0, priority=1, deadline=None, session="",
        expected_stamps=frozenset(), estimated_tokens=400, client="press-7",
        slices={"site": "a", "shift": "night"}, keep_payload=True, mix="audio+image+text",
    )  # fmt: skip
    batch_mates = tuple(prediction_id() for _ in range(7))
    timing = Timing(1.0, 2.0, 3.0, 20.0, 0.5, 26.5)
    outcome = Outcome(made.id, answer, None, timing, 8, "ab" * 32, 0, False, batch_mates, made.mix)
    return made, outcome, values


def path(args: argparse.Namespace) -> None:
    from pipelines.features import NAMES

    made, outcome, values = request(NAMES)
    schema = tuple(FeatureSpec(name, "text", "numeric", "1") for name in NAMES)

    def features(count: int) -> None:
        for _ in range(count):
            np.array([values[name] for name in NAMES], dtype="<f4").tobytes()

    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(TelemetrySettings(Path(folder), sample_share=0.0))
        reported = Instruments(configuration_of(os.environ, "127.0.0.1:0", 0.05), ABOUT, METHODS)
        recorder = OtelRecorder(reported, telemetry)

        def recording(count: int) -> None:
            for _ in range(count):
                call = reported.began(PREDICT)
                CALL.set(call)
                recorder.put(record_of(made, outcome, time.time(), "cpu float32"), schema)
                reported.ended(call, "OK", 0.02)

        def worked_off() -> None:
            while telemetry.health().queued:
                time.sleep(0.01)

        blob_us = least_us(features, CALLS, time.thread_time)
        record_us = least_us(recording, CALLS, time.thread_time, worked_off)
        reported.close(0.0)
        telemetry.close()
    total = blob_us + record_us
    print(
        f"path     {total:.1f} us a request (goal {GOAL_US:.0f}): features into a blob "
        f"{blob_us:.1f} (in the replica), call, metrics and record {record_us:.1f}"
    )


def extraction(args: argparse.Namespace) -> None:
    import pipelines.prepare
    from benchmarks.support.bound import sample
    from pipelines.features import input_features
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(BUNDLE, threads=1, allow_dirty=True)
    spent: dict[str, list[float]] = defaultdict(list)
    mix = ""

    def timed(*arguments: object) -> dict[str, float]:
        began = time.thread_time()
        found = input_features(*arguments)  # type: ignore[arg-type]
        spent[mix].append(time.thread_time() - began)
        return found

    prepare: Any = pipelines.prepare  # its import is timed too, and it is not exported
    prepare.input_features = timed
    r = np.random.default_rng(0)
    for mix in ("text", "image", "audio", "text+image+audio"):
        made = example(r, next(m for m in MIXES if "+".join(m) == mix))
        for index in range(40):
            pipeline.prepare(sample(index, made))
    prepare.input_features = input_features
    per_mix = ", ".join(f"{mix} {min(times) * 1e3:.2f} ms" for mix, times in spent.items())
    print(f"extraction {per_mix} (40 words, 640x480 JPEG, 2 s WAV; decoded already)")


def search(args: argparse.Namespace) -> None:
    from server.telemetry.slices.conditions import SliceColumn
    from server.telemetry.slices.search import worst_slices

    rows, features = 300_000, 30
    r = np.random.default_rng(3)
    columns = [
        SliceColumn(f"text.f{i:02d}", r.normal(size=rows).astype(np.float32), "1")
        for i in range(features - 1)
    ]
    columns.append(
        SliceColumn("site", r.integers(0, 5, rows).astype(np.float32), "", tuple("abcde"))
    )
    planted = (columns[7].values > 0.7) & (columns[-1].values == 2)
    loss = (r.random(rows) < np.where(planted, 0.2, 0.08)).astype(np.float64)
    took, found = [], []
    for _ in range(5):
        began, cpu = time.perf_counter(), time.thread_time()
        found = worst_slices(columns, loss)
        took.append((time.thread_time() - cpu, time.perf_counter() - began))
    print(
        f"search   {min(took)[0]:.2f} s of CPU ({min(t for _, t in took):.2f} s) for {rows:,} "
        f"rows x {features} features; first: {found[0].expression if found else 'nothing'}"
    )


def fill(made: Instruments, count: int) -> None:
    for _ in range(count):
        call = made.began(PREDICT)
        made.answered(RECORD, call)
        made.ended(call, "OK", 0.02)


def halted(share: float, prometheus: str = "") -> Instruments:
    """Instruments whose draining thread has ended, so that its work can be timed here."""
    made = Instruments(configuration_of(os.environ, prometheus, share), ABOUT, METHODS)
    made._worker.end()
    return made


def path_and_drain(calls: int, share: float) -> tuple[float, float]:
    """(request path, drain), in microseconds for each request."""
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
    """The same seven values into the SDK's own histograms, with one reader."""
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
    """The longest delay of a 1 ms tick of an event loop: alone, and while a backlog is drained."""

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
    os.environ.update(endpoint)
    for share in (0.0, 0.05, 1.0):
        path, drain = path_and_drain(calls, share)
        found[f"us a request at share {share:g}: path, drain"] = [round(path, 2), round(drain, 1)]
    found["us for seven values: own, sdk"] = [round(own_us(calls), 2), round(sdk_us(calls), 1)]
    found["ms a collection"] = round(collect_ms(), 2)
    found["ms the event loop waited at worst"] = longest_wait_ms()
    process.communicate("")
    print(json.dumps(found, indent=2))
