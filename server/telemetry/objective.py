"""What the bundle's decisions are worth: objective.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.errors import TelemetryError


class ObjectiveRefused(TelemetryError):
    """objective.json cannot be read or does not fit the labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """`value[true, predicted]` is the worth of one decision in `unit`; a decision that comes later
    than `window_s` after its request helps nobody: its costs stay, its benefit is gone."""

    labels: tuple[str, ...]
    value: NDArray[np.float64]
    unit: str
    window_s: float

    def worth(self, true: int, predicted: int, late: bool) -> float:
        value = float(self.value[true, predicted])
        return min(value, 0.0) if late else value


def parse(data: bytes, labels: Sequence[str]) -> Objective | None:
    """None for an empty objective. Raises ObjectiveRefused when it is damaged or lacks a label."""
    try:
        content = json.loads(data)
        if not content:
            return None
        table = content["value"]
        value = np.array([[float(table[t][p]) for p in labels] for t in labels])
        window_s = float(content.get("window_s", math.inf))
        unit = str(content["unit"])
    except (KeyError, TypeError, ValueError) as fault:
        raise ObjectiveRefused(f"objective.json: {fault!r}") from fault
    if set(table) != set(labels) or not np.isfinite(value).all() or not window_s > 0:
        raise ObjectiveRefused("objective.json: a finite value for every pair of labels, no others")
    return Objective(tuple(labels), value, unit, window_s)
