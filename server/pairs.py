"""One payload answered by two bundles, and what both are measured with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.deploys import bundle_of
from server.telemetry import objective, reference
from server.telemetry.live import Bundle
from server.telemetry.objective import Objective
from server.telemetry.quality import Yardstick, yardstick
from server.telemetry.rows import PredictionRow
from server.types import Facts, Outcome

NO_SLICES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Said:
    """What one bundle said; `error` is CODE/REASON, and then the rest is empty."""

    label: str = ""
    confidence: float = math.nan
    error: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """`weight`: how many requests this one stands for. `true_label` "": not known yet."""

    weight: float
    before: Said
    now: Said
    took_s: float
    true_label: str = ""
    slices: Mapping[str, str] = field(default_factory=lambda: NO_SLICES)
    live: bool = False  # of live traffic, not of kept payloads


def said_by(outcome: Outcome) -> Said:
    if outcome.answer is not None:
        return Said(outcome.answer.label, outcome.answer.confidence)
    fault = outcome.fault
    return Said(error=f"{fault.code}/{fault.reason}" if fault else "")


def said_in(row: PredictionRow) -> Said:
    record = row.record
    if record.error:
        return Said(error="/".join(record.error.split("/")[:2]))
    return Said(record.label, record.confidence)


def slices_of(tags: Mapping[str, str], mix: str) -> dict[str, str]:
    return {**tags, "mix": mix}


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """Each bundle's calibration with one and the same objective, so that a bundle cannot raise its
    worth by its own table; `why` says why there is none."""

    before: Yardstick
    now: Yardstick
    why: str = ""

    @property
    def objective(self) -> Objective | None:
        return self.before.objective

    @property
    def unit(self) -> str:
        return self.objective.unit if self.objective is not None else ""


def yardsticks(active: Facts, candidate: Facts) -> Yardsticks:
    """Reads both bundles' files. Raises OSError, or a TelemetryError for a damaged one."""
    old, new = bundle_of(active), bundle_of(candidate)
    if set(old.labels) != set(new.labels):
        why = "the labels differ, so that no objective has a value for every pair"
        return Yardsticks(_stick(old, b""), _stick(new, b""), why)
    table = old.objective or new.objective
    why = "" if table else "neither bundle has an objective"
    if old.objective and new.objective and not _alike(old, new):
        why = "the objectives differ; both are measured with the active bundle's"
    return Yardsticks(_stick(old, table), _stick(new, table), why)


def _alike(old: Bundle, new: Bundle) -> bool:
    one = objective.parse(old.objective, old.labels)
    other = objective.parse(new.objective, old.labels)
    if one is None or other is None:
        return one is other
    same_window = bool((one.window_s == other.window_s).all())
    return bool((one.value == other.value).all()) and same_window and one.unit == other.unit


def _stick(bundle: Bundle, table: bytes) -> Yardstick:
    worth = objective.parse(table, bundle.labels) if table else None
    known = reference.parse(bundle.reference, bundle.schema) if bundle.reference else None
    return yardstick(bundle.labels, known, worth)
