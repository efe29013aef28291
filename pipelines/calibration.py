"""How far apart two stretches of the reference itself lie: the yardstick for a drift score.

Windows that follow each other in time are compared with all other rows. Were the rows independent,
the scores would follow known laws; how much larger they are is the design effect, by which the
server later divides its row counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOW_ROWS = (250, 1000, 4000)
MIN_WINDOWS = 16  # fewer windows than this make no median to rely on
QUANTILES = (0.5, 0.9, 0.99)
# Median of the Kolmogorov distribution: sqrt(nm/(n+m)) D of two samples of one continuous law.
KOLMOGOROV_MEDIAN = 0.8275735551899077
FEW_CELLS = 16  # below this D is far from its continuous law; chi-squared measures instead


def calibrate(cells: Ints, groups: Ints, size: int, kind: str) -> dict[str, Any]:
    """`deff` and, per window size, the quantiles of D and KL between a window and the rest.

    `cells` is the cell of each present row in time order. The design effect is the larger of the
    window sizes': (median sqrt(nm/(n+m)) D / .8276)^2 after the Kolmogorov law, or for categories
    and features with few cells the median chi-squared statistic over the median of its law (the
    first-order correction of Rao and Scott, 1981). Never below 1.
    """
    deff, windows = 1.0, {}
    for rows in WINDOW_ROWS:
        live = _counts(cells, rows, size)
        if len(live) < 2:
            continue
        rest = np.bincount(cells, minlength=size) - live
        scale = np.sqrt(rows * rest.sum(axis=1) / (rows + rest.sum(axis=1)))
        ks = _ks(live, rest)
        windows[str(rows)] = {
            "windows": len(live),
            "ks": _quantiles(ks),
            "kl": _quantiles(_kl(_merged(live, groups), _merged(rest, groups))),
        }
        if len(live) < MIN_WINDOWS:
            continue
        if kind == "categorical" or np.count_nonzero(live.sum(axis=0)) < FEW_CELLS:
            effect = _chi2_effect(_merged(live, groups), _merged(rest, groups))
        else:
            effect = float(np.median(scale * ks) / KOLMOGOROV_MEDIAN) ** 2
        deff = max(deff, effect)
    return {"deff": deff, "windows": windows}


def _counts(cells: Ints, rows: int, size: int) -> Ints:
    """[windows, size] counts of consecutive windows of `rows`, the ragged end left out."""
    windows = len(cells) // rows
    index = np.repeat(np.arange(windows), rows) * size + cells[: windows * rows]
    return np.bincount(index, minlength=windows * size).reshape(windows, size)


def _merged(counts: Ints, groups: Ints) -> Ints:
    member = groups[:, None] == np.arange(int(groups.max()) + 1)
    merged: Ints = counts @ member.astype(np.int64)
    return merged


def _ks(live: Ints, rest: Ints) -> Floats:
    here: Floats = np.cumsum(live, axis=1) / live.sum(axis=1, keepdims=True)
    there: Floats = np.cumsum(rest, axis=1) / rest.sum(axis=1, keepdims=True)
    gap: Floats = np.abs(here - there).max(axis=1)
    return gap


def _kl(live: Ints, rest: Ints) -> Floats:
    """KL(live || rest) in nats, half a row added to every group."""
    p = (live + 0.5) / (live + 0.5).sum(axis=1, keepdims=True)
    q = (rest + 0.5) / (rest + 0.5).sum(axis=1, keepdims=True)
    total: Floats = (p * np.log(p / q)).sum(axis=1)
    return total


def _chi2_effect(live: Ints, rest: Ints) -> float:
    """Median over windows of the homogeneity statistic, over the median of chi-squared."""
    pooled = live + rest
    used = pooled.sum(axis=0) > 0
    freedom = int(used.sum()) - 1
    if freedom < 1:
        return 1.0
    n, m = live.sum(axis=1, keepdims=True), rest.sum(axis=1, keepdims=True)
    expected = (pooled * n / (n + m))[:, used]
    difference = live[:, used] - expected
    statistic = (difference**2 / expected * (n + m) / m).sum(axis=1)
    # Wilson and Hilferty (1931): the median of chi-squared with f degrees of freedom.
    median = freedom * (1 - 2 / (9 * freedom)) ** 3
    return float(np.median(statistic)) / median


def _quantiles(scores: Floats) -> list[float]:
    return [float(q) for q in np.quantile(scores, QUANTILES)]
