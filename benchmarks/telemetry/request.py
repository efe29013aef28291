"""What telemetry adds to one request, and how fast the worst slices are found.

Times are CPU time of one thread, the least of several rounds: a busy machine disturbs them little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import ROOT
from benchmarks.support.payloads import MIXES, example
from benchmarks.telemetry.otel import ABOUT, METHODS, PREDICT, least_us
from server.ops.otel_interceptor import CALL, OtelRecorder
from server.record_of import record_of
from server.request.validation import prediction_id
from server.telemetry.otel.configuration import configuration_of
from server.telemetry.otel.instruments import Instruments
from server.telemetry.outputs import Timing
from server.telemetry.record import FeatureSpec
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from server.types import Answer, Outcome, Work

CALLS = 8000  # fewer than the queue holds: the thread behind it is not waited for
BUNDLE = ROOT / "pipelines/triage/bundle"
GOAL_US = 60.0


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

    prepare: Any = pipelines.prepare  # it imports what is timed, and does not export it
    prepare.input_features = timed
    r = np.random.default_rng(0)
    for mix in ("text", "image", "audio", "text+image+audio"):
        made = example(r, next(m for m in MIXES if "+".join(m) == mix))
        for index in range(40):
            pipeline.prepare(sample(index, made))
    prepare.input_features = input_features
    words = ", ".join(f"{mix} {min(times) * 1e3:.2f} ms" for mix, times in spent.items())
    print(f"extraction {words} (40 words, 640x480 JPEG, 2 s WAV; decoded already)")


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
