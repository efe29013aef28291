"""Changes that need no statistical test: values the reference never had, values that went missing,
a stuck sensor.

They are checked on every tick and reported at once. A share alone is not enough, as a single burst
is not a change: at least ten effective rows are required as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from server.telemetry.drift.binning import EXTRA, BinLayout
from server.telemetry.drift.profile import FeatureReference, Floats, Ints
from server.telemetry.drift.scores import MIN_EFFECTIVE

SHARE = 0.01  # above the reference's own share
HIGH_SHARE, CRITICAL_SHARE = 0.10, 0.50
ENOUGH_ROWS = 100  # rows in a window; fewer cannot show a share of 1 %
MIN_ROWS = 10  # effective rows that changed
# A window that contains only one cell with less than this probability is a stuck feature.
BY_CHANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Structural:
    level: int  # index into drift.LEVELS
    message: str


NOTHING = Structural(0, "")

# (row of the window, feature) -> what changed there; unchanged features are left out.
StructuralChanges = Mapping[tuple[int, int], Structural]


def structural_changes(layout: BinLayout, flat: Ints, deff: Floats) -> StructuralChanges:
    """The changes in flat counts [rows, total]. One sum clears most features; only the rest is
    examined."""
    features = layout.reference.features
    suspect = _suspects(layout, flat)
    found = {}
    for row, position in zip(*np.nonzero(suspect), strict=True):
        start = layout.offsets[position]
        end = start + layout.sizes[position]
        missing, nonfinite, absent = flat[row, end : end + EXTRA].tolist()
        change = structural(
            features[position],
            flat[row, start:end],
            (missing, nonfinite, absent),
            float(deff[position]),
        )
        if change.level:
            found[int(row), int(position)] = change
    return found


def _suspects(layout: BinLayout, flat: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    odd = np.zeros(layout.total, dtype=np.int64)
    for position, feature in enumerate(layout.reference.features):
        end = layout.offsets[position] + layout.sizes[position]
        odd[layout.offsets[position] + feature.unseen()] = 1
        odd[end : end + 2] = 1  # missing, nonfinite
    starts = layout.offsets[:-1]
    strange = np.add.reduceat(flat * odd, starts, axis=1)
    # `absent` is not a value, so both sums exclude it.
    absent = flat[:, starts + layout.sizes + 2]
    total = np.add.reduceat(flat, starts, axis=1) - absent
    heaviest = np.maximum.reduceat(np.where(odd, 0, flat), starts, axis=1)
    return (total >= ENOUGH_ROWS) & ((strange >= MIN_ROWS) | (heaviest >= total))


def structural(
    feature: FeatureReference, counts: Ints, extras: tuple[int, int, int], deff: float
) -> Structural:
    """The worst structural change in a window; `extras` are missing, nonfinite, absent."""
    if not feature.n:
        return NOTHING
    found = [
        *_unseen(feature, counts, deff),
        *_lost(feature, counts, extras, deff),
        *_stuck(feature, counts, deff),
    ]
    return max(found, key=lambda s: s.level, default=NOTHING)


def _unseen(feature: FeatureReference, counts: Ints, deff: float) -> list[Structural]:
    n = int(counts.sum())
    cells = feature.unseen()
    found = []
    if feature.categorical:
        found.append(
            ("in a new category", int(counts[cells].sum()), int(feature.counts[cells].sum()))
        )
    elif feature.discrete:
        found.append(("at values never seen", int(counts[cells].sum()), 0))
    else:
        for what, cell in (("below", 0), ("above", -1)):
            found.append((f"{what} the reference range", int(counts[cell]), 0))
    return [share_change(what, rows, n, before, feature.n, deff) for what, rows, before in found]


def _lost(
    feature: FeatureReference, counts: Ints, extras: tuple[int, int, int], deff: float
) -> list[Structural]:
    missing, nonfinite, _ = extras
    n = int(counts.sum()) + missing + nonfinite
    total = feature.n + feature.missing + feature.nonfinite
    return [
        share_change("missing", missing, n, feature.missing, total, deff),
        share_change("not finite", nonfinite, n, feature.nonfinite, total, deff),
    ]


def share_change(what: str, rows: int, n: int, before: int, m: int, deff: float) -> Structural:
    """Whether `rows` of `n` live rows are beyond `before` of `m` in the reference; all at least 0,
    `m` above 0. `deff` is the design effect of the live rows."""
    # Even without a change, the next value lies outside the m earlier ones with probability 1 / (m
    # + 1).
    usual = (before + 1) / (m + 1)
    share = rows / n if n else 0.0
    if share - before / m < SHARE or rows < MIN_ROWS * deff or share < 4 * usual:
        return NOTHING
    level = 1 + (share >= HIGH_SHARE) + (share >= CRITICAL_SHARE)
    return Structural(
        level, f"{100 * share:.1f} % of rows {what} (reference {100 * before / m:.1f} %)"
    )


def _stuck(feature: FeatureReference, counts: Ints, deff: float) -> list[Structural]:
    n_effective = counts.sum() / deff
    top = int(counts.argmax())
    usual = feature.counts[top] / feature.n
    if n_effective < MIN_EFFECTIVE or counts[top] < counts.sum():
        return []
    if n_effective * np.log(max(usual, 1e-12)) > np.log(BY_CHANCE):
        return []
    return [
        Structural(
            2, f"all {int(counts.sum()):,} values are identical (reference {100 * usual:.1f} %)"
        )
    ]
