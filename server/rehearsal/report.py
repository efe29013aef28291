"""The report of a rehearsal: its comparison, the worst slices and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from server.deploy.journal import bundle_of
from server.rehearsal.comparison import BundleComparison, by_slice, columns_of, comparison_of
from server.rehearsal.intervals import median_of, z_of
from server.rehearsal.paired_answers import AnswerPair
from server.rehearsal.verdict import Latency, RehearsalVerdict, judge, slice_line
from server.telemetry.quality.pricing import Yardsticks, yardsticks
from server.types import Facts

WORST = 5  # number of slices described


@dataclass(frozen=True, slots=True)
class Observations:
    """`times`: own work in ms of the active bundle and of the candidate; `timed` is the number of
    pairs tried. `tolerance`: the golden tolerance, the coarser one of the two bundles. `more`: how
    to get more payloads."""

    pairs: tuple[AnswerPair, ...]
    times: tuple[tuple[float, float], ...]
    timed: int
    left_out: int
    live_dropped: int
    tolerance: float
    more: str


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """`messages`: the worst slices, and notes needed to read the comparison."""

    active: Facts
    candidate: Facts
    verdict: RehearsalVerdict
    whole: BundleComparison
    slices: tuple[BundleComparison, ...]
    latency: Latency
    messages: tuple[str, ...]
    unit: str
    live: int
    live_dropped: int


def build_report(seen: Observations, active: Facts, candidate: Facts) -> RehearsalReport:
    """Reads both bundles' files, which takes a moment. Raises OSError, and the errors of
    `yardsticks`."""
    sticks = yardsticks(bundle_of(active), bundle_of(candidate))
    columns = columns_of(seen.pairs, sticks, seen.tolerance)
    whole, slices = comparison_of(columns), by_slice(columns, seen.pairs)
    latency = _latency(seen.times)
    labels = _labels(active, candidate)
    return RehearsalReport(
        active=active,
        candidate=candidate,
        verdict=judge(whole, slices, latency, labels, sticks.unit, seen.more),
        whole=whole,
        slices=tuple(slices),
        latency=latency,
        messages=tuple(_messages(seen, whole, slices, sticks)),
        unit=sticks.unit,
        live=sum(pair.live for pair in seen.pairs),
        live_dropped=seen.live_dropped,
    )


def _messages(
    seen: Observations,
    whole: BundleComparison,
    slices: Sequence[BundleComparison],
    sticks: Yardsticks,
) -> Iterator[str]:
    bad = [part for part in slices if part.changed_rows or part.lost_rows]
    yield from (slice_line(part, whole, sticks.unit) for part in bad[:WORST])
    if whole.near_tie_rows:
        yield (
            f"{whole.near_tie_rows} answers took another label at a near tie and do not count as "
            f"changed: both bundles have the two best probabilities within {seen.tolerance:g}, the "
            "golden tolerance"
        )
    if sticks.why:
        yield f"value: {sticks.why}"
    if seen.left_out:
        yield f"{seen.left_out} payloads could not be compared and were left out"
    if len(seen.times) < seen.timed:
        yield (
            f"times could be compared for {len(seen.times)} of {seen.timed} payloads: for the "
            "others one of the bundles was busy or gave no answer"
        )


def _latency(times: Sequence[tuple[float, float]]) -> Latency:
    if not times:
        return Latency(0)
    before, now = zip(*times, strict=True)
    ratios = np.array([b / max(a, 1e-6) for a, b in times])
    return Latency(len(times), median(before), median(now), median_of(ratios, z_of()))


def _labels(active: Facts, candidate: Facts) -> str:
    """How the candidate's labels differ; "" if they do not."""
    old, new = set(active.labels), set(candidate.labels)
    differences = [f"without {', '.join(sorted(old - new))}"] if old - new else []
    differences += [f"with {', '.join(sorted(new - old))}"] if new - old else []
    return f"it answers with other labels, {' and '.join(differences)}" if differences else ""
