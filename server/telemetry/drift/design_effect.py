"""How bursty live traffic is: the design effect measured from the traffic itself.

The bundle's reference may have been made from independent examples while real clients send thirty
near-identical requests in a row. Stretches of traffic are compared with the day around them, in
the same measures as in pipelines/build/calibration.py: contrasts of halves where the KS law
decides, chi-squared elsewhere. Medians keep a shift that fills less than half of the stretches
from passing for burstiness.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.profile import Floats, Ints

MIN_ROWS = 40
STRETCHES = 288  # a day of five-minute stretches
MIN_STRETCHES = 12
SMALL_PART = 4  # the day must hold so many times the stretch's rows beside it
CHI2_1_MEDIAN = 0.45493642311957283  # median of chi-squared with one degree of freedom
# Standard error of a median of k ratios, times sqrt(k), relative.
CONTRAST_ERROR, CHI2_ERROR = 2.3, 0.5


class DesignEffect:
    """The ratios of the last `keep` stretches, [measures, features] each.

    `error` standard errors of a median, relative, times the square root of their number, are taken
    off: the largest of several noisy medians would otherwise halve the rows of calm traffic.
    """

    def __init__(self, layout: BinLayout, keep: int, error: float) -> None:
        self._layout = layout
        self._error = error
        self._ratios: deque[Floats] = deque(maxlen=keep)
        self._effects: Floats = np.ones(len(layout.sizes))
        self._enough = np.zeros(len(layout.sizes), dtype=bool)
        self._stretch: Ints = np.zeros(layout.total, dtype=np.int64)

    def add(self, counts: Ints, around: Ints) -> None:
        """Flat counts since the last call, and of the day that holds them. A stretch is closed
        when it has rows enough for most features."""
        self._stretch = self._stretch + counts
        cells, _ = self._layout.gather(self._stretch[None])
        if np.median(cells[0].sum(axis=-1)) >= MIN_ROWS:
            self._note(self._stretch, around)
            self._stretch = np.zeros_like(self._stretch)

    def _note(self, stretch: Ints, around: Ints) -> None:
        pair = np.stack([stretch, np.maximum(around - stretch, 0)])
        cells, groups = self._layout.gather(pair)
        n, m = cells.sum(axis=-1)
        tellable = (n >= MIN_ROWS / 2) & (m >= SMALL_PART * n)
        means = self._layout.halves(pair)
        with np.errstate(divide="ignore", invalid="ignore"):
            halves = (means[:, 0] - means[:, 1]) ** 2 / (1 / n + 1 / m) / CHI2_1_MEDIAN
        chi2 = dispersion(groups[0], groups[1])
        ratios = np.where(self._layout.kinds.by_ks, halves, np.stack([chi2, chi2]))
        self._ratios.append(np.where(tellable, ratios, np.nan))
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
        """Of which features enough stretches have been seen to tell."""
        return self._enough

    def effects(self, unmeasured: float) -> Floats:
        """Design effect of each feature, never below 1; `unmeasured` while there are too few
        stretches to tell."""
        return np.where(self._enough, self._effects, unmeasured)


def dispersion(here: Ints, rest: Ints) -> Floats:
    """Homogeneity statistic of two rows of counts [..., groups] over the median of its law; NaN
    where there is but one group."""
    n, m = here.sum(axis=-1, keepdims=True), rest.sum(axis=-1, keepdims=True)
    used = here + rest > 0
    freedom = used.sum(axis=-1) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = (here + rest) * (n / (n + m))
        term = (here - expected) ** 2 / expected * ((n + m) / m)
        statistic = np.where(used, term, 0.0).sum(axis=-1)
        # Wilson and Hilferty (1931): the median of chi-squared with f degrees of freedom.
        found: Floats = statistic / (freedom * (1 - 2 / (9 * np.maximum(freedom, 1))) ** 3)
    return found
