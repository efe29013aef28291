"""What one prediction is worth, as its bundle's objective and calibration say."""

from __future__ import annotations

from dataclasses import dataclass

from server.telemetry import objective, reference
from server.telemetry.errors import TelemetryError
from server.telemetry.live import Bundle
from server.telemetry.quality import Yardstick, yardstick


@dataclass(frozen=True, slots=True)
class Worth:
    """`unit` "": the bundle has no objective, and nothing has a value."""

    stick: Yardstick
    unit: str

    def estimated(self, said: str, confidence: float) -> float:
        """From the calibrated confidence, as in quality.py; NaN for a label without a value."""
        place = self.stick.label(said)
        right = float(self.stick.right[self.stick.bin(confidence)])
        if_right, if_wrong = self.stick.expected[place]
        return float(right * if_right + (1 - right) * if_wrong)

    def realised(self, true: str, said: str, took_s: float) -> float:
        """NaN where the objective does not say."""
        wanted = self.stick.objective
        places = self.stick.label(true), self.stick.label(said)
        if wanted is None or max(places) >= len(self.stick.labels):
            return float("nan")
        return wanted.worth(*places, took_s)


def worth(bundle: Bundle, valued_by: Bundle) -> Worth:
    """Decisions of `bundle` at the values of `valued_by`, where the labels are the same: bundles
    are compared by one price list. Raises TelemetryError for files that do not fit."""
    labels = bundle.labels
    profile = reference.parse(bundle.reference, bundle.schema) if bundle.reference else None
    prices = valued_by if set(valued_by.labels) == set(labels) else bundle
    try:
        wanted = objective.parse(prices.objective, labels) if prices.objective else None
    except objective.ObjectiveRefused as fault:
        raise TelemetryError(str(fault)) from fault
    return Worth(yardstick(labels, profile, wanted), wanted.unit if wanted else "")
