"""The quality of the answers: estimated from confidence at once, measured when feedback arrives.

Every figure is a sum, so hours, slices and servers add up, and a corrected label is subtracted
again.

- estimated accuracy: confidence-based performance estimation. The reliability table of the
  reference converts each confidence to the share of right answers at that confidence; the estimate
  is the mean of these shares. It holds under drifting inputs, but not if the relation between
  confidence and accuracy changes.
- expected calibration error: the sum over bins of share x |mean confidence - accuracy|, of labelled
  rows, in the bins of the reference (Naeini et al. 2015).
- value: the sum of value[true, predicted]. The estimate assumes that the answer is right with the
  calibrated probability; otherwise the true label follows the reference's confusion of that
  predicted label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.profile import Reference
from server.telemetry.quality.objective import Objective
from server.telemetry.rows import QualityRow, ReliabilityBin

Floats = NDArray[np.float64]
BINS = 15
MOST_DELAYS = 512  # kept for the median; later delays replace earlier ones in turn


@dataclass(frozen=True, slots=True, eq=False)
class Yardstick:
    """The tables that quality is measured with, for one stamp. `right[bin]` is the calibrated
    accuracy at a confidence. `expected[predicted]` is (value if right, mean value if wrong).
    `lost[predicted]` is the mean loss of a wrong answer against the right one."""

    labels: tuple[str, ...]
    edges: Floats
    right: Floats
    objective: Objective | None
    expected: Floats
    lost: Floats

    def bin(self, confidence: float) -> int:
        return int(np.searchsorted(self.edges, confidence, side="right"))

    def label(self, name: str) -> int:
        """The index of the label; the number of labels for a name unknown to this stamp."""
        return self.labels.index(name) if name in self.labels else len(self.labels)

    def estimated(self, predicted: str, confidence: float) -> float:
        """The value of an answer, estimated from its calibrated confidence; NaN without a
        confidence, or for a label without a value."""
        if math.isnan(confidence):
            return math.nan
        right = float(self.right[self.bin(confidence)])
        if_right, if_wrong = self.expected[self.label(predicted)]
        return float(right * if_right + (1 - right) * if_wrong)

    def realised(self, true: str, predicted: str, took_s: float) -> float:
        """The measured value of an answer; NaN if the objective does not define it."""
        places = self.label(true), self.label(predicted)
        if self.objective is None or max(places) >= len(self.labels):
            return math.nan
        return self.objective.worth(*places, took_s)


def yardstick(
    labels: Sequence[str], reference: Reference | None, objective: Objective | None
) -> Yardstick:
    """Without a reliability table, accuracy is assumed to equal confidence, in 15 equal bins."""
    table = reference.reliability if reference is not None else None
    if table is None:
        edges = np.arange(1, BINS) / BINS
        right = (np.arange(BINS) + 0.5) / BINS
    else:
        edges = table.edges
        # One more row at the mean confidence keeps an empty bin away from 0 and 1.
        mean = np.append(edges, 1.0)
        prior = np.where(table.n > 0, table.sum_confidence / np.maximum(table.n, 1), mean)
        right = (table.sum_correct + prior) / (table.n + 1)
    expected, lost = _expected(tuple(labels), reference, objective)
    return Yardstick(tuple(labels), edges, right, objective, expected, lost)


def _expected(
    labels: tuple[str, ...], reference: Reference | None, objective: Objective | None
) -> tuple[Floats, Floats]:
    size = len(labels)
    found, lost = np.full((size + 1, 2), np.nan), np.full(size + 1, np.nan)
    if objective is None:
        return found, lost
    wrong = np.ones((size, size)) - np.eye(size)
    if reference is not None and reference.confusion_labels == labels:
        wrong *= reference.confusion + 0.5  # add 1/2: an error that was not seen yet can happen
    share = wrong / np.maximum(wrong.sum(axis=0), 1e-12)
    best = np.diag(objective.value)
    found[:size, 0] = best
    found[:size, 1] = (share * objective.value).sum(axis=0)
    lost[:size] = (share * np.maximum(best[:, None] - objective.value, 0.0)).sum(axis=0)
    return found, lost


@dataclass(frozen=True, slots=True)
class Estimates:
    """A labelled prediction and how long its answer took. With `value` NaN, the objective
    determines the value."""

    confidence: float
    predicted: int
    true: int
    took_s: float
    value: float
    delay_s: float


@dataclass(slots=True, eq=False)
class QualityCounts:
    """The sums of one hour (by the time of the prediction), stamp and slice."""

    size: int
    bins: int
    n: Floats = field(init=False)
    confidence: Floats = field(init=False)
    labelled: Floats = field(init=False)
    labelled_confidence: Floats = field(init=False)
    correct: Floats = field(init=False)
    predicted: Floats = field(init=False)  # [labels, bins]
    confusion: NDArray[np.int64] = field(init=False)
    value: float = 0.0
    valued: int = 0
    delays: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n, self.confidence = np.zeros(self.bins), np.zeros(self.bins)
        self.labelled, self.labelled_confidence = np.zeros(self.bins), np.zeros(self.bins)
        self.correct = np.zeros(self.bins)
        self.predicted = np.zeros((self.size + 1, self.bins))
        self.confusion = np.zeros((self.size, self.size), np.int64)

    @staticmethod
    def of(stick: Yardstick) -> QualityCounts:
        return QualityCounts(len(stick.labels), len(stick.edges) + 1)

    def learn(self, stick: Yardstick, verdict: Estimates, sign: int = 1) -> None:
        """Adds a labelled prediction; `sign` -1 subtracts one whose label was corrected."""
        place = stick.bin(verdict.confidence)
        self.labelled[place] += sign
        self.labelled_confidence[place] += sign * verdict.confidence
        self.correct[place] += sign * (verdict.predicted == verdict.true)
        if max(verdict.predicted, verdict.true) < self.size:
            self.confusion[verdict.true, verdict.predicted] += sign
        worth = verdict.value
        if math.isnan(worth) and stick.objective is not None:
            if max(verdict.predicted, verdict.true) < self.size:
                worth = stick.objective.worth(verdict.true, verdict.predicted, verdict.took_s)
        if not math.isnan(worth):
            self.value += sign * worth
            self.valued += sign
        if sign > 0:
            if len(self.delays) < MOST_DELAYS:
                self.delays.append(verdict.delay_s)
            else:
                self.delays[int(self.labelled.sum()) % MOST_DELAYS] = verdict.delay_s

    def add(self, other: QualityCounts) -> None:
        for name in ("n", "confidence", "labelled", "labelled_confidence", "correct"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.predicted += other.predicted
        self.confusion += other.confusion
        self.value += other.value
        self.valued += other.valued
        self.delays = (self.delays + other.delays)[-MOST_DELAYS:]

    def row(
        self, stick: Yardstick, stamp: str, slice_: str, bucket_unix_s: int, width_s: int
    ) -> QualityRow:
        labelled = float(self.labelled.sum())
        return QualityRow(
            bucket_unix_s=bucket_unix_s,
            width_s=width_s,
            stamp=stamp,
            slice=slice_,
            predictions=int(self.n.sum()),
            labelled=int(labelled),
            accuracy=_mean(float(self.correct.sum()), labelled),
            estimated_accuracy=_mean(float(self.n @ stick.right), float(self.n.sum())),
            estimated_accuracy_labelled=_mean(float(self.labelled @ stick.right), labelled),
            value_per_1000=1000 * _mean(self.value, self.valued),
            estimated_value_per_1000=1000 * self._estimated_value(stick),
            ece=self._calibration_error(labelled),
            median_label_delay_s=median(self.delays) if self.delays else math.nan,
            reliability=tuple(
                ReliabilityBin(int(n), float(p), float(c))
                for n, p, c in zip(
                    self.labelled, self.labelled_confidence, self.correct, strict=True
                )
            ),
            labels=stick.labels,
            confusion=tuple(self.confusion.ravel().tolist()),
            value_unit=stick.objective.unit if stick.objective else "",
        )

    def _calibration_error(self, labelled: float) -> float:
        if not labelled:
            return math.nan
        gaps = np.abs(self.labelled_confidence - self.correct)
        return float(gaps.sum() / labelled)

    def _estimated_value(self, stick: Yardstick) -> float:
        """The mean over answers whose label is known to this stamp."""
        if stick.objective is None:
            return math.nan
        known = self.predicted[: self.size]
        right = stick.right[None, :]
        values = stick.expected[: self.size]
        worth = known * (right * values[:, :1] + (1 - right) * values[:, 1:])
        return _mean(float(worth.sum()), float(known.sum()))


def _mean(total: float, n: float) -> float:
    return total / n if n > 0 else math.nan
