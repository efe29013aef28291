"""Intervals of shares, differences, means and medians over weighted rows.

Rows that were sampled with probability p count 1/p (Horvitz and Thompson 1952). The loss of
precision by such weights is expressed by the effective number of rows, (sum w)^2 / sum w^2 (Kish
1965), which replaces the number of rows in every formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SURE = 0.95
RESAMPLED = 2000
SEED = 20261125  # so that the same rows give the same interval
MOST_NEEDED = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """All fields NaN: unknown."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


UNKNOWN = Interval()


def z_of(sure: float = SURE, comparisons: int = 1) -> float:
    """The two-sided z value. With several comparisons, the chance of one false alarm over all stays
    the same (Bonferroni)."""
    return NormalDist().inv_cdf(1 - (1 - sure) / (2 * max(1, comparisons)))


def effective(weights: Floats) -> float:
    total = float(weights.sum())
    return total * total / float((weights**2).sum()) if total > 0 else 0.0


def wilson(share: float, n: float, z: float) -> Interval:
    """The interval of a share (Wilson 1927), which is valid at 0 and 1 too."""
    if n <= 0:
        return UNKNOWN
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if share <= 0 else max(0.0, middle - half)
    return Interval(share, low, 1.0 if share >= 1 else min(1.0, middle + half))


def share_of(hits: Floats, weights: Floats, z: float) -> Interval:
    """The share of rows with hit 1, among the rows where it is not NaN."""
    known = np.isfinite(hits)
    weights = weights[known]
    if not weights.size:
        return UNKNOWN
    return wilson(float(hits[known] @ weights / weights.sum()), effective(weights), z)


def rows_needed(share: float, below: float, z: float) -> int:
    """How many rows would show that a share is below a bound, if the share stays the same; 0:
    never."""
    if share >= below:
        return 0
    low, high = 1, MOST_NEEDED
    while low < high:
        middle = (low + high) // 2
        if wilson(share, middle, z).high <= below:
            high = middle
        else:
            low = middle + 1
    return low


def paired_shares(before: Floats, now: Floats, weights: Floats, z: float) -> Interval:
    """The interval of the difference between two shares of the same rows (Agresti and Min 2005).
    Half a row is added to each of the four cells, so that no difference seen does not mean that
    none is possible."""
    n = effective(weights)
    if n <= 0:
        return UNKNOWN
    scale = n / float(weights.sum())
    gained = float(weights[(now > before)].sum()) * scale
    lost = float(weights[(now < before)].sum()) * scale
    middle = (gained - lost) / (n + 2)
    spread = (gained + lost + 1) / (n + 2) - middle * middle
    half = z * math.sqrt(max(0.0, spread) / (n + 2))
    return Interval((gained - lost) / n, middle - half, middle + half)


def mean_of(values: Floats, weights: Floats, z: float) -> Interval:
    """The interval of a weighted mean, by resampling the rows (Efron 1979): values of decisions are
    too skewed for a formula."""
    known = np.isfinite(values)
    values, weights = values[known], weights[known]
    if not values.size:
        return UNKNOWN
    mean = float(values @ weights / weights.sum())
    if values.size < 2:
        return Interval(mean, -math.inf, math.inf)
    drawn = np.random.default_rng(SEED).multinomial(
        values.size, np.full(values.size, 1 / values.size), RESAMPLED
    )
    means = (drawn @ (values * weights)) / np.maximum(drawn @ weights, 1e-12)
    tail = 1 - NormalDist().cdf(z)
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(mean, float(low), float(high))


def at_least(found: Interval, half: float) -> Interval:
    """The interval widened to at least this half width: rows that all agree do not guarantee that
    the next one does."""
    if math.isnan(found.value):
        return found
    return Interval(
        found.value, min(found.low, found.value - half), max(found.high, found.value + half)
    )


def median_of(values: Floats, z: float) -> Interval:
    """The interval of a median, from the order of the values alone, without an assumption on their
    distribution."""
    n = values.size
    if not n:
        return UNKNOWN
    ordered = np.sort(values)
    reach = math.ceil((n + z * math.sqrt(n)) / 2)
    inside = reach < n
    low = float(ordered[n - 1 - reach]) if inside else 0.0
    high = float(ordered[reach]) if inside else math.inf
    return Interval(float(np.median(ordered)), low, high)
