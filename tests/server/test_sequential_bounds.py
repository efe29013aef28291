"""Bounds that are checked repeatedly, on data whose true values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.routing.sequential_bounds import Clustered, mean_halfwidth, share_bounds

ALPHA = 0.05


def test_a_share_is_within_its_bounds_at_every_look() -> None:
    random = np.random.default_rng(1)
    left = 0
    for _ in range(200):
        hits = np.cumsum(random.random(600) < 0.1)
        looks = (share_bounds(float(hits[n - 1]), n, ALPHA) for n in range(20, 601, 20))
        left += any(not low <= 0.1 <= high for low, high in looks)
    assert left <= 200 * ALPHA * 1.6  # 10 expected at the most, three standard errors above


def test_a_mean_difference_is_within_its_bounds_at_every_look() -> None:
    random = np.random.default_rng(2)
    left = fixed = 0
    for _ in range(300):
        a, b = random.normal(size=(2, 1500))
        n = np.arange(50, 1501, 10)
        difference = (np.cumsum(a) - np.cumsum(b))[n - 1] / n
        variance = 2.0 / n
        half = [mean_halfwidth(v, 0.2, ALPHA) for v in variance]
        left += bool((np.abs(difference) > half).any())
        fixed += bool((np.abs(difference) > 1.96 * np.sqrt(variance)).any())
    assert left <= 300 * ALPHA * 1.5
    assert fixed > 300 * ALPHA * 3, "an ordinary interval is left far too often: the test can fail"


def test_bounds_of_a_share_narrow_and_stay_in_range() -> None:
    assert share_bounds(0, 0, ALPHA) == (0.0, 1.0)
    low, high = share_bounds(0, 1000, 0.001)
    assert low == 0.0 and 0.005 < high < 0.02
    assert share_bounds(1000, 1000, 0.001)[1] == 1.0
    widths = [high - low for low, high in (share_bounds(n / 4, n, ALPHA) for n in (8, 80, 800))]
    assert widths == sorted(widths, reverse=True)


def test_a_mean_without_spread_has_no_width() -> None:
    assert mean_halfwidth(0.0, 0.2, ALPHA) == 0.0
    assert mean_halfwidth(1e-4, 0.2, ALPHA) < mean_halfwidth(1e-2, 0.2, ALPHA)


def test_rows_of_one_session_weigh_as_one_voice() -> None:
    alone, together = Clustered(), Clustered()
    random = np.random.default_rng(3)
    for session in range(40):
        value = float(random.normal())
        alone.add(f"s{session}", value)
        for _ in range(25):
            together.add(f"s{session}", value)
    assert together.mean == pytest.approx(alone.mean)
    assert together.variance == pytest.approx(alone.variance)
    assert (together.n, together.groups) == (1000, 40)


def test_rows_on_their_own_have_the_usual_variance() -> None:
    values = np.random.default_rng(4).normal(size=500)
    found = Clustered()
    for value in values:
        found.add("", float(value))
    assert found.variance == pytest.approx(values.var(ddof=1) / 500)
    assert found.deviation == pytest.approx(values.std())


def test_one_failing_session_is_no_proof() -> None:
    found = Clustered()
    for _ in range(500):
        found.add("the only one", 1.0)
    assert found.share_bounds(ALPHA) == (0.0, 1.0)
    assert math.isinf(found.variance)
