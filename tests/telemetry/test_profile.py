"""Live counts: exact, additive, and explicit about missing values."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.build import reference_profile as builder
from server.telemetry.drift.binning import BinLayout, Block
from server.telemetry.drift.profile import Reference, empty_reference, pack_counts, unpack_counts
from server.telemetry.drift.reference import parse
from server.telemetry.record import FeatureSpec
from tests.support.telemetry_bench import cells

SCHEMA = (
    FeatureSpec("image.brightness", "image", "numeric", "1"),
    FeatureSpec("image.format", "image", "categorical", "", ("jpeg", "png")),
    FeatureSpec("text.words", "text", "numeric", "1"),
)


def rows(n: int, seed: int = 0) -> NDArray[np.float32]:
    r = np.random.default_rng(seed)
    columns = [r.normal(0.5, 0.1, n), r.integers(0, 3, n), r.poisson(20, n)]
    return np.stack(columns, axis=1).astype(np.float32)


def reference() -> Reference:
    return parse(json.dumps(builder.build(rows(3000, 9), SCHEMA)).encode(), SCHEMA)


def block_of(layout: BinLayout, matrix: NDArray[np.float32]) -> Block:
    block = layout.block()
    block.add(layout.code(matrix, np.ones(matrix.shape, dtype=bool)), slice(None))
    return block


def same(a: Block, b: Block) -> bool:
    return (
        a.rows == b.rows
        and a.counts.tobytes() == b.counts.tobytes()
        and a.moments.tobytes() == b.moments.tobytes()
    )


def test_twenty_four_hours_merged_equal_one_pass_bit_for_bit() -> None:
    layout = BinLayout(reference())
    matrix = rows(24 * 300, 1)
    matrix[::97, 0] = np.nan
    matrix[::89, 0] = np.inf
    whole = block_of(layout, matrix)
    for order in (range(24), reversed(range(24))):
        merged = layout.block()
        for hour in order:
            merged.merge(block_of(layout, matrix[hour * 300 : (hour + 1) * 300]))
        assert same(whole, merged)


def test_a_profile_has_mean_and_spread() -> None:
    layout = BinLayout(reference())
    matrix = rows(5000, 2)
    profile = layout.profile(block_of(layout, matrix), 0)
    feature = layout.reference.features[0]
    assert profile.n == 5000
    assert profile.mean(feature) == pytest.approx(matrix[:, 0].mean(), abs=1e-5)
    assert profile.deviation(feature) == pytest.approx(matrix[:, 0].std(), rel=1e-3)
    assert profile.min == matrix[:, 0].min() and profile.max == matrix[:, 0].max()


def test_missing_absent_and_nonfinite_are_distinguished() -> None:
    layout = BinLayout(reference())
    matrix = rows(4)
    matrix[0, 0] = matrix[1, 0] = np.nan
    matrix[2, 0] = -np.inf
    expected = np.ones(matrix.shape, dtype=bool)
    expected[1, 0] = False
    block = layout.block()
    block.add(layout.code(matrix, expected), slice(None))
    assert layout.extras(block, 0) == (1, 1, 1)
    assert layout.counts(block, 0).sum() == 1


def test_a_constant_an_empty_and_a_one_row_profile_are_plain() -> None:
    layout = BinLayout(reference())
    empty = layout.profile(layout.block(), 0)
    assert empty.n == 0 and np.isnan(empty.mean(layout.reference.features[0]))
    one = layout.profile(block_of(layout, rows(1)), 0)
    assert one.n == 1 and one.deviation(layout.reference.features[0]) == 0.0
    constant = layout.profile(block_of(layout, np.repeat(rows(1), 50, axis=0)), 0)
    assert np.count_nonzero(constant.counts) == 1 and constant.min == constant.max


def test_a_stored_profile_comes_back_whole() -> None:
    layout = BinLayout(reference())
    block = block_of(layout, rows(500))
    again = layout.block()
    again.rows = block.rows
    for position in range(len(SCHEMA)):
        layout.restore(again, position, layout.profile(block, position))
    assert same(block, again)


def test_profiles_add_as_their_rows_do() -> None:
    layout = BinLayout(reference())
    a, b = rows(100, 1), rows(100, 2)
    both = layout.profile(block_of(layout, np.concatenate([a, b])), 0)
    added = layout.profile(block_of(layout, a), 0) + layout.profile(block_of(layout, b), 0)
    assert (both.counts == added.counts).all()
    assert (both.sum, both.sum_squares, both.min) == (added.sum, added.sum_squares, added.min)


def test_without_a_reference_rows_are_still_counted() -> None:
    layout = BinLayout(empty_reference(SCHEMA))
    block = block_of(layout, rows(10))
    assert [layout.counts(block, i).sum() for i in range(3)] == [10, 10, 10]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3))
def test_the_search_for_all_features_is_the_search_for_each(values: list[float]) -> None:
    found = reference()
    edges = [float(e) for f in found.features for e in f.edges]
    steps = [np.nextafter(np.float32(e), np.float32(to)) for e in edges for to in (-9e9, 9e9)]
    column = np.array([*values, *edges, *steps, -0.0, 0.5, -0.5, 1e-45], dtype=np.float32)
    flat = (
        BinLayout(found).code(np.stack([column] * 3, axis=1), np.ones((len(column), 3), bool)).flat
    )
    for position, feature in enumerate(found.features):
        alone = cells(feature, column.astype(np.float64))
        assert (flat[:, position] - BinLayout(found).offsets[position] == alone).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=70))
def test_counts_survive_packing(values: list[int]) -> None:
    blob = pack_counts(np.array(values))
    assert unpack_counts(blob, len(values), zlib.crc32(blob)).tolist() == values


def test_a_flipped_byte_is_noticed() -> None:
    blob = pack_counts(np.arange(64))
    broken = bytes([blob[0] ^ 1]) + blob[1:]
    with pytest.raises(ValueError, match="64 cells"):
        unpack_counts(broken, 64, zlib.crc32(blob))
    with pytest.raises(ValueError, match="65 cells"):
        unpack_counts(blob, 65)


def test_small_counts_take_one_byte_each() -> None:
    assert len(pack_counts(np.full(64, 255))) == 64
    assert len(pack_counts(np.full(64, 256))) == 128


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=199, unique=True))
def test_any_split_of_the_rows_adds_up(cut: list[int]) -> None:
    layout = BinLayout(reference())
    matrix = rows(200, 5)
    inside = np.isin(np.arange(200), cut)
    coded = layout.code(matrix, np.ones(matrix.shape, dtype=bool))
    merged, other = layout.block(), layout.block()
    merged.add(coded, inside)
    other.add(coded, ~inside)
    merged.merge(other)
    assert same(merged, block_of(layout, matrix))
