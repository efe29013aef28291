"""Drift scores and their judgement: pure functions of counts, the last axis being the cells.

Directions and units, the same everywhere: KL is KL(live || reference) in nats, PSI in nats, JS the
Jensen-Shannon distance (square root of the divergence) to base 2, so 0 to 1. All three are taken
over the reference's merged groups (at most 16 of a numeric feature) with half a row added to every
group (Krichevsky and Trofimov, 1981): they are finite for every input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.profile import FeatureReference, Floats, Ints

# Effect sizes at which a significant shift counts; see docs/telemetry.md for what they mean.
WARNING_KS = 0.05
HIGH_KS, HIGH_EXCESS_KL, HIGH_PSI = 0.10, 0.05, 0.2
CRITICAL_EXCESS_KL = 0.15
FALSE_DISCOVERIES = 0.05  # q of Benjamini and Hochberg
MIN_EFFECTIVE = 320  # 20 effective rows for each of 16 groups; fewer is "insufficient", never "ok"
CALM = 0.8  # an alert closes below this share of the threshold that opened it
FEW_CELLS = 16  # with fewer filled cells the Kolmogorov law is far off: chi-squared decides
RARE = 5.0  # groups with an expected count below this are pooled before chi-squared

LEVELS = ("ok", "warning", "high", "critical")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Live counts against a baseline; every field is an array over the rows compared.

    `ks` is the largest gap between the two distribution functions, for categories the largest
    difference of a share. `p` is the one that decides: of `ks` for a numeric feature with enough
    cells, else of chi-squared. `excess_kl` is what remains of `kl` above its expectation without
    any drift.
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

    @property
    def sufficient(self) -> NDArray[np.bool_]:
        return self.n_effective >= MIN_EFFECTIVE


def compare(
    feature: FeatureReference,
    live: Ints,
    baseline: Ints,
    deff: float | None = None,
    baseline_deff: float | None = None,
) -> Comparison:
    """Scores of `live` [rows, cells] against `baseline` [rows, cells] or [cells].

    Row counts are divided by their design effects (Kish, 1965) before any test: a burst of similar
    requests is worth fewer rows than it has. Without rows on either side p is 1 and the scores 0.
    """
    live, baseline = np.atleast_2d(live), np.atleast_2d(baseline)
    n, m = live.sum(axis=1).astype(np.float64), baseline.sum(axis=1).astype(np.float64)
    n_eff, m_eff = n / (deff or feature.deff), m / (baseline_deff or feature.deff)
    here, there = merged(live, feature.groups), merged(baseline, feature.groups)
    ks = linf(here, there) if feature.categorical else ks_statistic(live, baseline)
    chi2_p = chi2_pvalue(_scaled(here, n_eff), _scaled(there, m_eff))
    decided_by_ks = not feature.categorical and np.count_nonzero(feature.counts) >= FEW_CELLS
    p = ks_pvalue(ks, n_eff, m_eff) if decided_by_ks else chi2_p
    a, b = smoothed(here), smoothed(there)
    divergence = kl(a, b)
    expected = expected_kl((here + there > 0).sum(axis=1), n_eff, m_eff)
    known = (n > 0) & (m > 0)

    def score(values: Floats) -> Floats:
        found: Floats = np.where(known, values, 0.0)
        return found

    return Comparison(
        n=n,
        n_effective=score(n_eff),
        ks=score(ks),
        p=np.where(known, p, 1.0),
        kl=score(divergence),
        js=score(js(a, b)),
        psi=score(psi(a, b)),
        chi2_p=np.where(known, chi2_p, 1.0),
        expected_kl=score(expected),
        excess_kl=score(np.maximum(divergence - expected, 0.0)),
    )


def judge(found: Comparison, q: Floats, scale: float = 1.0) -> NDArray[np.int64]:
    """Index into LEVELS of each row: significant (q below FALSE_DISCOVERIES) AND large enough.

    `scale` shrinks the effect thresholds; CALM asks whether an open alert may close.
    """
    level = np.where(found.ks >= WARNING_KS * scale, 1, 0)
    high = (
        (found.ks >= HIGH_KS * scale)
        | (found.excess_kl >= HIGH_EXCESS_KL * scale)
        | (found.psi >= HIGH_PSI * scale)
    )
    level = np.where(high, 2, level)
    level = np.where(found.excess_kl > CRITICAL_EXCESS_KL * scale, 3, level)
    return np.where(found.sufficient & (q < FALSE_DISCOVERIES), level, 0)


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


# ---- scores of counts ------------------------------------------------------------------------


def merged(counts: Ints, groups: Ints) -> Ints:
    """[rows, cells] -> [rows, groups]."""
    member = groups[:, None] == np.arange(int(groups.max()) + 1)
    found: Ints = np.atleast_2d(counts) @ member.astype(np.int64)
    return found


def smoothed(counts: Ints) -> Floats:
    """Shares with half a row added to every cell: none is zero."""
    more = counts + 0.5
    shares: Floats = more / more.sum(axis=-1, keepdims=True)
    return shares


def ks_statistic(live: Ints, baseline: Ints) -> Floats:
    """Largest gap of the distribution functions at the cell edges: never more than over the
    values themselves, so that binning cannot make an alarm."""
    gap: Floats = np.abs(_cdf(live) - _cdf(baseline)).max(axis=-1)
    return gap


def linf(live: Ints, baseline: Ints) -> Floats:
    """Largest difference of a share."""
    gap: Floats = np.abs(_shares(live) - _shares(baseline)).max(axis=-1)
    return gap


def kl(p: Floats, q: Floats) -> Floats:
    """KL(p || q) in nats; shares must be above 0."""
    total: Floats = (p * np.log(p / q)).sum(axis=-1)
    return total


def js(p: Floats, q: Floats, base: float = 2.0) -> Floats:
    """Jensen-Shannon distance; with base 2 between 0 and 1."""
    middle = (p + q) / 2
    divergence = (kl(p, middle) + kl(q, middle)) / 2 / np.log(base)
    found: Floats = np.sqrt(np.maximum(divergence, 0.0))
    return found


def psi(p: Floats, q: Floats) -> Floats:
    """Population stability index: KL both ways, nats."""
    total: Floats = ((p - q) * np.log(p / q)).sum(axis=-1)
    return total


def expected_kl(groups: Ints | int, n: Floats | float, m: Floats | float) -> Floats:
    """What KL comes to without any drift: (K-1)/2 (1/n + 1/m), half the mean of the chi-squared
    law its likelihood ratio follows (Wilks, 1938). PSI comes to twice that."""
    n, m = np.maximum(n, 1.0), np.maximum(m, 1.0)
    found: Floats = (np.asarray(groups) - 1) / 2 * (1 / n + 1 / m)
    return found


# ---- p values --------------------------------------------------------------------------------


def ks_pvalue(ks: Floats, n: Floats, m: Floats) -> Floats:
    """P(D >= ks) of two samples of n and m rows of one continuous law.

    The law of one sample of nm/(n+m) rows: twice the exact one-sided probability (Smirnov), less
    the chance that both sides exceed, which the Kolmogorov series gives: exact to 1e-7 below
    p = .03 and to 1e-12 below p = .001, looser where nothing is decided.
    """
    from scipy.special import kolmogorov, smirnov  # late: 24 MB a console may never need

    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.maximum(np.rint(np.nan_to_num(n * m / (n + m))), 1.0)
    z = np.sqrt(size) * ks
    both = 2 * np.exp(-2 * z * z) - kolmogorov(z)
    p: Floats = np.clip(2 * smirnov(size.astype(np.int64), ks) - both, 0.0, 1.0)
    return p


def chi2_pvalue(live: Floats | Ints, baseline: Floats | Ints) -> Floats:
    """Homogeneity of two rows of counts, both being samples (Pearson, 1900).

    Groups in which either side expects fewer than RARE rows are pooled first, and what is still
    rare then joins the smallest group that is not: one new category in a thousand rows is no alarm.
    """
    from scipy.special import chdtrc

    a, b = np.atleast_2d(live).astype(np.float64), np.atleast_2d(baseline).astype(np.float64)
    n, m = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(np.minimum(n, m) / (n + m))
        a, b = _without_rare(a, b, share)
        expected = (a + b) * (n / (n + m))
        term = (a - expected) ** 2 / expected * ((n + m) / m)
    used = a + b > 0
    freedom = used.sum(axis=1) - 1
    statistic = np.where(used, np.nan_to_num(term), 0.0).sum(axis=1)
    return np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), statistic), 1.0)


def _without_rare(a: Floats, b: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Both tables with their rare columns pooled; `share` [rows, 1] is the smaller side's."""
    rare = (a + b) * share < RARE
    pool = [np.where(rare, t, 0.0).sum(axis=1) for t in (a, b)]
    kept = [np.where(rare, 0.0, t) for t in (a, b)]
    still = (pool[0] + pool[1]) * share[:, 0] < RARE
    smallest = np.where(rare, np.inf, a + b).argmin(axis=1)
    rows = np.arange(len(a))
    for table, extra in zip(kept, pool, strict=True):
        table[rows, smallest] += np.where(still, extra, 0.0)
    here, there = (
        np.concatenate([t, np.where(still, 0.0, extra)[:, None]], axis=1)
        for t, extra in zip(kept, pool, strict=True)
    )
    return here, there


def _shares(counts: Ints) -> Floats:
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    found: Floats = counts / total
    return found


def _cdf(counts: Ints) -> Floats:
    found: Floats = np.cumsum(counts, axis=-1) / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return found


def _scaled(counts: Ints, total: Floats) -> Floats:
    """The same shares over `total` rows."""
    return _shares(counts) * total[:, None]
