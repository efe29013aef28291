"""Measures the burstiness of live traffic: its design effect.

The reference of a bundle may consist of independent examples, while real clients send thirty
near-identical requests in a row. This module compares stretches of traffic with the day around
them, by the same measures as pipelines/build/calibration.py: contrasts of halves where the KS law
decides, chi-squared elsewhere. It uses medians, so a shift that affects less than half of the
stretches does not count as burstiness.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.measures import homogeneity
from server.telemetry.drift.profile import Floats, Ints

MIN_ROWS = 40
STRETCHES = 288  # a day of five-minute stretches
MIN_STRETCHES = 12
SMALL_PART = 4  # the rest of the day must have at least this many times the rows of a stretch
CHI2_1_MEDIAN = 0.45493642311957283  # median of chi-squared with one degree of freedom
# Standard error of a median of k ratios, times sqrt(k), relative.
CONTRAST_ERROR, CHI2_ERROR = 2.3, 0.5


class DesignEffect:
    """The ratios of the last `keep` stretches, each [measures, features].

    `error` is the relative standard error of a median, times the square root of the number of
    ratios. Each median is reduced by it: otherwise the largest of several noisy medians would halve
    the effective rows of calm traffic.
    """

    def __init__(self, layout: BinLayout, keep: int, error: float) -> None:
        self._layout = layout
        self._error = error
        self._ratios: deque[Floats] = deque(maxlen=keep)
        self._effects: Floats = np.ones(len(layout.sizes))
        self._enough = np.zeros(len(layout.sizes), dtype=bool)
        self._stretch: Ints = np.zeros(layout.total, dtype=np.int64)

    def add(self, counts: Ints, around: Ints) -> None:
        """Adds the flat counts since the last call; `around` has those of the whole day. A stretch
        ends when it has enough rows for most features."""
        self._stretch = self._stretch + counts
        cells, _ = self._layout.gather(self._stretch[None])
        if np.median(cells[0].sum(axis=-1)) >= MIN_ROWS:
            self._note(self._stretch, around)
            self._stretch = np.zeros_like(self._stretch)

    def _note(self, stretch: Ints, around: Ints) -> None:
        pair = np.stack([stretch, np.maximum(around - stretch, 0)])
        cells, groups = self._layout.gather(pair)
        n, m = cells.sum(axis=-1)
        comparable = (n >= MIN_ROWS / 2) & (m >= SMALL_PART * n)
        means = self._layout.halves(pair)
        with np.errstate(divide="ignore", invalid="ignore"):
            halves = (means[:, 0] - means[:, 1]) ** 2 / (1 / n + 1 / m) / CHI2_1_MEDIAN
        chi2 = dispersion(groups[0], groups[1])
        ratios = np.where(self._layout.kinds.by_ks, halves, np.stack([chi2, chi2]))
        self._ratios.append(np.where(comparable, ratios, np.nan))
        self._update()

    def _update(self) -> None:
        ratios = np.sort(np.stack(self._ratios), axis=0)  # NaN last
        count = np.isfinite(ratios).sum(axis=0)
        middle = np.maximum(count - 1, 0) // 2
        medians = np.take_along_axis(ratios, middle[None], axis=0)[0]
        by_ks = self._layout.kinds.by_ks
        error = np.where(by_ks, self._error, self._error * CHI2_ERROR / CONTRAST_ERROR)
        medians = medians / (1 + error / np.sqrt(np.maximum(count, 1)))
        self._enough = (count >= MIN_STRETCHES).all(axis=0)
        self._effects = np.where(self._enough, np.maximum(medians, 1.0), 1.0).max(axis=0)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The features whose design effect has been measured on enough stretches."""
        return self._enough

    def effects(self, unmeasured: float) -> Floats:
        """Design effect of each feature, at least 1; `unmeasured` for features with too few
        stretches."""
        return np.where(self._enough, self._effects, unmeasured)


def dispersion(here: Ints, rest: Ints) -> Floats:
    """Homogeneity statistic of two rows of counts [..., groups], divided by the median of its law;
    NaN if there is only one group."""
    statistic, freedom = homogeneity(here, rest)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Wilson and Hilferty (1931): the median of chi-squared with f degrees of freedom.
        found: Floats = statistic / (freedom * (1 - 2 / (9 * np.maximum(freedom, 1))) ** 3)
    return found
