"""Evaluates drift once a tick: every feature x slice x window of one stamp against a baseline.

It uses neither a database nor a clock. The steps of `tick`, in order: windows, design effects,
scores, false discovery rate, confirmation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift import scores
from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.confirmation import UNKNOWN, Confirmation, limits
from server.telemetry.drift.design_effect import CONTRAST_ERROR, STRETCHES, DesignEffect
from server.telemetry.drift.profile import Floats, Ints
from server.telemetry.drift.scores import DriftScores, SideCounts
from server.telemetry.drift.structural import StructuralChanges, structural_changes
from server.telemetry.drift.windows import HOUR_S, LONG_S, SLOT_S, SLOTS, WINDOWS, TrailingWindows

FAMILIES = ("output", "embedding")  # tested separately; all other modalities are inputs
HOUR_STRETCHES = 48
HIGH = scores.LEVELS.index("high")

StoredLevel = tuple[int, str, str, int, str]  # tick in unix ms, feature, slice, window, level


@dataclass(frozen=True, slots=True)
class Baseline:
    """The flat counts, by slice, that live counts are compared with. A slice without a baseline is
    "learning", not "ok"."""

    name: str
    counts: Mapping[str, Ints]


@dataclass(frozen=True, slots=True, eq=False)
class WindowResult:
    """One window of all slices: every array is [slices, features]. `level` is UNKNOWN if there are
    too few rows; `known` is False if the baseline has none."""

    window_s: int
    found: DriftScores
    q: Floats
    level: NDArray[np.int64]
    calm: NDArray[np.bool_]
    known: NDArray[np.bool_]
    changes: StructuralChanges


@dataclass(frozen=True, slots=True, eq=False)
class DriftTick:
    """The result of one tick; messages.py turns it into rows and findings."""

    now: float
    slices: list[str]
    baseline: str
    deff: Floats
    looks: list[WindowResult]
    open: Mapping[str, NDArray[np.bool_]]  # slice -> [features, windows]
    confirmed: Mapping[str, NDArray[np.int8]]


class DriftDetector:
    """The state of one stamp between ticks."""

    def __init__(
        self, stamp: str, layout: BinLayout, windows: TrailingWindows, tick_s: float = SLOT_S
    ) -> None:
        self.stamp = stamp
        self.layout = layout
        self.windows = windows
        self._features = layout.reference.features
        self._confirmation = Confirmation(len(self._features), WINDOWS, tick_s)
        self._minutes = DesignEffect(layout, STRETCHES, error=1.0)
        self._hours = DesignEffect(layout, HOUR_STRETCHES, error=CONTRAST_ERROR)
        self._own_deff = np.array([f.deff for f in self._features])
        self._noted_slot = self._noted_hour = -1
        names = [f.spec.modality for f in self._features]
        self._families = [np.flatnonzero([n == family for n in names]) for family in FAMILIES] + [
            np.flatnonzero([n not in FAMILIES for n in names])
        ]

    def tick(self, now: float, baselines: Mapping[int, Baseline]) -> DriftTick:
        """Call it about every `tick_s`; see Confirmation for skipped ticks. `baselines` is by
        window."""
        self._confirmation.move_to(now)
        self.windows.advance(now)
        self._note_bursts(now)
        slices = self.windows.slices()
        for gone in set(self._confirmation.slices()) - set(slices):
            self._confirmation.forget(gone)
        deff = np.maximum(self._own_deff, self._minutes.effects(scores.UNMEASURED))
        deff = np.maximum(deff, self._hours.effects(1.0))
        looks = [self._look(now, w, slices, baselines[w], deff) for w in WINDOWS]
        for at, name in enumerate(slices):
            level = np.stack([look.level[at] for look in looks], axis=1).astype(np.int8)
            self._confirmation.note(name, level, np.stack([k.calm[at] for k in looks], axis=1))
        return DriftTick(
            now,
            slices,
            baselines[WINDOWS[0]].name,
            deff,
            looks,
            {s: self._confirmation.open(s) for s in slices},
            {s: self._confirmation.confirmed(s) for s in slices},
        )

    def restore(self, judged: Iterable[StoredLevel]) -> None:
        """Restores the levels of earlier ticks after a restart, oldest first, so that open alerts
        stay open. Ticks and slices without a level are unknown."""
        places = {f.name: i for i, f in enumerate(self._features)}
        unknown = np.full((len(places), len(WINDOWS)), UNKNOWN, dtype=np.int8)
        for at_ms, ticks in groupby(judged, key=lambda row: row[0]):
            levels: dict[str, NDArray[np.int8]] = {}
            for _, feature, name, window_s, level in ticks:
                if feature in places and window_s in WINDOWS and level in scores.LEVELS:
                    of_slice = levels.setdefault(name, unknown.copy())
                    where = places[feature], WINDOWS.index(window_s)
                    of_slice[where] = scores.LEVELS.index(level)
            self._confirmation.move_to(at_ms / 1000)
            for name, found in levels.items():
                self._confirmation.note(name, found, np.zeros(found.shape, dtype=bool))

    def _look(
        self, now: float, window_s: int, slices: list[str], baseline: Baseline, deff: Floats
    ) -> WindowResult:
        live = np.stack([self.windows.window(s, now, window_s) for s in slices])
        none = np.zeros(self.layout.total, dtype=np.int64)
        base = np.stack([baseline.counts.get(s, none) for s in slices])
        here, there = self.layout.gather(live), self.layout.gather(base)
        found = scores.measure(
            SideCounts(*here, deff), SideCounts(*there, self._own_deff), self.layout.kinds
        )
        q = self._discoveries(found.p, found.sufficient, slices)
        known = there[0].sum(axis=-1) > 0
        # Before burstiness is measured, a burst looks like a large shift of few rows.
        measured = known & self._minutes.measured
        few = found.few & measured
        q = np.where(few, self._discoveries(found.p, few, slices), q)
        large, over = scores.levels_of_few(found, q)
        opening, closing = limits(window_s)
        level = scores.levels_of(found, q, 1.0, opening)
        calm = scores.levels_of(found, q, scores.CALM, closing)
        return WindowResult(
            window_s=window_s,
            found=found,
            q=q,
            level=np.where(known & found.sufficient, level, np.where(large, HIGH, UNKNOWN)),
            calm=np.where(found.sufficient, calm == 0, over & measured),
            known=known,
            changes=structural_changes(self.layout, live, deff),
        )

    def _discoveries(self, p: Floats, tested: NDArray[np.bool_], slices: list[str]) -> Floats:
        """Benjamini-Hochberg within each family of features, separately for all traffic and for the
        slices. Comparisons with too few rows are not tests and do not affect the others."""
        q = np.ones_like(p)
        whole = np.array([s == "" for s in slices])
        for members in self._families:
            for part in (whole, ~whole):
                pick = np.zeros_like(tested)
                pick[np.ix_(np.flatnonzero(part), members)] = True
                pick &= tested
                q[pick] = scores.benjamini_hochberg(p[pick])
        return q

    def _note_bursts(self, now: float) -> None:
        """Passes the whole slots and hours since the last tick to the two estimators."""
        slot, hour = int(now // SLOT_S), int(now // HOUR_S)
        if slot == self._noted_slot:
            return
        day = self.windows.window("", now, LONG_S)
        first = slot - 1 if self._noted_slot < 0 else max(self._noted_slot, slot - SLOTS)
        self._minutes.add(self.windows.slot_sum("", first, slot - 1), day)
        if hour != self._noted_hour:
            self._hours.add(self.windows.slot_sum("", slot - SLOTS, slot - 1), day)
        self._noted_slot, self._noted_hour = slot, hour


def bundle_baseline(layout: BinLayout) -> Baseline:
    """The flat counts of the bundle's reference, for all traffic and each of its slices."""
    reference = layout.reference
    if reference.learning:
        return Baseline("bundle", {})
    counts = {}
    for name in ("", *reference.slices):
        flat = np.zeros(layout.total, dtype=np.int64)
        for position in range(len(reference.features)):
            part = reference.counts(position, name)
            start = layout.offsets[position]
            if part is not None:
                flat[start : start + len(part)] = part
        counts[name] = flat
    return Baseline("learnt" if reference.learnt else "bundle", counts)
