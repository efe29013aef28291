"""Compares a stored prediction with a new answer to the same payload."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from server.telemetry.outputs import OUTPUT_NAMES
from server.telemetry.record import FeatureSpec

Value = str | float
LABELS = ("label", "output.label")  # the answer's label, also among the features
NO_FEATURES: Mapping[str, Value] = {}


@dataclass(frozen=True, slots=True)
class ReplaySide:
    """The answer of one run. `features` by name, without absent ones; a categorical one by its
    category. If `error` (CODE/REASON) is set, the rest is empty. `tolerance`: the golden tolerance
    of the replicas that answered, 0 if unknown."""

    stamp: str
    stamp_name: str
    label: str = ""
    outputs: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)  # empty: not stored
    features: Mapping[str, Value] = field(default_factory=lambda: NO_FEATURES)
    error: str = ""
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One value in both answers; None where an answer lacks it. `near_tie`: the labels differ, but
    in both answers the two best probabilities differ by at most the tolerance."""

    name: str
    kept: Value | None
    now: Value | None
    differs: bool
    near_tie: bool = False


def compare(kept: ReplaySide, now: ReplaySide) -> list[Line]:
    """Stamp, error, label, outputs, then features in the order of `now`. Numbers differ when they
    are further apart than the larger of the two tolerances: the other rows of a batch, the number
    of threads and the dtype change an answer by less."""
    tolerance = max(kept.tolerance, now.tolerance)
    tied = _near_tie(kept, now, tolerance)
    values: list[tuple[str, Value | None, Value | None]] = [("stamp", kept.stamp, now.stamp)]
    if kept.error or now.error:
        values.append(("error", kept.error, now.error))
    values.append(("label", kept.label, now.label))
    values += ((name, _output(kept, name), _output(now, name)) for name in OUTPUT_NAMES)
    names = dict.fromkeys((*now.features, *kept.features))
    values += ((name, kept.features.get(name), now.features.get(name)) for name in names)
    lines = []
    for name, old, new in values:
        apart = not same(old, new, tolerance)
        near_tie = apart and tied and name in LABELS
        lines.append(Line(name, old, new, apart and not near_tie, near_tie))
    return [line for line in lines if line.kept is not None or line.now is not None]


def _output(side: ReplaySide, name: str) -> float | None:
    """The output; None if this answer lacks it, such as the margin of an embedding."""
    value = side.outputs.get(name)
    return None if value is None or math.isnan(value) else value


def _near_tie(kept: ReplaySide, now: ReplaySide, tolerance: float) -> bool:
    margins = [side.outputs.get("margin", math.nan) for side in (kept, now)]
    return all(margin <= tolerance for margin in margins)  # written so that NaN is not a near tie


def named(values: Sequence[float], schema: Sequence[FeatureSpec]) -> dict[str, Value]:
    """Features by name; {} if these values do not fit the schema."""
    if len(values) != len(schema):
        return {}
    return dict(_named(values, schema))


def _named(values: Sequence[float], schema: Sequence[FeatureSpec]) -> Iterator[tuple[str, Value]]:
    for value, spec in zip(values, schema, strict=True):
        if math.isnan(value):
            continue
        if spec.kind == "categorical":
            known = 0 <= value < len(spec.categories)
            yield spec.name, spec.categories[int(value)] if known else "(new)"
        else:
            yield spec.name, float(value)


def same(kept: Value | None, now: Value | None, tolerance: float) -> bool:
    if isinstance(kept, int | float) and isinstance(now, int | float):
        return abs(kept - now) <= tolerance * max(1.0, abs(kept), abs(now))
    return kept == now
