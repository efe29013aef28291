"""The worst slices: planted ones are found, and none are found where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from server.telemetry.slices.conditions import MIN_SUPPORT, SliceColumn, round_number
from server.telemetry.slices.search import worst_slices


def traffic(rows: int, features: int, seed: int = 3) -> list[SliceColumn]:
    rng = np.random.default_rng(seed)
    numeric = [
        SliceColumn(f"audio.f{i}", rng.normal(0, 1 + i, rows).astype(np.float32), "s")
        for i in range(features)
    ]
    site = SliceColumn("site", rng.integers(0, 3, rows).astype(np.float32), "", ("a", "b", "c"))
    shift = SliceColumn("shift", rng.integers(0, 2, rows).astype(np.float32), "", ("day", "night"))
    return [*numeric, site, shift]


def errors(rate: np.ndarray, seed: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).random(len(rate)) < rate).astype(np.float64)


def test_a_planted_condition_ranks_first_with_its_message() -> None:
    columns = traffic(40_000, 6)
    long = columns[2].values >= 2.0
    found = worst_slices(columns, errors(np.where(long, 0.2, 0.08)))
    assert found[0].expression.startswith("audio.f2>=")
    assert "error" in found[0].message and "elsewhere" in found[0].message
    assert found[0].mean > found[0].mean_elsewhere
    assert len(found) == 1  # the thresholds beside it add nothing of their own


def test_a_planted_pair_ranks_first_and_is_more_than_its_parts() -> None:
    columns = traffic(60_000, 4)
    pair = (columns[4].values == 1) & (columns[5].values == 1)
    found = worst_slices(columns, errors(np.where(pair, 0.3, 0.08)))
    assert found[0].expression == "site=b shift=night"
    assert found[0].message.startswith("site b and shift night: error 29.")
    assert found[0].depth == 2
    assert found[0].support == np.count_nonzero(pair)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_found_in_noise(seed: int) -> None:
    columns = traffic(20_000, 8, seed)
    assert worst_slices(columns, errors(np.full(20_000, 0.1), seed + 100)) == []


def test_value_is_shown_per_thousand() -> None:
    columns = traffic(20_000, 2)
    lost = np.where(columns[2].values == 2, 3.0, 1.0)
    (first, *_) = worst_slices(columns, lost, "value", "EUR")
    assert first.expression == "site=c"
    assert "value lost 3,000 EUR per 1,000 against 1,000 EUR per 1,000" in first.message


def test_what_most_of_the_traffic_shares_is_no_slice() -> None:
    columns = traffic(20_000, 1)
    good = columns[0].values > 1.0  # a sixth
    assert worst_slices(columns, errors(np.where(good, 0.0, 0.2)))[0].share <= 0.5


def test_too_few_rows_say_nothing() -> None:
    columns = traffic(2 * MIN_SUPPORT - 1, 2)
    assert worst_slices(columns, np.ones(2 * MIN_SUPPORT - 1)) == []


def test_absent_values_belong_to_no_slice() -> None:
    columns = traffic(20_000, 1)
    values = columns[0].values.copy()
    values[::2] = np.nan
    loss = errors(np.where(np.isnan(values), 0.5, 0.05))
    found = worst_slices([SliceColumn("audio.f0", values), *columns[1:]], loss)
    for slice_ in found:
        assert not slice_.expression.startswith("audio.f0")


def test_constant_infinite_and_unknown_values_do_no_harm() -> None:
    rows = 5_000
    columns = [
        SliceColumn("constant", np.ones(rows, np.float32)),
        SliceColumn("wild", np.full(rows, np.inf, np.float32)),
        SliceColumn("odd", np.full(rows, 9.0, np.float32), "", ("a", "b")),
        SliceColumn("none", np.full(rows, np.nan, np.float32)),
    ]
    assert worst_slices(columns, errors(np.full(rows, 0.2))) == []


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="site"):
        worst_slices([SliceColumn("site", np.zeros(3, np.float32))], np.zeros(4))


@pytest.mark.parametrize(
    ("value", "slack", "rounded"), [(29.7, 2.0, 30.0), (0.1234, 0.01, 0.12), (-47.2, 4.0, -50.0)]
)
def test_thresholds_are_round(value: float, slack: float, rounded: float) -> None:
    assert round_number(value, slack) == pytest.approx(rounded)
