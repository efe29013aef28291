"""The results of a load, their value, and whether a difference is more than noise."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

# Number of rounds that must all agree: by chance, five comparisons agree once in 32.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class TuningObjective:
    """`deadline_s` is set on every request; `p99_ms` is the limit for the latency of answers, 0:
    only the deadline counts."""

    deadline_s: float
    p99_ms: float = 0.0

    def met(self, load: LoadResult) -> bool:
        return bool(load.latencies_ms) and (not self.p99_ms or load.percentile(99) <= self.p99_ms)

    def __str__(self) -> str:
        limit = f"p99 at most {self.p99_ms:g} ms and " if self.p99_ms else ""
        return f"{limit}answers within {self.deadline_s:g} s"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One load: how many rows were answered in time, and how many were not."""

    callers: int
    seconds: float
    latencies_ms: tuple[float, ...]
    failed: int

    @property
    def per_second(self) -> float:
        """Answers in time for each second."""
        return len(self.latencies_ms) / max(self.seconds, 1e-9)

    def percentile(self, percent: int) -> float:
        """The smallest latency that `percent` % did not exceed; infinite without an answer."""
        ordered = sorted(self.latencies_ms)
        return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else math.inf


@dataclass(frozen=True, slots=True)
class Trial:
    """Loads of one setting with increasing numbers of callers."""

    loads: tuple[LoadResult, ...]

    def best(self, objective: TuningObjective) -> LoadResult | None:
        """The load with the most answers in time among those that meet the objective."""
        met = [load for load in self.loads if objective.met(load)]
        return max(met, key=lambda load: load.per_second, default=None)

    def worth(self, objective: TuningObjective) -> float:
        """Answers a second. A setting that never meets the objective counts less than any that
        does, and the less the slower it is."""
        best = self.best(objective)
        if best is not None:
            return best.per_second
        return -min((load.percentile(99) for load in self.loads), default=math.inf)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rounds in which two settings took turns."""

    ours: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        pairs = zip(self.ours, self.others, strict=True)
        return tuple(math.inf if b <= 0 < a else a / b if b > 0 else 1.0 for a, b in pairs)

    @property
    def always_above(self) -> bool:
        return min(self.ratios, default=0.0) > 1

    @property
    def better(self) -> bool:
        """Whether the setting won every round, and there were enough rounds."""
        return self.always_above and len(self.ratios) >= ROUNDS

    def __str__(self) -> str:
        if not self.ratios:
            return "not compared: no time was left"
        low, high = min(self.ratios), max(self.ratios)
        middle = statistics.median(self.ratios)
        return (
            f"{middle:.2f} times the default ({low:.2f} to {high:.2f} in {len(self.ratios)} rounds)"
        )
