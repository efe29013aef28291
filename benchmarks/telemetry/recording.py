"""Measures the recorder alone: records put in, written, evaluated and kept."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from server.telemetry.record import BundleFiles, FeatureSpec, Record
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.stamp_state import PastCounts
from server.telemetry.telemetry import Telemetry

STAMP = "ab" * 32
LABELS = tuple("abcdef")
MODALITIES = ("text", "image", "audio", "request", "output", "embedding")


RECORD = Record(
    prediction_id="01a209b19c0478628b3bc8b264409cc6",
    at=1_800_000_000.0,
    stamp=STAMP,
    task="classify",
    mix="audio+image+text",
    label="a",
    confidence=0.9,
    margin=0.8,
    entropy=0.3,
    closed_set_mass=0.99,
    features=b"\0" * 240,
    slices={"site": "a", "shift": "night"},
    client="press-7",
    session="",
    replica=0,
    batch_size=8,
    queue_ms=1.0,
    decode_ms=2.0,
    preprocess_ms=3.0,
    forward_ms=20.0,
    post_ms=0.5,
    total_ms=27.0,
    env="cpu float32",
    batch_mates=("b" * 32, "c" * 32),
    payload=b"\0" * 100_000,
)


def schema(features: int) -> tuple[FeatureSpec, ...]:
    return tuple(
        FeatureSpec(f"{MODALITIES[i % 6]}.f{i:02d}", MODALITIES[i % 6], "numeric", "1")
        for i in range(features)
    )


def bundle(features: int, slices: int) -> BundleFiles:
    from pipelines.build import reference_profile

    r = np.random.default_rng(1)
    rows = 8000
    tags = [{"site": f"s{i % slices}"} for i in range(rows)]
    content = reference_profile.build(
        r.normal(size=(rows, features)), schema(features), slices=tags
    )
    return BundleFiles(STAMP, "bench", schema(features), LABELS, json.dumps(content).encode())


def records(n: int, features: int, slices: int, payload: int = 0) -> list[Record]:
    r = np.random.default_rng(2)
    values = r.normal(size=(n, features)).astype("<f4")
    return [
        replace(
            RECORD,
            prediction_id=f"{i:012x}7{i:019x}",
            features=values[i].tobytes(),
            slices={"site": f"s{i % slices}", "shift": "am" if i % 3 else "pm"},
            replica=i % 2,
            payload=b"x" * payload,
        )
        for i in range(n)
    ]


class Feed:
    """Returns records with new ids and the current time, endlessly."""

    def __init__(self, args: argparse.Namespace, payload: int = 0) -> None:
        self._made = records(20_000, args.features, args.slices, payload)
        self._given = 0

    def take(self, n: int) -> list[Record]:
        now, found = time.time(), []
        for _ in range(n):
            self._given += 1
            made = self._made[self._given % len(self._made)]
            identifier = f"{int(now * 1000):012x}7{self._given:019x}"
            found.append(replace(made, prediction_id=identifier, at=now))
        return found


def opened(args: argparse.Namespace, folder: str) -> Telemetry:
    telemetry = Telemetry(TelemetrySettings(Path(folder), sample_share=0.05))
    telemetry.adopt(bundle(args.features, args.slices))
    return telemetry


def writer(args: argparse.Namespace) -> None:
    """Records at full speed, with a queue that is never empty and never full: the rate that one
    thread sustains."""
    with tempfile.TemporaryDirectory() as folder:
        telemetry, feed = opened(args, folder), Feed(args)
        telemetry._recorder.call(lambda: None)
        n = 0
        began, cpu = time.perf_counter(), time.process_time()
        made_cpu = 0.0
        while time.perf_counter() - began < args.seconds:
            mark = time.thread_time()
            batch = feed.take(500)
            made_cpu += time.thread_time() - mark
            for record in batch:
                telemetry.put(record)
            n += len(batch)
            while telemetry.health().queued > 4000:
                time.sleep(0.001)
        while telemetry.health().queued:
            time.sleep(0.001)
        took = time.perf_counter() - began
        cpu = time.process_time() - cpu - made_cpu
        health = telemetry.health()
        telemetry.close(60)
        size = sum(p.stat().st_size for p in Path(folder).iterdir())
    print(
        f"writer   {n / took:,.0f} records/s ({n} in {took:.1f} s), "
        f"{cpu / n * 1e6:.0f} us of CPU each, dropped {health.dropped}, "
        f"{size / n:.0f} bytes each on disk"
    )


def tick(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        telemetry, feed = opened(args, folder), Feed(args)
        for record in feed.take(5000):
            telemetry.put(record)
        work = telemetry._writer
        telemetry._recorder.call(lambda: work.tick(time.time()))
        ticks: list[float] = []
        flushes: list[float] = []
        for _ in range(5):
            for record in feed.take(500):
                telemetry.put(record)
            telemetry._recorder.call(lambda: None)
            for spent, step in ((ticks, lambda: work.tick(time.time())), (flushes, work.flush)):
                began = time.perf_counter()
                telemetry._recorder.call(step)
                spent.append(time.perf_counter() - began)
        rows = len(work.evaluation.rows)
        telemetry.close()
    print(
        f"tick     {statistics.median(ticks) * 1e3:.0f} ms for {rows} comparisons; "
        f"flush of all sums {statistics.median(flushes) * 1e3:.0f} ms"
    )


def week(args: argparse.Namespace) -> None:
    """A week of 1,000 requests an hour."""
    from server.telemetry.stamps.registry import StampRegistry
    from server.telemetry.store.database import open_database
    from server.telemetry.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(open_database(Path(folder), 0.0))
        nothing = PastCounts(lambda stamp, layout, hour: {}, lambda stamp, hour: {})
        states = StampRegistry(store, nothing, 300)
        state = states.adopt(bundle(args.features, args.slices), 0.0)
        before = store.bytes()
        ids, r = store.names.feature_ids(STAMP), np.random.default_rng(3)
        names = ["", *(f"site=s{i}" for i in range(args.slices - 1))]
        blocks = []
        for name in names:
            block, n = state.layout.block(), 1000 if not name else 1000 // args.slices
            matrix = r.normal(size=(n, args.features)).astype(np.float32)
            block.add(state.layout.code(matrix, np.ones(matrix.shape, bool)), slice(None))
            blocks.append([(ids[i], state.layout.profile(block, i)) for i in range(len(ids))])
        for hour in range(7 * 24):
            with store.transaction():
                for name, profiles in zip(names, blocks, strict=True):
                    store.sums.put_profiles(1, hour * 3600, store.names.slice_id(name), profiles)
        size = store.bytes() - before
        store.close()
    rows = 7 * 24 * len(names) * args.features
    print(f"week     {size / 1e6:.1f} MB for {args.features} features x {len(names)} slices, "
          f"{size / rows:.0f} bytes a profile")  # fmt: skip
