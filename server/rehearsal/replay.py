"""A stored prediction beside a new answer to the same payload, and what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from server.telemetry.outputs import OUTPUT_NAMES
from server.telemetry.record import FeatureSpec

# What golden answers may differ by in float32: the other rows of a batch and the number of threads
# move an answer by less, and that does not count.
TOLERANCE = 1e-3
Value = str | float
NO_FEATURES: Mapping[str, Value] = {}


@dataclass(frozen=True, slots=True)
class ReplaySide:
    """The answer of one run. `features` by name, a categorical one by its category, without absent
    ones; `error` is CODE/REASON and then the rest is empty."""

    stamp: str
    stamp_name: str
    label: str = ""
    outputs: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)  # empty: not kept
    features: Mapping[str, Value] = field(default_factory=lambda: NO_FEATURES)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One value of both answers; None where an answer does not have it."""

    name: str
    kept: Value | None
    now: Value | None
    differs: bool


def compare(kept: ReplaySide, now: ReplaySide) -> list[Line]:
    """Stamp, error, label, outputs, then features in the order of `now`."""
    lines = [_line("stamp", kept.stamp, now.stamp)]
    if kept.error or now.error:
        lines.append(_line("error", kept.error, now.error))
    lines.append(_line("label", kept.label, now.label))
    lines += (_line(name, kept.outputs.get(name), now.outputs.get(name)) for name in OUTPUT_NAMES)
    names = dict.fromkeys((*now.features, *kept.features))
    lines += (_line(name, kept.features.get(name), now.features.get(name)) for name in names)
    return [line for line in lines if line.kept is not None or line.now is not None]


def named(values: Sequence[float], schema: Sequence[FeatureSpec]) -> dict[str, Value]:
    """Features by name; {} when these values are not of this schema."""
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


def _line(name: str, kept: Value | None, now: Value | None) -> Line:
    return Line(name, kept, now, not same(kept, now))


def same(kept: Value | None, now: Value | None) -> bool:
    if isinstance(kept, int | float) and isinstance(now, int | float):
        return abs(kept - now) <= TOLERANCE * max(1.0, abs(kept), abs(now))
    return kept == now
