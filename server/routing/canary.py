"""A loaded bundle that serves a share of the sessions, and the decision about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from server.pool.pool import Pool
from server.routing.canary_analysis import CanaryAnalysis, Measure

# A canary without any replica for this long is rolled back.
GONE_S = 3.0

Decision = Literal["", "back", "promote", "hold"]


@dataclass(slots=True, eq=False)
class Canary:
    """`clock` is seconds. `held`: its time was over, but the evidence was not sufficient."""

    pool: Pool
    share: float
    seconds: float
    analysis: CanaryAnalysis
    clock: Callable[[], float] = time.monotonic
    held: bool = False
    began: float = field(init=False)
    _served_at: float = field(init=False)
    _measures: tuple[Measure, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self.began = self._served_at = self.clock()

    def decide(self) -> tuple[Decision, str]:
        """What to do now ("": nothing yet), and the evidence for it."""
        now = self.clock()
        self._measures = self.analysis.measures()
        gone = self._gone(now) or self.analysis.broken()
        if gone:
            return "back", gone
        worse = [m for m in self._measures if m.verdict == "worse"]
        if worse:
            return "back", summary(worse)
        if now - self.began < self.seconds or self.held:
            return "", ""
        unsure = [m for m in self._measures if m.verdict == "unsure"]
        if unsure:
            self.held = True
            return "hold", summary(unsure)
        return "promote", summary(self._measures)

    def summary(self) -> str:
        """One line: share, bundle, time and results."""
        minutes, of = (self.clock() - self.began) / 60, self.seconds / 60
        name = self.pool.facts.stamp_name if self.pool.facts else ""
        how = "held: activate it or roll it back" if self.held else f"{minutes:.1f} of {of:g} min"
        found = "; ".join(
            f"{m.name} {m.verdict}" if m.verdict != "none" else f"{m.name} not compared, {m.detail}"
            for m in self._measures
        )
        return f"{self.share:.0%} of the sessions on {name}, {how}; {found or 'no rows yet'}"

    def evidence(self) -> str:
        return summary(self._measures)

    def _gone(self, now: float) -> str:
        if any(replica.state == "wrong" for replica in self.pool.statuses()):
            return f"it answers golden inputs wrongly: {self.pool.why_not()}"
        if self.pool.serving:
            self._served_at = now
        elif now - self._served_at > GONE_S:
            return f"no replica of it serves: {self.pool.last_death or self.pool.why_not()}"
        return ""


def summary(measures: list[Measure] | tuple[Measure, ...]) -> str:
    """The measures as text. It also names what was not compared, so that this does not count as
    good."""
    return "; ".join(
        f"{m.name} {'not compared' if m.verdict == 'none' else m.verdict}: {m.detail}"
        for m in measures
    )
