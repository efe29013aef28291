"""Compares two bundles on the same payloads: what changed, and what the change is worth, for all
payloads and for each slice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.rehearsal.intervals import (
    UNKNOWN,
    Floats,
    Interval,
    at_least,
    effective,
    mean_of,
    paired_shares,
    share_of,
    z_of,
)
from server.rehearsal.paired_answers import AnswerPair, BundleAnswer, other_label
from server.telemetry.quality.estimates import Yardstick
from server.telemetry.quality.pricing import Yardsticks

SMALLEST_SLICE = 10  # payloads; a smaller slice can show nothing
MOST_SLICES = 64
LABELLED = 30  # effective rows of feedback; with fewer the intervals themselves cannot be trusted


@dataclass(frozen=True, slots=True)
class Difference:
    """NaN: unknown. `difference` is now - before, on the same payloads."""

    before: float = math.nan
    now: float = math.nan
    difference: Interval = UNKNOWN


NOT_COMPARED = Difference()


@dataclass(frozen=True, slots=True)
class BundleComparison:
    """`slice` "" is the whole. Shares are of the requests that the payloads represent; `*_rows`
    count payloads. `lost`: answered before and not now; `gained`: the reverse. `near_tie_rows`: the
    label differs, and in both answers the two best probabilities are within the golden tolerance.
    These are not counted as changed, because another row of the batch or a thread count can flip
    them."""

    slice: str
    payloads: int
    effective: float
    changed: Interval
    changed_rows: int
    near_tie_rows: int
    lost: Interval
    lost_rows: int
    gained_rows: int
    confidence: Difference
    labelled: int
    labelled_effective: float
    accuracy: Difference
    value_per_1000: Difference
    estimated_value_per_1000: Difference
    # How often the active bundle is wrong, by feedback or else by confidence.
    active_error: Interval
    stake: float  # the cost, per 1,000 answers, when one of them changes from right to wrong


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One column for each measure and one row for each pair; NaN where unknown. `worth` is per
    1,000."""

    weight: Floats
    changed: Floats
    near_tie: Floats
    lost: Floats
    gained: Floats
    confidence: tuple[Floats, Floats]
    right: tuple[Floats, Floats]
    worth: tuple[Floats, Floats]
    expected: tuple[Floats, Floats]
    error: Floats
    stake: Floats

    def some(self, rows: NDArray[np.bool_]) -> Columns:
        def cut(column: Floats | tuple[Floats, Floats]) -> Any:
            if isinstance(column, tuple):
                return column[0][rows], column[1][rows]
            return column[rows]

        return Columns(*(cut(getattr(self, column.name)) for column in fields(self)))


def columns_of(pairs: Sequence[AnswerPair], sticks: Yardsticks, tolerance: float) -> Columns:
    """`tolerance`: the golden tolerance, the coarser one of the two bundles."""
    before, now = [p.before for p in pairs], [p.now for p in pairs]
    both = _array([not b.error and not n.error for b, n in zip(before, now, strict=True)])
    labels = [other_label(b, n, tolerance) for b, n in zip(before, now, strict=True)]
    changed, near_tie = (_array([one[i] for one in labels]) for i in (0, 1))
    answered = _array([not b.error for b in before])
    lost = _array([bool(n.error) for n in now])
    return Columns(
        weight=_weights(pairs),
        changed=np.where(both == 1, changed, np.nan),
        near_tie=np.where(both == 1, near_tie, np.nan),
        lost=np.where(answered == 1, lost, np.nan),
        gained=(1 - answered) * (1 - lost),
        confidence=(_confidence(before), _confidence(now)),
        right=(_right(pairs, before), _right(pairs, now)),
        worth=(_worth(pairs, before, sticks.before), _worth(pairs, now, sticks.now)),
        expected=(_expected(before, sticks.before), _expected(now, sticks.now)),
        error=1 - _calibrated(before, sticks.before),
        stake=_stake(before, sticks.before),
    )


def _weights(pairs: Sequence[AnswerPair]) -> Floats:
    """Kept payloads and live traffic are two samples of the same traffic. Each sample counts in
    proportion to its effective rows, whatever its sampling probability."""
    weights = _array([pair.weight for pair in pairs])
    live = np.array([pair.live for pair in pairs], dtype=bool)
    for part in (live, ~live):
        if part.any():
            weights[part] *= effective(weights[part]) / weights[part].sum()
    return weights


def comparison_of(columns: Columns, name: str = "", comparisons: int = 1) -> BundleComparison:
    """`comparisons`: how many such groups are examined together."""
    z, weight = z_of(comparisons=comparisons), columns.weight
    labelled = np.isfinite(columns.right[0])
    # A payload that the active bundle could not answer has no value to lose; only pairs are
    # compared.
    known = weight[labelled]
    accuracy = Difference(
        _mean(columns.right[0], weight),
        _mean(columns.right[1], weight),
        paired_shares(columns.right[0][labelled], columns.right[1][labelled], known, z),
    )
    error = share_of(1 - columns.right[0], weight, z)
    guessed = Interval(*(_mean(columns.error, weight),) * 3)
    stake = _mean(columns.stake, weight)
    worth = _compared(columns.worth, weight, z)
    # As wide as the interval of paired_shares if no answer had changed.
    unseen = z * abs(stake) * 1000 / (effective(known) + 2)
    return BundleComparison(
        slice=name,
        payloads=len(weight),
        effective=effective(weight),
        changed=share_of(columns.changed, weight, z),
        changed_rows=int(np.nansum(columns.changed)),
        near_tie_rows=int(np.nansum(columns.near_tie)),
        lost=share_of(columns.lost, weight, z),
        lost_rows=int(np.nansum(columns.lost)),
        gained_rows=int(columns.gained.sum()),
        confidence=_compared(columns.confidence, weight, z),
        labelled=int(labelled.sum()),
        labelled_effective=effective(known),
        accuracy=accuracy,
        value_per_1000=replace(worth, difference=at_least(worth.difference, unseen)),
        estimated_value_per_1000=_compared(columns.expected, weight, z),
        active_error=error if effective(known) >= LABELLED else guessed,
        stake=stake,
    )


def by_slice(columns: Columns, pairs: Sequence[AnswerPair]) -> list[BundleComparison]:
    """Comparisons of the slices with the most payloads, worst first."""
    counts = Counter(tag for pair in pairs for tag in pair.slices.items())
    large = [tag for tag, n in counts.most_common(MOST_SLICES) if SMALLEST_SLICE <= n < len(pairs)]
    found = []
    for name, value in large:
        rows = np.array([pair.slices.get(name) == value for pair in pairs], dtype=bool)
        found.append(comparison_of(columns.some(rows), f"{name}={value}", len(large)))
    return sorted(found, key=_badness, reverse=True)


def _badness(part: BundleComparison) -> tuple[float, float, float]:
    """The sort key: what has certainly changed, then what probably has."""
    lost, changed = part.lost, part.changed
    sure = max(_or_zero(lost.low), _or_zero(changed.low))
    return sure, max(_or_zero(lost.value), _or_zero(changed.value)), float(part.payloads)


def _compared(two: tuple[Floats, Floats], weight: Floats, z: float) -> Difference:
    known = np.isfinite(two[0]) & np.isfinite(two[1])
    if not known.any():
        return NOT_COMPARED
    before, now, weight = two[0][known], two[1][known], weight[known]
    difference = mean_of(now - before, weight, z)
    return Difference(_mean(before, weight), _mean(now, weight), difference)


def _confidence(answers: Sequence[BundleAnswer]) -> Floats:
    return _array([one.confidence for one in answers])


def _right(pairs: Sequence[AnswerPair], answers: Sequence[BundleAnswer]) -> Floats:
    """1 right, 0 wrong or refused; NaN if the true label is unknown, or the active bundle refused
    the payload too."""
    return _array(
        [
            float(one.label == pair.true_label)
            if pair.true_label and not pair.before.error
            else math.nan
            for pair, one in zip(pairs, answers, strict=True)
        ]
    )


def _worth(
    pairs: Sequence[AnswerPair], answers: Sequence[BundleAnswer], stick: Yardstick
) -> Floats:
    """The worth of answers. Both answers are assumed to take as long as the first one did."""
    return 1000 * _array(
        [
            stick.realised(pair.true_label, one.label, pair.took_s)
            for pair, one in zip(pairs, answers, strict=True)
        ]
    )


def _expected(answers: Sequence[BundleAnswer], stick: Yardstick) -> Floats:
    """The expected worth, estimated by the bundle's own calibration."""
    return 1000 * _array([stick.estimated(one.label, one.confidence) for one in answers])


def _stake(answers: Sequence[BundleAnswer], stick: Yardstick) -> Floats:
    values = stick.expected[[stick.label(one.label) for one in answers]]
    return values[:, 0] - values[:, 1]


def _calibrated(answers: Sequence[BundleAnswer], stick: Yardstick) -> Floats:
    """The probability that an answer is right, by the bundle's reliability table."""
    confidence = _confidence(answers)
    known = np.isfinite(confidence)
    found = np.full(len(answers), np.nan)
    found[known] = stick.right[np.searchsorted(stick.edges, confidence[known], side="right")]
    return found


def _array(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)


def _mean(values: Floats, weight: Floats) -> float:
    known = np.isfinite(values)
    total = float(weight[known].sum())
    return float(values[known] @ weight[known]) / total if total > 0 else math.nan


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


_COUNTS = (
    *("payloads", "effective", "changed_rows", "near_tie_rows", "lost_rows", "gained_rows"),
    "labelled",
)


def numbers(part: BundleComparison) -> Iterator[tuple[str, float]]:
    """Every known figure with its name."""
    for name in _COUNTS:
        yield name, getattr(part, name)
    found: list[tuple[str, float]] = []
    for name in ("changed", "lost", "active_error"):
        found += _three(name, getattr(part, name))
    for name in ("confidence", "accuracy", "value_per_1000", "estimated_value_per_1000"):
        compared: Difference = getattr(part, name)
        found += [(f"{name}_before", compared.before), (f"{name}_now", compared.now)]
        found += _three(f"{name}_difference", compared.difference)
    yield from (pair for pair in found if math.isfinite(pair[1]))


def _three(name: str, found: Interval) -> list[tuple[str, float]]:
    return [(name, found.value), (f"{name}_low", found.low), (f"{name}_high", found.high)]
