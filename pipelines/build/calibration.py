"""Calibrates drift scores: how far apart two stretches of the reference itself lie.

Consecutive windows are compared with all other rows. For independent rows the scores would follow
known distributions. The design effect is how much larger they are; the server later divides its row
counts by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOW_ROWS = (250, 1000, 4000)
MIN_WINDOWS = 32  # fewer windows give no reliable variance
QUANTILES = (0.5, 0.9, 0.99)
FEW_CELLS = 16  # with fewer filled cells the server uses chi-squared, so it is measured here


def calibrate(cells: Ints, groups: Ints, size: int, kind: str) -> dict[str, Any]:
    """`deff` and, per window size, the quantiles of D and KL between a window and the rest.

    `cells` is the cell of each present row in time order. The design effect is the factor
    by which dependence inflates the deciding test: at least 1, the largest over the window sizes.
    For numeric features it is the variance of how many rows of a window lie in the lower half, and
    in the outer half, of the distribution, divided by that of independent rows. These two contrasts
    are shifts of location and of width, which change D most. For categories and few cells it is the
    mean or 90 % quantile of the chi-squared statistic, divided by that of its distribution (Rao and
    Scott, 1981).
    """
    deff, windows = 1.0, {}
    by_ks = kind != "categorical" and np.count_nonzero(np.bincount(cells)) >= FEW_CELLS
    for rows in WINDOW_ROWS:
        live = _counts(cells, rows, size)
        if len(live) < 2:
            continue
        rest = np.bincount(cells, minlength=size) - live
        here, there = _merged(live, groups), _merged(rest, groups)
        windows[str(rows)] = {
            "windows": len(live),
            "ks": _quantiles(_ks(live, rest)),
            "kl": _quantiles(_kl(here, there)),
        }
        if len(live) >= MIN_WINDOWS:
            effect = _halves_effect(live, rest) if by_ks else _chi2_effect(here, there)
            deff = max(deff, effect)
    return {"deff": deff, "windows": windows}


def _counts(cells: Ints, rows: int, size: int) -> Ints:
    """[windows, size] counts of consecutive windows of `rows`, without the incomplete last one."""
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


def _halves_effect(live: Ints, rest: Ints) -> float:
    """The larger of the two variances, over windows, of the contrasts of `halves`."""
    n, m = live.sum(axis=1), rest.sum(axis=1)
    scores = halves((live + rest)[0])
    apart = (live @ scores.T / n[:, None] - rest @ scores.T / m[:, None]) ** 2
    return float((apart / (1 / n + 1 / m)[:, None]).mean(axis=0).max())


def halves(counts: Ints) -> Floats:
    """[2, cells]: +1 and -1 for the lower and upper half, and for the outer and inner half, of the
    counted rows, scaled to mean 0 and variance 1; 0 when all rows share a cell."""
    shares = counts / counts.sum()
    middle = np.cumsum(shares) - shares / 2
    scores = np.sign(np.cos(np.pi * np.outer((1, 2), middle)))
    scores -= (scores * shares).sum(axis=1, keepdims=True)
    spread = np.sqrt((scores**2 * shares).sum(axis=1, keepdims=True))
    return scores / np.where(spread > 1e-9, spread, np.inf)


def _chi2_effect(live: Ints, rest: Ints) -> float:
    pooled = live + rest
    used = pooled.sum(axis=0) > 0
    freedom = int(used.sum()) - 1
    if freedom < 1:
        return 1.0
    n, m = live.sum(axis=1, keepdims=True), rest.sum(axis=1, keepdims=True)
    expected = (pooled * n / (n + m))[:, used]
    statistic = ((live[:, used] - expected) ** 2 / expected * (n + m) / m).sum(axis=1)
    # Wilson and Hilferty (1931): the 90 % quantile of chi-squared with f degrees of freedom.
    high = freedom * (1 - 2 / (9 * freedom) + 1.2816 * np.sqrt(2 / (9 * freedom))) ** 3
    return float(max(statistic.mean() / freedom, np.quantile(statistic, 0.9) / high))


def _quantiles(scores: Floats) -> list[float]:
    return [float(q) for q in np.quantile(scores, QUANTILES)]
