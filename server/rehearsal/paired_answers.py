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
    """The answer of one bundle; `error` is CODE/REASON, and then the rest is empty."""

    label: str = ""
    confidence: float = math.nan
    error: str = ""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """`weight`: how many requests this one stands for. `true_label` "": not known yet."""

    weight: float
    before: BundleAnswer
    now: BundleAnswer
    took_s: float
    true_label: str = ""
    slices: Mapping[str, str] = field(default_factory=lambda: NO_SLICES)
    live: bool = False  # of live traffic, not of kept payloads


def answer_of_outcome(outcome: Outcome) -> BundleAnswer:
    if outcome.answer is not None:
        return BundleAnswer(outcome.answer.label, outcome.answer.confidence)
    fault = outcome.fault
    return BundleAnswer(error=f"{fault.code}/{fault.reason}" if fault else "")


def answer_of_row(row: PredictionRow) -> BundleAnswer:
    record = row.record
    if record.error:
        return BundleAnswer(error="/".join(record.error.split("/")[:2]))
    return BundleAnswer(record.label, record.confidence)


def slices_of(tags: Mapping[str, str], mix: str) -> dict[str, str]:
    return {**tags, "mix": mix}
