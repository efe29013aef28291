"""One tick: drift, structure and quality of every stamp with traffic, as rows and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from server.telemetry.cut_share import CutShare
from server.telemetry.drift.messages import drift_findings, drift_rows, structural_findings
from server.telemetry.drift.windows import HOUR_S, LONG_S
from server.telemetry.findings import Finding
from server.telemetry.quality.degradation import quality_finding
from server.telemetry.quality.estimates import QualityCounts
from server.telemetry.rows import DriftRow, ProfileRow, QualityRow, Row
from server.telemetry.stamps.baselines import Baselines
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.stamp_state import StampState
from server.telemetry.store.history import profile_row

KEPT_LEVELS = ("warning", "high", "critical")


@dataclass(eq=False)
class Evaluation:
    """`findings` and `rows` are those of the last tick."""

    states: Mapping[str, StampState]
    counting: Counting
    baselines: Baselines
    cut: CutShare

    def __post_init__(self) -> None:
        self.rows: list[DriftRow] = []
        self.findings: list[Finding] = []

    def tick(self, now: float) -> None:
        self.rows, self.findings = [], []
        for state in self.serving(now):
            tick = state.detector.tick(now, self.baselines.of(state, now))
            self.rows += drift_rows(state.detector, tick)
            self.findings += drift_findings(state.detector, tick)
            self.findings += structural_findings(state.detector, tick)
            usual = float(np.median(tick.deff)) if len(tick.deff) else 1.0
            self.findings.append(self.cut.finding(state.bundle.stamp, state.reference, usual, now))
            if state.embedding_detector is not None:
                deff = max((tick.deff[i] for i in state.embedding_places), default=1.0)
                rows, finding = state.embedding_detector.tick(now, float(deff))
                self.rows += rows
                self.findings.append(finding)
            self.findings += quality_finding(
                state.bundle.stamp,
                state.reference.reliability,
                state.stick,
                self._day_of_quality(state, now),
            )

    def serving(self, now: float) -> list[StampState]:
        """Stamps with traffic in the long window."""
        return [state for state in self.states.values() if state.last_at > now - LONG_S - HOUR_S]

    def worth_keeping(self, now: float) -> list[DriftRow]:
        """The rows to store: for all traffic at every tick, for slices once an hour and whenever
        something is wrong."""
        hourly = now % HOUR_S < 300
        return [
            row
            for row in self.rows
            if hourly or not row.slice or row.level in KEPT_LEVELS or row.structural
        ]

    def sums(self, now: float) -> Iterator[Row]:
        """Profiles and quality of the hours that are still filling, as absolute values."""
        for stamp, hour, name in list(self.counting.profiles.keys()):
            state = self.states.get(stamp)
            if state is not None and hour > now - 2 * HOUR_S:
                yield from _profiles(state, name, hour, self.counting)
        for (stamp, hour, name), counts in list(self.counting.quality.items()):
            state = self.states.get(stamp)
            if state is not None:
                yield quality_row(state, name, hour, counts)

    def _day_of_quality(self, state: StampState, now: float) -> QualityCounts:
        total = QualityCounts.of(state.stick)
        last = int(now // HOUR_S) * HOUR_S
        for hour in range(last - LONG_S, last + 1, HOUR_S):
            total.add(self.counting.quality_of(state.bundle.stamp, hour, ""))
        return total


def quality_row(state: StampState, name: str, hour: int, counts: QualityCounts) -> QualityRow:
    return counts.row(state.stick, state.bundle.stamp, name, hour, HOUR_S)


def _profiles(state: StampState, name: str, hour: int, counting: Counting) -> Iterator[ProfileRow]:
    block = counting.profiles.get((state.bundle.stamp, hour, name))
    if block is None:
        return
    for position, feature in enumerate(state.reference.features):
        profile = state.layout.profile(block, position)
        if profile.n or profile.missing or profile.nonfinite:
            where = (state.bundle.stamp, feature.name, name, hour)
            yield profile_row(where, profile, feature.centre, feature.step)
