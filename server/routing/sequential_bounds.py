"""Bounds that hold at every look, for comparisons that are checked repeatedly.

If one keeps looking, the truth leaves an ordinary 99 % interval sooner or later. It leaves these
bounds, at any time, with probability alpha at most: Ville's inequality for a mixture of likelihood
ratios (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021). Differences of means follow
Johari, Koomen, Pekelis and Walsh 2017; for data that is not normal the bounds are asymptotic
(Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021). Pure.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

MOST_OPEN = 10_000


def mean_halfwidth(variance: float, effect: float, alpha: float) -> float:
    """Half the width of the interval about an estimate with this `variance`: a normal mixture with
    a spread of `effect`, the size of difference for which it is narrowest."""
    if variance <= 0:
        return 0.0
    both = variance + effect * effect
    scale = 2 * variance * both / (effect * effect)
    return math.sqrt(scale * (math.log(1 / alpha) + 0.5 * math.log(both / variance)))


def share_bounds(hits: float, n: float, alpha: float) -> tuple[float, float]:
    """Bounds of a share that was seen `hits` times in `n`: beta-binomial mixture with a uniform
    prior. Exact for any n."""
    if n <= 0:
        return 0.0, 1.0
    mixture = math.lgamma(hits + 1) + math.lgamma(n - hits + 1) - math.lgamma(n + 2)
    limit = math.log(1 / alpha)

    def refuted(share: float) -> bool:
        likelihood = _times_log(hits, share) + _times_log(n - hits, 1 - share)
        return mixture - likelihood >= limit

    seen = hits / n
    return _boundary(seen, 0.0, refuted), _boundary(seen, 1.0, refuted)


def _times_log(count: float, share: float) -> float:
    if count <= 0:
        return 0.0
    return count * math.log(share) if share > 0 else -math.inf


def _boundary(inside: float, outside: float, refuted: Callable[[float], bool]) -> float:
    """The point between a value that is not refuted and the end of the range where refutation
    begins."""
    if not refuted(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


class Clustered:
    """A mean over rows that come in groups, and its variance.

    Rows of one session are alike. The variance is that of the groups' sums about the mean
    (linearised ratio, as for cluster samples in Cochran 1977, chapter 6), so a thousand rows of one
    session do not count as a thousand independent rows.
    """

    def __init__(self) -> None:
        self.n = 0
        self.groups = 0
        self._total = self._squares = 0.0  # over rows
        # Over groups: the sums of S squared, S n, n squared.
        self._sums = self._cross = self._sizes = 0.0
        self._open: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, group: str, value: float) -> None:
        """`group` "": a row that is a group of its own."""
        n, total = self._open.pop(group, (0, 0.0)) if group else (0, 0.0)
        self.groups += n == 0
        after = (n + 1, total + value)
        self._sums += after[1] ** 2 - total**2
        self._cross += after[0] * after[1] - n * total
        self._sizes += after[0] ** 2 - n**2
        self.n += 1
        self._total += value
        self._squares += value * value
        if group:
            self._open[group] = after
            if len(self._open) > MOST_OPEN:  # its later rows count as a new group
                self._open.popitem(last=False)

    @property
    def mean(self) -> float:
        return self._total / self.n if self.n else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation of the rows."""
        return math.sqrt(max(self._squares / self.n - self.mean**2, 0.0)) if self.n else math.nan

    @property
    def variance(self) -> float:
        """The variance of the mean."""
        if self.groups < 2:
            return math.inf
        mean = self.mean
        spread = self._sums - 2 * mean * self._cross + mean * mean * self._sizes
        return max(spread, 0.0) / self.n**2 * self.groups / (self.groups - 1)

    def share_bounds(self, alpha: float) -> tuple[float, float]:
        """Bounds of a mean of zeros and ones, for as many independent rows as the groups are
        equivalent to."""
        if self.groups < 2:
            return 0.0, 1.0
        alone = self.mean * (1 - self.mean) / self.n
        worth = max(1.0, self.variance / alone) if alone > 0 else 1.0
        # Without any variation it is unknown how alike the rows of a group are: count groups then.
        n = self.n / worth if alone > 0 else float(self.groups)
        return share_bounds(self.mean * n, n, alpha)
