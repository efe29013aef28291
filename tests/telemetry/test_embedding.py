"""Drift of the embedding as one additive vector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.build import reference_profile as builder
from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.embedding import EFFECTS, EmbeddingDetector, EmbeddingSums, distance
from server.telemetry.drift.profile import EmbeddingReference, Reference
from server.telemetry.drift.reference import parse
from server.telemetry.drift.scores import FALSE_DISCOVERIES
from server.telemetry.drift.windows import HOUR_S, TrailingWindows
from server.telemetry.record import FeatureSpec
from tests.support.telemetry_bench import NOW

SCHEMA = tuple(FeatureSpec(f"embedding.p{i:02d}", "embedding", "numeric", "1") for i in range(16))


def normal(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    content = builder.build(normal(16_000, 1), SCHEMA)
    return parse(json.dumps(content).encode(), SCHEMA)


def sums_of(reference: Reference, rows: NDArray[np.float32]) -> NDArray[np.int64]:
    assert reference.embedding is not None
    coded = BinLayout(reference).code(rows, np.zeros(rows.shape, dtype=bool))
    return EmbeddingSums(reference.embedding, SCHEMA).of(coded, np.arange(len(rows)))


def embedding_of(reference: Reference) -> EmbeddingReference:
    assert reference.embedding is not None
    return reference.embedding


def test_hours_add_up_bit_for_bit(reference: Reference) -> None:
    rows = normal(2400, 2)
    parts = sum(sums_of(reference, rows[i::24]) for i in range(24))
    assert np.array_equal(parts, sums_of(reference, rows))


def test_without_drift_it_is_seldom_significant_and_never_large(reference: Reference) -> None:
    found = [
        distance(embedding_of(reference), sums_of(reference, normal(1000, seed)), 1.0)
        for seed in range(10, 60)
    ]
    assert sum(d.p < FALSE_DISCOVERIES for d in found) <= 7
    assert max(d.effect for d in found) < EFFECTS[0]


@pytest.mark.parametrize(
    ("change", "level"),
    [
        (lambda x: x + 0.1, 0),
        (lambda x: x + 0.2, 1),
        (lambda x: x + 0.4, 2),
        (lambda x: np.where(np.arange(len(x))[:, None] % 2, x, x + 1.0), 1),  # a new mixture
    ],
)
def test_a_change_of_place_or_mixture_is_as_large_as_documented(
    reference: Reference, change: object, level: int
) -> None:
    moved = change(normal(4000, 3)).astype(np.float32)  # type: ignore[operator]
    found = distance(embedding_of(reference), sums_of(reference, moved), 1.0)
    assert found.p < 1e-6
    assert found.effect >= EFFECTS[level] * 0.85


def test_rows_without_an_embedding_count_for_nothing(reference: Reference) -> None:
    rows = normal(100, 4)
    rows[::2, 3] = np.nan
    assert sums_of(reference, rows)[0] == 50
    empty = distance(embedding_of(reference), sums_of(reference, rows[:0]), 1.0)
    assert (empty.n, empty.effect, empty.p) == (0.0, 0.0, 1.0)


def test_an_alert_opens_after_three_looks_and_little_data_is_insufficient(
    reference: Reference,
) -> None:
    embedding = embedding_of(reference)
    windows = TrailingWindows(1 + len(embedding.phases), lambda hour: {}, signed=True)
    watch = EmbeddingDetector("ab" * 32, embedding, windows, HOUR_S)
    levels, opened = [], []
    for hour in range(6):
        at = NOW + hour * HOUR_S
        windows.advance(at)
        rows = normal(100 if hour == 0 else 1000, hour) + np.float32(0.3 * (hour > 0))
        windows.add("", at, sums_of(reference, rows))
        drift, finding = watch.tick(at + 1, 1.0)
        levels.append(drift[0].level)
        opened.append(bool(finding.severity) and finding.confirmed)
    assert levels[0] == "insufficient" and set(levels[2:]) == {"high"}
    assert opened == [False, False, False, True, True, True]
