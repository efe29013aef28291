"""Histograms with exponential buckets, and the same values counted into explicit bounds.

A histogram of the SDK costs about 9 us for each value and reader, and a prediction has seven
values; adding to this one costs a fraction of a microsecond (benchmarks/telemetry/request.py
measures both).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

# Buckets are (2**(i/8), 2**((i+1)/8)], 9 % wide: scale 3 of the OpenTelemetry data model.
SCALE = 3
PER_OCTAVE = 1 << SCALE
FIRST_OCTAVE = -20  # 1e-6: a microsecond
LAST_OCTAVE = 12  # 4096: more than an hour, or that many rows
FIRST_INDEX = FIRST_OCTAVE * PER_OCTAVE
BUCKETS = (LAST_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE

Attributes = tuple[tuple[str, str], ...]


class HistogramExemplar(NamedTuple):
    """One value, and the sampled span that it came from."""

    value: float
    unix_ns: int
    trace_id: int
    span_id: int


class Point(NamedTuple):
    """A histogram of `n` values at one moment. `counts` has all BUCKETS, from FIRST_INDEX on; the
    last of `bounded` counts the values above all `bounds`."""

    n: int
    sum: float
    min: float
    max: float
    zeros: int
    counts: Sequence[int]
    bounds: Sequence[float]
    bounded: Sequence[int]
    exemplars: Sequence[HistogramExemplar]


class Histogram:
    """A histogram of values >= 0. One thread writes it; hold the lock while calling `point`."""

    __slots__ = (
        "_bounded",
        "_bounds",
        "_count",
        "_counts",
        "_exemplars",
        "_max",
        "_min",
        "_sum",
        "_zeros",
    )

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._bounded = [0] * (len(bounds) + 1)
        self._counts = [0] * BUCKETS
        self._zeros = 0
        self._count = 0
        self._sum = 0.0
        self._min = math.inf
        self._max = 0.0
        self._exemplars: dict[int, HistogramExemplar] = {}  # the latest one in each octave

    def add(self, value: float, exemplar: HistogramExemplar | None = None) -> None:
        self._count += 1
        self._sum += value
        self._bounded[bisect_left(self._bounds, value)] += 1
        if value < self._min:
            self._min = value
        if value > self._max:
            self._max = value
        place = place_of(value)
        if place < 0:
            self._zeros += 1
        else:
            self._counts[place] += 1
        if exemplar is not None:
            self._exemplars[place // PER_OCTAVE] = exemplar

    def point(self) -> Point:
        return Point(
            self._count,
            self._sum,
            self._min if self._count else 0.0,
            self._max,
            self._zeros,
            tuple(self._counts),
            self._bounds,
            tuple(self._bounded),
            tuple(self._exemplars.values()),
        )


def place_of(value: float) -> int:
    """The position of a value in `counts`, -1 for zero; values out of range go to the ends."""
    if value <= 0.0:
        return -1
    place = math.ceil(math.log2(value) * PER_OCTAVE) - 1 - FIRST_INDEX
    return min(max(place, 0), BUCKETS - 1)


def trimmed(counts: Sequence[int]) -> tuple[int, list[int]]:
    """(index of the first non-empty bucket, the counts from there to the last non-empty one)."""
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return 0, []
    return FIRST_INDEX + filled[0], list(counts[filled[0] : filled[-1] + 1])
