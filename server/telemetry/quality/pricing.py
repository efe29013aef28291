"""Values the decisions of two bundles by the same objective."""

from __future__ import annotations

from dataclasses import dataclass

from server.telemetry.drift import reference
from server.telemetry.quality import objective
from server.telemetry.quality.estimates import Yardstick, yardstick
from server.telemetry.quality.objective import Objective
from server.telemetry.record import BundleFiles


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """The calibration of each bundle with one objective for both, so that a bundle cannot raise its
    value by its own objective. `why` explains why there is no objective, or which one is used."""

    before: Yardstick
    now: Yardstick
    why: str = ""

    @property
    def unit(self) -> str:
        return self.before.objective.unit if self.before.objective is not None else ""


def yardsticks(old: BundleFiles, new: BundleFiles) -> Yardsticks:
    """Raises a TelemetryError for a damaged file."""
    if set(old.labels) != set(new.labels):
        why = "the label sets differ, so no objective covers both"
        return Yardsticks(_stick(old, b""), _stick(new, b""), why)
    table = old.objective or new.objective
    why = "" if table else "neither bundle has an objective"
    if old.objective and new.objective and not _alike(old, new):
        why = "the objectives differ; the active bundle's is used for both"
    return Yardsticks(_stick(old, table), _stick(new, table), why)


def _alike(old: BundleFiles, new: BundleFiles) -> bool:
    one, other = _objective(old.objective, old), _objective(new.objective, old)
    if one is None or other is None:
        return one is other
    same_window = bool((one.window_s == other.window_s).all())
    return bool((one.value == other.value).all()) and same_window and one.unit == other.unit


def _objective(table: bytes, bundle: BundleFiles) -> Objective | None:
    return objective.parse(table, bundle.labels) if table else None


def _stick(bundle: BundleFiles, table: bytes) -> Yardstick:
    known = reference.parse(bundle.reference, bundle.schema) if bundle.reference else None
    return yardstick(bundle.labels, known, _objective(table, bundle))
