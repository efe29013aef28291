"""What the tests of telemetry send: a small bundle, records of it, a clock that the test sets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.build import reference_profile as builder
from server.telemetry.drift.profile import FeatureReference, Floats, Ints
from server.telemetry.record import BundleFiles, FeatureSpec, Record

STAMP = "ab" * 32
LABELS = ("ok", "stop", "inspect")
SCHEMA = (
    FeatureSpec("text.words", "text", "numeric", "1"),
    FeatureSpec("image.brightness", "image", "numeric", "1"),
    FeatureSpec("image.format", "image", "categorical", "", ("jpeg", "png")),
    FeatureSpec("audio.snr_db", "audio", "numeric", "dB"),
    FeatureSpec("output.label", "output", "categorical", "", LABELS),
    FeatureSpec("output.confidence", "output", "numeric", "1"),
)
NOW = 1_790_002_800.0  # a full hour
VALUE = {t: {p: 1.0 if t == p else -5.0 for p in LABELS} for t in LABELS}


class Clock:
    """Seconds that pass when the test sets them."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def bundle(stamp: str = STAMP, rows: int = 4000, reference: bool = True) -> BundleFiles:
    r = np.random.default_rng(1)
    matrix = np.array([features(r) for _ in range(rows)], dtype=np.float32)
    sure = r.beta(8, 2, rows)
    right = r.random(rows) < sure
    answers = builder.ReferenceAnswers(
        sure.tolist(), ["ok"] * rows, ["ok" if x else "stop" for x in right], LABELS
    )
    sites = [{"site": "ab"[int(i)]} for i in r.integers(0, 2, rows)]
    mixes = ["audio+image+text"] * rows
    content = builder.build(matrix, SCHEMA, mixes=mixes, slices=sites, answers=answers)
    return BundleFiles(
        stamp,
        "tiny-1+" + stamp[:12],
        SCHEMA,
        LABELS,
        json.dumps(content).encode() if reference else b"",
        json.dumps({"unit": "EUR", "value": VALUE, "window_s": 60.0}).encode(),
    )


def cells(feature: FeatureReference, values: Floats) -> Ints:
    """Cell of each finite value, one feature alone: what the search for all must agree with."""
    if feature.categorical:
        known = len(feature.counts) - 1
        inside = (values >= 0) & (values < known)
        return np.where(inside, values, known).astype(np.int64)
    return np.searchsorted(feature.edges, values, side="right").astype(np.int64)


def features(r: np.random.Generator, brightness: float = 0.5) -> list[float]:
    return [
        float(r.poisson(12)),
        float(r.normal(brightness, 0.1)),
        float(r.integers(0, 2)),
        float(r.normal(20, 4)),
        float(r.integers(0, 3)),
        float(r.beta(8, 2)),
    ]


def record(number: int, at: float = NOW, **more: Any) -> Record:
    """The `number`th record: always the same one."""
    r = np.random.default_rng([number, 5])
    values = features(r, more.pop("brightness", 0.5))
    made = Record(
        prediction_id=f"{int(at * 1000):012x}7{number:019x}",
        at=at,
        stamp=STAMP,
        task="classify",
        mix="audio+image+text",
        label=LABELS[int(values[4])],
        confidence=values[5],
        margin=values[5] / 2,
        entropy=0.4,
        closed_set_mass=0.9,
        features=np.array(values, dtype="<f4").tobytes(),
        slices={"site": "ab"[number % 2]},
        client="press-1",
        session="",
        replica=number % 2,
        batch_size=4,
        queue_ms=1.0,
        decode_ms=2.0,
        preprocess_ms=3.0,
        forward_ms=10.0,
        post_ms=0.5,
        total_ms=17.0 + number % 7,
        env="cpu",
        payload=b"payload %d" % number,
    )
    return replace(made, **more)
