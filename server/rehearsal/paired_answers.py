"""One payload answered by two bundles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.telemetry.rows import PredictionRow
from server.types import Outcome

NO_SLICES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class BundleAnswer:
    """The answer of one bundle. If `error` (CODE/REASON) is set, the rest is empty. `margin`: the
    best probability minus the second best."""

    label: str = ""
    confidence: float = math.nan
    margin: float = math.nan
    error: str = ""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """`weight`: how many requests this pair represents. `true_label` "": not known yet."""

    weight: float
    before: BundleAnswer
    now: BundleAnswer
    took_s: float
    true_label: str = ""
    slices: Mapping[str, str] = field(default_factory=lambda: NO_SLICES)
    live: bool = False  # from live traffic, not from kept payloads


def other_label(before: BundleAnswer, now: BundleAnswer, tolerance: float) -> tuple[bool, bool]:
    """Whether the label changed, and whether it flipped at a near tie instead. At a near tie, the
    two best probabilities of both answers differ by at most the tolerance. An unknown margin does
    not count as a tie."""
    if before.label == now.label:
        return False, False
    tie = before.margin <= tolerance and now.margin <= tolerance
    return not tie, tie


def answer_of_outcome(outcome: Outcome) -> BundleAnswer:
    if outcome.answer is not None:
        return BundleAnswer(outcome.answer.label, outcome.answer.confidence, outcome.answer.margin)
    fault = outcome.fault
    return BundleAnswer(error=f"{fault.code}/{fault.reason}" if fault else "")


def answer_of_row(row: PredictionRow) -> BundleAnswer:
    record = row.record
    if record.error:
        return BundleAnswer(error="/".join(record.error.split("/")[:2]))
    return BundleAnswer(record.label, record.confidence, record.margin)


def slices_of(tags: Mapping[str, str], mix: str) -> dict[str, str]:
    return {**tags, "mix": mix}
