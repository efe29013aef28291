"""Compares a candidate with the active bundle, on rows that a random draw gave to one or the other.

The draw makes both sides alike in everything but the bundle, at the same time of day. The bounds
hold however often they are checked (server/routing/sequential_bounds.py). The rows of a session
count as a group, because they are alike. A candidate within its bounds is rolled back by all six
measures together with probability ALPHA at most.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.routing.sequential_bounds import Clustered, mean_halfwidth
from server.telemetry.quality.estimates import Yardstick
from server.telemetry.stamps.feedback import CORRECTED, JOINED, FeedbackItem, FeedbackResult
from server.types import Answer, Outcome, Work

ALPHA = 0.01
MEASURES = ("errors", "latency", "confidence", "estimated value", "accuracy", "realised value")
EACH = ALPHA / len(MEASURES)
MIN_ROWS, MIN_GROUPS, MIN_LABELLED = 100, 30, 30
MINUTE_S = 60.0
WINDOW_ROWS = 4000
LAST = 40  # number of last rows; if most of them fail, the canary ends without statistics
MOST_WAITING = 20_000  # predictions whose label may still arrive


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a candidate may cost.

    Failing rows: certainly more than `errors_back` rolls it back, certainly fewer than
    `errors_fine` is fine. (To show less than half a point more would take thousands of rows.) Slow
    rows take longer than `slow_times` the active bundle's p95 of the same minute: a share of them
    above `slow_share`, and above the active bundle's own share, rolls it back. Means may fall by
    `worse_sd` standard deviations of the rows.
    """

    errors_back: float = 0.005
    errors_fine: float = 0.02
    slow_times: float = 1.25
    slow_share: float = 0.05
    worse_sd: float = 0.2
    wrong_back: float = 0.02
    wrong_fine: float = 0.05


BOUNDS = Bounds()

MeasureVerdict = Literal["worse", "fine", "unsure", "none"]


@dataclass(frozen=True, slots=True)
class Measure:
    name: str
    verdict: MeasureVerdict
    detail: str


class CanarySide:
    """The statistics of the rows of one bundle."""

    def __init__(self, stick: Yardstick | None) -> None:
        self.stick = stick
        self.errors, self.slow = Clustered(), Clustered()
        self.confidence, self.value, self.realised = Clustered(), Clustered(), Clustered()
        self.wrong = Clustered()  # among answers whose true label is known
        self.last: deque[bool] = deque(maxlen=LAST)
        self.totals: deque[tuple[float, float]] = deque(maxlen=WINDOW_ROWS)

    def p95(self, now: float) -> float:
        """The 95th percentile over the last minute; NaN with too few rows."""
        recent = sorted(ms for at, ms in self.totals if now - at <= MINUTE_S)
        return recent[int(0.95 * len(recent))] if len(recent) >= MIN_GROUPS else math.nan

    @property
    def too_few(self) -> str:
        if self.errors.n < MIN_ROWS:
            return f"{self.errors.n} of {MIN_ROWS} rows"
        if self.errors.groups < MIN_GROUPS:
            return f"{self.errors.groups} of {MIN_GROUPS} sessions or requests"
        return ""


class CanaryAnalysis:
    """Receives every drawn row; `clock` is seconds."""

    def __init__(
        self,
        active: Yardstick | None = None,
        candidate: Yardstick | None = None,
        clock: Callable[[], float] = time.monotonic,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._bounds = bounds
        self.active, self.candidate = CanarySide(active), CanarySide(candidate)
        self._clock = clock
        self._slow_ms = math.nan
        self._waiting: OrderedDict[str, tuple[CanarySide, str, str, float]] = OrderedDict()

    # ---- in ----------------------------------------------------------------------------------

    def ended(self, on_candidate: bool, work: Work, outcome: Outcome) -> None:
        side = self.candidate if on_candidate else self.active
        fault, group = outcome.fault, work.session or work.request
        if fault is not None and fault.code == "CANCELLED":
            return
        side.errors.add(group, fault is not None)
        side.last.append(fault is not None)
        if outcome.answer is None or work.task == "generate":
            return
        total_ms = outcome.timing.total_ms
        side.totals.append((self._clock(), total_ms))
        if not math.isnan(self._slow_ms):
            side.slow.add(group, total_ms > self._slow_ms)
        if work.task == "classify":
            self._classified(side, group, work, outcome.answer, total_ms)

    def _classified(
        self, side: CanarySide, group: str, work: Work, answer: Answer, total_ms: float
    ) -> None:
        side.confidence.add(group, answer.confidence)
        value = math.nan
        if side.stick is not None:
            value = side.stick.estimated(answer.label, answer.confidence)
        if not math.isnan(value):
            side.value.add(group, value)
        self._waiting[work.id] = (side, group, answer.label, total_ms / 1e3)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)

    def learnt(self, item: FeedbackItem, result: FeedbackResult) -> None:
        """Take over a true label; if several arrive, the first counts."""
        if result.status not in (JOINED, CORRECTED):
            return
        side, group, predicted, took_s = self._waiting.pop(item.prediction_id, (None, "", "", 0.0))
        if side is None:
            return
        if item.label:
            side.wrong.add(group, item.label != predicted)
        if side.stick is None:
            return
        value = item.value
        if value is None:
            value = side.stick.realised(item.label, predicted, took_s) if item.label else math.nan
        if not math.isnan(value):
            side.realised.add(group, value)

    # ---- out ---------------------------------------------------------------------------------

    def broken(self) -> str:
        """Why no statistics are needed for a rollback, or ""."""
        ours, theirs = self.candidate.last, self.active.last
        if len(ours) < LAST or sum(ours) < LAST / 2 or sum(theirs) > len(theirs) / 4:
            return ""
        return f"{sum(ours)} of its last {LAST} rows failed, of the active bundle's {sum(theirs)}"

    def measures(self) -> tuple[Measure, ...]:
        """Each measure with the data so far; call it about once a second."""
        now = self._clock()
        limit = self.active.p95(now)
        self._slow_ms = self._bounds.slow_times * limit
        few = self.candidate.too_few or self.active.too_few
        if few:
            return (Measure("rows", "unsure", f"{few} so far"),)
        prices = self.active.stick.objective if self.active.stick is not None else None
        unit = prices.unit if prices is not None else ""
        return (
            self._errors(),
            self._latency(limit, self.candidate.p95(now)),
            self._mean("confidence", self.active.confidence, self.candidate.confidence, ""),
            self._mean("estimated value", self.active.value, self.candidate.value, unit),
            self._accuracy(),
            self._realised(unit),
        )

    def _errors(self) -> Measure:
        ours, theirs = self.candidate.errors, self.active.errors
        least, most = _more(ours, theirs)
        verdict: MeasureVerdict = "unsure"
        if least > self._bounds.errors_back:
            verdict = "worse"
        elif most < self._bounds.errors_fine:
            verdict = "fine"
        detail = (
            f"{ours.mean:.2%} of {ours.n} rows failed, active {theirs.mean:.2%} of {theirs.n}; "
            f"difference {least:+.2%} to {most:+.2%} (rolled back above "
            f"{self._bounds.errors_back:+.1%}, fine below {self._bounds.errors_fine:+.1%})"
        )
        return Measure("errors", verdict, detail)

    def _latency(self, active_ms: float, candidate_ms: float) -> Measure:
        slow, theirs = self.candidate.slow, self.active.slow
        low, high = slow.share_bounds(EACH / 2)
        verdict: MeasureVerdict = "unsure"
        # A slowdown of both bundles, by traffic or a busy neighbour, is not evidence against the
        # candidate.
        if low > self._bounds.slow_share and _more(slow, theirs)[0] > 0:
            verdict = "worse"
        elif high < self._bounds.slow_share:
            verdict = "fine"
        detail = (
            f"p95 {candidate_ms:.0f} ms, active {active_ms:.0f} ms in the same minute; "
            f"{100 * low:.1f}-{100 * high:.1f} % of {slow.n} rows slower than "
            f"{self._bounds.slow_times:g} x active p95 "
            f"(limit {100 * self._bounds.slow_share:g} %; active {100 * theirs.mean:.1f} %)"
        )
        return Measure("latency", verdict, detail)

    def _mean(self, name: str, theirs: Clustered, ours: Clustered, unit: str) -> Measure:
        if min(ours.groups, theirs.groups) < MIN_GROUPS:
            return Measure(name, "none", "too little to compare")
        bound = self._margin(theirs, ours)
        difference = ours.mean - theirs.mean
        half = mean_halfwidth(ours.variance + theirs.variance, bound, EACH) if bound else 0.0
        verdict: MeasureVerdict = "unsure"
        if difference + half < -bound:
            verdict = "worse"
        elif difference - half > -bound or (not bound and difference >= 0):
            verdict = "fine"
        detail = (
            f"mean {ours.mean:.4g} of {ours.n} rows, active {theirs.mean:.4g} of {theirs.n}; "
            f"difference {difference - half:+.3g} to {difference + half:+.3g} {unit}".rstrip()
            + f" (limit {-bound:+.3g})"
        )
        return Measure(name, verdict, detail)

    def _margin(self, theirs: Clustered, ours: Clustered) -> float:
        return self._bounds.worse_sd * max(theirs.deviation, ours.deviation)

    def _accuracy(self) -> Measure:
        """Values of single answers may differ so much that their mean shows little: a model with
        three times the errors is then seen first here. A candidate with more errors but a higher
        value continues, as the objective decides."""
        ours, theirs = self.candidate.wrong, self.active.wrong
        if min(ours.groups, theirs.groups) < MIN_LABELLED:
            return Measure("accuracy", "none", f"{ours.n} and {theirs.n} labels so far")
        least, most = _more(ours, theirs)
        worth_more = self.candidate.realised.mean > self.active.realised.mean
        verdict: MeasureVerdict = "none"
        if least > self._bounds.wrong_back and not worth_more:
            verdict = "worse"
        elif most < self._bounds.wrong_fine:
            verdict = "fine"
        elif ours.mean - theirs.mean > self._bounds.wrong_back and not worth_more:
            verdict = "unsure"
        detail = (
            f"{ours.mean:.1%} of {ours.n} wrong, active {theirs.mean:.1%} of {theirs.n}; "
            f"difference {least:+.1%} to {most:+.1%} "
            f"(rolled back above {self._bounds.wrong_back:+.0%})"
        )
        return Measure("accuracy", verdict, detail)

    def _realised(self, unit: str) -> Measure:
        """Labels arrive late and for few rows. Too few labels do not delay a decision, unless they
        point towards a rollback."""
        ours, theirs = self.candidate.realised, self.active.realised
        if min(ours.groups, theirs.groups) < MIN_LABELLED:
            return Measure("realised value", "none", f"{ours.n} and {theirs.n} labels so far")
        found = self._mean("realised value", theirs, ours, unit)
        points_down = ours.mean - theirs.mean < -self._margin(theirs, ours)
        if found.verdict == "unsure" and not points_down:
            return Measure(found.name, "none", found.detail)
        return found


def _more(ours: Clustered, theirs: Clustered) -> tuple[float, float]:
    """(least, most) by which the share of `ours` is larger than that of `theirs`."""
    low, high = ours.share_bounds(EACH / 2)
    their_low, their_high = theirs.share_bounds(EACH / 2)
    return low - their_high, high - their_low
