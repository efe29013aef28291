"""The value of the bundle's decisions: objective.json."""

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
    """`value[true, predicted]` is the value of one decision in `unit`. A decision later than
    `window_s[true]` after its request keeps its costs but has no benefit."""

    labels: tuple[str, ...]
    value: NDArray[np.float64]
    unit: str
    window_s: NDArray[np.float64]

    def worth(self, true: int, predicted: int, took_s: float) -> float:
        value = float(self.value[true, predicted])
        return min(value, 0.0) if took_s > self.window_s[true] else value


def parse(data: bytes, labels: Sequence[str]) -> Objective | None:
    """None for an empty objective. `window_s` is one number, or one for each true label.

    Raises ObjectiveRefused if it is damaged or lacks a label.
    """
    try:
        content = json.loads(data)
        if not content:
            return None
        table = content["value"]
        value = np.array([[float(table[t][p]) for p in labels] for t in labels])
        given = content.get("window_s", math.inf)
        each = given if isinstance(given, dict) else dict.fromkeys(labels, given)
        window_s = np.array([float(each[label]) for label in labels])
        unit = str(content["unit"])
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as fault:
        # An error about bytes that are not UTF-8 holds all of them.
        what = f"{type(fault).__name__}: {str(fault)[:200]}"
        raise ObjectiveRefused(f"objective.json: {what}") from fault
    if set(table) != set(labels) or not np.isfinite(value).all() or not (window_s > 0).all():
        raise ObjectiveRefused("objective.json: a finite value for every pair of labels, no others")
    return Objective(tuple(labels), value, unit, window_s)
