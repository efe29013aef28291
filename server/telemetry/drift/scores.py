"""Drift of features: compares live counts with a baseline and grades the difference.

A shift counts if it is significant among all tests AND large enough to matter. measures.py defines
the scores; docs/telemetry.md explains the thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.measures import (
    chi2_pvalue,
    expected_kl,
    js,
    kl,
    ks_pvalue,
    ks_statistic,
    linf,
    merged,
    psi,
    scaled,
    smoothed,
)
from server.telemetry.drift.profile import FeatureReference, Floats, Ints

# Effect sizes at which a significant shift counts; see docs/telemetry.md for what they mean.
WARNING_KS = 0.05
HIGH_KS, HIGH_EXCESS_KL, HIGH_PSI = 0.10, 0.05, 0.2
CRITICAL_EXCESS_KL = 0.15
FALSE_DISCOVERIES = 0.05  # q of Benjamini and Hochberg, for windows that share no rows
# Two looks at a 24-hour window, half an hour apart, see nearly the same rows. So three agreeing
# looks of four prove little, and there are fifty looks a day: each look must be convincing by
# itself.
FALSE_DISCOVERIES_OVERLAPPING = 1e-5
CALM_OVERLAPPING = 1e-3  # q above which such an alert counts as calm; a gap prevents flapping
UNMEASURED = 2.0  # design effect assumed until it has been measured on live traffic
MIN_EFFECTIVE = 320  # 20 effective rows for each of 16 groups; fewer is "insufficient", never "ok"
# A few rows cannot prove a small shift, but they can prove a large one.
FEW, FEW_KS = 50, 0.2  # effective rows; twice HIGH_KS
OVER, OVER_P = 20, 0.2  # effective rows, and p, that show that such a shift has ended
CALM = 0.8  # an alert closes below this share of the threshold that opened it
FEW_CELLS = 16  # with fewer filled cells the Kolmogorov law is inaccurate: chi-squared decides

LEVELS = ("ok", "warning", "high", "critical")
_SCORES = ("n", "ks", "p", "kl", "js", "psi", "chi2_p", "excess_kl", "expected_kl")


@dataclass(frozen=True, slots=True, eq=False)
class DriftScores:
    """Live counts against a baseline; each field is an array with one element a comparison.

    `ks` is the largest gap between the two distribution functions; for categories, the largest
    difference between two shares. `p` is the p value that decides: that of `ks` for a numeric
    feature with enough cells, that of chi-squared otherwise. `excess_kl` is `kl` minus the value
    expected without drift, and at least 0.
    """

    n: Floats
    n_effective: Floats
    ks: Floats
    p: Floats
    kl: Floats
    js: Floats
    psi: Floats
    chi2_p: Floats
    expected_kl: Floats
    excess_kl: Floats

    def at(self, place: int | tuple[int, int]) -> dict[str, float]:
        """The scores of one comparison, named as in DriftRow."""
        return {name: float(getattr(self, name)[place]) for name in _SCORES}

    @property
    def sufficient(self) -> NDArray[np.bool_]:
        return self.n_effective >= MIN_EFFECTIVE

    @property
    def few(self) -> NDArray[np.bool_]:
        return ~self.sufficient & (self.n_effective >= FEW)


@dataclass(frozen=True, slots=True, eq=False)
class SideCounts:
    """One side of a comparison: its counts by cell [..., cells] and by merged group [..., groups],
    padded with zeros because features differ in size, and its design effect [...]."""

    cells: Ints
    groups: Ints
    deff: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """Properties of the compared features: which groups exist [..., groups], which features are
    categorical [...], and for which features the KS law decides [...]."""

    valid: NDArray[np.bool_]
    categorical: NDArray[np.bool_]
    by_ks: NDArray[np.bool_]


def kind_of(feature: FeatureReference) -> tuple[bool, bool]:
    """(categorical, decided by the KS law)"""
    filled = int(np.count_nonzero(feature.counts))
    return feature.categorical, not feature.categorical and filled >= FEW_CELLS


def compare(
    feature: FeatureReference,
    live: Ints,
    baseline: Ints,
    deff: float | None = None,
    baseline_deff: float | None = None,
) -> DriftScores:
    """Scores of `live` [rows, cells] against `baseline` [rows, cells] or [cells] of one feature.
    A design effect that is not given is the feature's own."""
    live, baseline = np.atleast_2d(live), np.atleast_2d(baseline)
    baseline = np.broadcast_to(baseline, live.shape)
    categorical, by_ks = kind_of(feature)
    sides = [
        SideCounts(counts, merged(counts, feature.groups), np.full(len(counts), d or feature.deff))
        for counts, d in ((live, deff), (baseline, baseline_deff))
    ]
    valid = np.ones(int(feature.groups.max()) + 1, dtype=bool)
    return measure(sides[0], sides[1], Kinds(valid, np.array(categorical), np.array(by_ks)))


def measure(live: SideCounts, baseline: SideCounts, kinds: Kinds) -> DriftScores:
    """All scores at once.

    Every test uses effective rows, the row count divided by the design effect (Kish, 1965): a burst
    of similar requests carries less evidence than its row count suggests. If either side has no
    rows, p is 1 and the scores are 0.
    """
    n, m = (side.cells.sum(axis=-1).astype(np.float64) for side in (live, baseline))
    n_eff, m_eff = n / live.deff, m / baseline.deff
    here, there = live.groups, baseline.groups
    ks = np.where(kinds.categorical, linf(here, there), ks_statistic(live.cells, baseline.cells))
    chi2_p = chi2_pvalue(scaled(here, n_eff), scaled(there, m_eff))
    a, b = smoothed(here, kinds.valid), smoothed(there, kinds.valid)
    divergence = kl(a, b)
    expected = expected_kl((here + there > 0).sum(axis=-1), n_eff, m_eff)
    known = (n > 0) & (m > 0)

    def score(values: Floats) -> Floats:
        return np.where(known, values, 0.0)

    return DriftScores(
        n=n,
        n_effective=score(n_eff),
        ks=score(ks),
        p=np.where(known, np.where(kinds.by_ks, ks_pvalue(ks, n_eff, m_eff), chi2_p), 1.0),
        kl=score(divergence),
        js=score(js(a, b)),
        psi=score(psi(a, b)),
        chi2_p=np.where(known, chi2_p, 1.0),
        expected_kl=score(expected),
        excess_kl=score(np.maximum(divergence - expected, 0.0)),
    )


def levels_of(
    found: DriftScores, q: Floats, scale: float = 1.0, discoveries: float = FALSE_DISCOVERIES
) -> NDArray[np.int64]:
    """The level of each row, as an index into LEVELS. A level above 0 is significant (q below
    `discoveries`) AND large enough.

    `scale` shrinks the effect thresholds. Pass CALM to check whether an open alert may close.
    """
    level = np.where(found.ks >= WARNING_KS * scale, 1, 0)
    high = (
        (found.ks >= HIGH_KS * scale)
        | (found.excess_kl >= HIGH_EXCESS_KL * scale)
        | (found.psi >= HIGH_PSI * scale)
    )
    level = np.where(high, 2, level)
    level = np.where(found.excess_kl > CRITICAL_EXCESS_KL * scale, 3, level)
    return np.where(found.sufficient & (q < discoveries), level, 0)


def levels_of_few(found: DriftScores, q: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For comparisons with too few rows for `levels_of`: (those that show a large shift anyway,
    those that show none). KL and PSI do not count: with so few rows they are mostly chance."""
    large = found.few & (q < FALSE_DISCOVERIES_OVERLAPPING) & (found.ks >= FEW_KS)
    over = ~found.sufficient & (found.n_effective >= OVER) & (found.p > OVER_P)
    return large, over & (found.ks < CALM * FEW_KS)


def benjamini_hochberg(p: Floats) -> Floats:
    """The q value of each p: the smallest false discovery rate at which it would be flagged
    (Benjamini and Hochberg, 1995; holds for positively dependent tests, which these are)."""
    p = np.asarray(p, dtype=np.float64)
    if not len(p):
        return p
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(np.minimum(p[order] * len(p) / ranks, 1.0))
    return q
