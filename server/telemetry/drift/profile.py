"""The reference profiles of a bundle, and the additive counts that summarise live traffic.

A profile holds exact counts over fixed cells, so profiles of hours, slices and servers add up
exactly. This module needs only numpy: the offline console draws and compares profiles with it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.telemetry.record import FeatureSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureReference:
    """One feature of the reference data, on which the quality of the model was measured.

    `edges` are the inner edges: cell i holds edges[i-1] <= x < edges[i]; the first and the last
    cell lie outside the reference range. A categorical feature has one cell for each category and a
    last one for new categories. `groups` is the merged group of each cell (for KL, JS, PSI and
    chi-squared).
    """

    spec: FeatureSpec
    edges: Floats
    counts: Ints
    groups: Ints
    missing: int = 0
    nonfinite: int = 0
    discrete: bool = False
    centre: float = 0.0
    step: float = 1.0
    deff: float = 1.0
    importance: float = 1.0
    windows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def categorical(self) -> bool:
        return self.spec.kind == "categorical"

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    def unseen(self) -> Ints:
        """The cells without any reference value: new categories, values between the known values
        of a discrete feature, and values outside the range."""
        if self.categorical:
            return np.array([len(self.counts) - 1])
        if self.discrete:
            return np.flatnonzero(self.counts == 0)
        return np.array([0, len(self.counts) - 1])


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Confidence against correctness; bin i holds edges[i-1] <= confidence < edges[i]."""

    edges: Floats
    n: Floats
    sum_confidence: Floats
    sum_correct: Floats


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingReference:
    """Random Fourier mean of the embedding features; pipelines/build/fourier.py computes it.

    `sums` are in steps of 2^-20. `windows` holds, by window size, the mean and variance of the
    scaled distance between consecutive reference rows and the other rows.
    """

    features: tuple[str, ...]
    mean: Floats
    deviation: Floats
    frequencies: Floats  # [features, dimensions]
    phases: Floats
    n: int
    sums: Floats
    variance: float
    windows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The checked content of reference/profile.json. `slices` maps "key=value" to the counts of
    each feature."""

    rows: int
    features: tuple[FeatureReference, ...]
    slices: Mapping[str, tuple[Ints, ...]]
    embedding: EmbeddingReference | None
    reliability: Reliability | None
    confusion_labels: tuple[str, ...]
    confusion: Ints  # [true, predicted]; shape [0, 0] if unknown
    learning: bool = False  # empty: there is nothing to compare with yet
    learnt: bool = False  # learned from live traffic, not shipped with the bundle

    @property
    def schema(self) -> tuple[FeatureSpec, ...]:
        return tuple(f.spec for f in self.features)

    def counts(self, position: int, slice_name: str) -> Ints | None:
        """Reference counts of a feature in a slice ("" is all traffic); None for a slice without
        counts."""
        if not slice_name:
            return self.features[position].counts
        found = self.slices.get(slice_name)
        return None if found is None else found[position]


def empty_reference(schema: Sequence[FeatureSpec]) -> Reference:
    """The reference to use while there is none: it lets rows be counted but not compared."""
    features = tuple(
        FeatureReference(
            spec,
            np.zeros(0),
            np.zeros(cells := len(spec.categories) + 1, dtype=np.int64),
            np.arange(cells),
        )
        for spec in schema
    )
    return Reference(0, features, {}, None, None, (), np.zeros((0, 0), np.int64), learning=True)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Counts of one feature in one slice over some time. `sum` and `sum_squares` count whole steps
    from the reference centre (see FeatureReference), so they add up exactly in any order."""

    counts: Ints
    missing: int = 0
    nonfinite: int = 0
    absent: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            self.counts + other.counts,
            self.missing + other.missing,
            self.nonfinite + other.nonfinite,
            self.absent + other.absent,
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
            min(self.min, other.min),
            max(self.max, other.max),
        )

    def mean(self, feature: FeatureReference) -> float:
        return feature.centre + feature.step * self.sum / self.n if self.n else math.nan

    def deviation(self, feature: FeatureReference) -> float:
        if not self.n:
            return math.nan
        variance = self.sum_squares / self.n - (self.sum / self.n) ** 2
        return feature.step * math.sqrt(max(variance, 0.0))


def pack_counts(counts: Ints) -> bytes:
    """Counts in the narrowest of 1, 2, 4 or 8 bytes each, little endian; the length of the result
    shows which."""
    top = int(counts.max(initial=0))
    width = next(w for w in (1, 2, 4, 8) if top < 1 << (8 * w))
    return counts.astype(f"<u{width}").tobytes()


def unpack_counts(blob: bytes, cells: int, crc: int | None = None) -> Ints:
    """The inverse of `pack_counts` for a feature of `cells` cells.

    Raises ValueError if the blob holds another number of cells, or does not match `crc` (crc32).
    """
    width, rest = divmod(len(blob), cells)
    if rest or width not in (1, 2, 4, 8) or (crc is not None and zlib.crc32(blob) != crc):
        raise ValueError(f"{len(blob)} bytes are not the counts of {cells} cells")
    return np.frombuffer(blob, dtype=f"<u{width}").astype(np.int64)
