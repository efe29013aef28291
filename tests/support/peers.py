"""Scores over samples with the bins of other tools, as references for the figures here.

Evidently bins both samples together by Sturges' rule and fills empty bins with 1e-4; NannyML bins
the reference by Doane's rule and adds one bin for what lies outside. No two tools give the same PSI
or KL; server/telemetry/drift/measures.py defines the ones here.
"""

from __future__ import annotations

import math

import numpy as np

from server.telemetry.drift.measures import js, kl, psi
from server.telemetry.drift.profile import Floats

EVIDENTLY_FILL = 1e-4


def ks_of_samples(reference: Floats, current: Floats) -> float:
    """Two-sample Kolmogorov-Smirnov D over the values themselves."""
    grid = np.concatenate([reference, current])
    here = np.searchsorted(np.sort(reference), grid, side="right") / len(reference)
    there = np.searchsorted(np.sort(current), grid, side="right") / len(current)
    return float(np.abs(here - there).max())


def ks_exact_pvalue(ks: float, n: int, m: int) -> float:
    """P(D >= ks) by counting lattice paths that stay inside the gap (Hodges, 1958); for a few
    thousand rows a side."""
    limit = ks * n * m - 0.5  # paths are compared in whole units of 1/(nm)
    reach = np.arange(m + 1, dtype=np.float64) * n
    paths = (reach < limit).astype(np.float64)
    log_scale = 0.0
    for i in range(1, n + 1):
        inside = np.abs(i * float(m) - reach) < limit
        paths = np.where(inside, np.cumsum(np.where(inside, paths, 0.0)), 0.0)
        top = paths.max()
        if top == 0.0:
            return 1.0
        if top > 1e200:
            paths /= top
            log_scale += math.log(top)
    if paths[m] == 0.0:
        return 1.0
    total = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    return 1.0 - math.exp(math.log(paths[m]) + log_scale - total)


def wasserstein(reference: Floats, current: Floats) -> float:
    """Area between the two distribution functions, in the values' unit."""
    grid = np.sort(np.concatenate([reference, current]))
    here = np.searchsorted(np.sort(reference), grid[:-1], side="right") / len(reference)
    there = np.searchsorted(np.sort(current), grid[:-1], side="right") / len(current)
    return float((np.abs(here - there) * np.diff(grid)).sum())


def evidently_shares(reference: Floats, current: Floats) -> tuple[Floats, Floats]:
    edges = np.histogram_bin_edges(np.concatenate([reference, current]), bins="sturges")
    shares = [np.histogram(v, edges)[0] / len(v) for v in (reference, current)]
    p, q = (np.where(s == 0, EVIDENTLY_FILL, s) for s in shares)
    return p, q


def evidently_psi(reference: Floats, current: Floats) -> float:
    return float(psi(*evidently_shares(reference, current)))


def evidently_kl(reference: Floats, current: Floats) -> float:
    """KL(reference || current) in nats: the other direction than ours."""
    p, q = evidently_shares(reference, current)
    return float(kl(p / p.sum(), q / q.sum()))


def evidently_js(reference: Floats, current: Floats) -> float:
    """Distance, base e."""
    p, q = evidently_shares(reference, current)
    return float(js(p / p.sum(), q / q.sum(), base=math.e))


def evidently_hellinger(reference: Floats, current: Floats) -> float:
    return hellinger(*evidently_shares(reference, current))


def nannyml_shares(reference: Floats, current: Floats) -> tuple[Floats, Floats]:
    edges = np.histogram_bin_edges(reference, bins="doane")
    inside = [np.histogram(v, edges)[0] for v in (reference, current)]
    p, q = (
        np.append(counts, len(v) - counts.sum()) / len(v)
        for counts, v in zip(inside, (reference, current), strict=True)
    )
    return p, q


def nannyml_js(reference: Floats, current: Floats) -> float:
    """Distance, base 2; empty bins count as the limit 0 log 0 = 0."""
    p, q = nannyml_shares(reference, current)
    middle = (p + q) / 2
    total = sum(float((s[s > 0] * np.log2(s[s > 0] / middle[s > 0])).sum() / 2) for s in (p, q))
    return math.sqrt(max(total, 0.0))


def nannyml_hellinger(reference: Floats, current: Floats) -> float:
    return hellinger(*nannyml_shares(reference, current))


def hellinger(p: Floats, q: Floats) -> float:
    return float(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2))
