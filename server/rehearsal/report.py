"""What a rehearsal has seen, put into figures, words and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from server.deploy.journal import bundle_of
from server.rehearsal.comparison import Figures, by_slice, columns_of, figures
from server.rehearsal.intervals import median_of, z_of
from server.rehearsal.paired_answers import Pair
from server.rehearsal.verdict import Latency, Verdict, in_words, judge
from server.telemetry.quality.pricing import Yardsticks, yardsticks
from server.types import Facts

WORST = 5  # slices put in words


@dataclass(frozen=True, slots=True)
class PendingRow:
    """`times`: own work in ms of the active bundle and of the candidate; `timed` is how many were
    tried. `more`: where more payloads come from."""

    pairs: tuple[Pair, ...]
    times: tuple[tuple[float, float], ...]
    timed: int
    left_out: int
    live_dropped: int
    more: str


@dataclass(frozen=True, slots=True)
class Judged:
    """`words`: the worst slices, and what else must be known to read the figures."""

    active: Facts
    candidate: Facts
    verdict: Verdict
    whole: Figures
    slices: tuple[Figures, ...]
    latency: Latency
    words: tuple[str, ...]
    unit: str
    live: int
    live_dropped: int


def review(seen: PendingRow, active: Facts, candidate: Facts) -> Judged:
    """Reads both bundles' files, and takes a moment. Raises OSError, and as `yardsticks` does."""
    sticks = yardsticks(bundle_of(active), bundle_of(candidate))
    columns = columns_of(seen.pairs, sticks)
    whole, slices = figures(columns), by_slice(columns, seen.pairs)
    latency = _latency(seen.times)
    labels = _labels(active, candidate)
    return Judged(
        active=active,
        candidate=candidate,
        verdict=judge(whole, slices, latency, labels, sticks.unit, seen.more),
        whole=whole,
        slices=tuple(slices),
        latency=latency,
        words=tuple(_words(seen, whole, slices, sticks)),
        unit=sticks.unit,
        live=sum(pair.live for pair in seen.pairs),
        live_dropped=seen.live_dropped,
    )


def _words(
    seen: PendingRow, whole: Figures, slices: Sequence[Figures], sticks: Yardsticks
) -> Iterator[str]:
    bad = [part for part in slices if part.changed_rows or part.lost_rows]
    yield from (in_words(part, whole, sticks.unit) for part in bad[:WORST])
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
    """How the candidate's labels differ; "" when they do not."""
    old, new = set(active.labels), set(candidate.labels)
    told = [f"without {', '.join(sorted(old - new))}"] if old - new else []
    told += [f"with {', '.join(sorted(new - old))}"] if new - old else []
    return f"it answers with other labels, {' and '.join(told)}" if told else ""
