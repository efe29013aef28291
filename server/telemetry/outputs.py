"""The only list of a row's scalar outputs and times. It defines the record, the columns of
telemetry.db and of the console's cache, the conversion to and from messages, filters, exports, the
console's table and docs/telemetry.md.

To add an output: a field of `Outputs` here, a field of the same name in `Prediction`
(proto/inference.proto) and `PredictionRow` (proto/observe.proto), and a value in the pipeline's
`Prediction`. Both databases add the missing column when they are opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One output. `alias` is its short name in filter lines, `head` the head of its column in the
    console's table of predictions; both may be empty. A value below `least` is shown with the text
    `doubt`."""

    name: str
    unit: str
    description: str
    default: float
    alias: str
    head: str
    least: float
    doubt: str

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return isinstance(self.default, int)

    @property
    def column(self) -> str:
        """The type of the SQL column."""
        return "INTEGER" if self.whole else "REAL"


def _output(
    unit: str,
    description: str,
    *,
    default: float = 0.0,
    alias: str = "",
    head: str = "",
    least: float = -math.inf,
    doubt: str = "",
) -> Any:
    about = {"unit": unit, "description": description, "alias": alias, "head": head}
    return field(default=default, metadata=about | {"least": least, "doubt": doubt})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Base of every class with the outputs of a row. NaN: the row has no such output, for example
    the margin of an embedding."""

    confidence: float = _output(
        "1", "calibrated probability of the label", alias="conf", head="conf"
    )
    margin: float = _output("1", "first probability minus the second")
    entropy: float = _output("nat", "entropy over the label set")
    closed_set_mass: float = _output(
        "1",
        "probability of the label set among all texts; low: out of domain",
        alias="mass",
        least=0.5,
        doubt="outside the label set",
    )
    tokens_used: int = _output(
        "token", "prompt tokens of the row in its forward", default=0, alias="tokens", head="tokens"
    )
    parts_cut: int = _output(
        "part", "parts of the row that were cut or have a warning", default=0, alias="cut"
    )


OUTPUTS = tuple(
    OutputSpec(f.name, default=cast(float, f.default), **f.metadata) for f in fields(Outputs)
)
OUTPUT_NAMES = tuple(spec.name for spec in OUTPUTS)
# The alias in a filter line -> the column.
FILTER_NAMES = {spec.name: spec.name for spec in OUTPUTS} | {
    spec.alias: spec.name for spec in OUTPUTS if spec.alias
}
_values: Any = attrgetter(*OUTPUT_NAMES)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of each stage. `queue_ms` contains all waiting, so the stages add up to the
    total."""

    queue_ms: float = 0.0
    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    forward_ms: float = 0.0
    post_ms: float = 0.0
    total_ms: float = 0.0


TIME_NAMES = tuple(f.name for f in fields(Timing))
STAGES = tuple(name.removesuffix("_ms") for name in TIME_NAMES[:-1])
_times: Any = attrgetter(*TIME_NAMES)


def time_tuple(source: Any) -> tuple[float, ...]:
    """The times of an object that has them as attributes, in the order of TIME_NAMES."""
    found: tuple[float, ...] = _times(source)
    return found


def times_of(source: Any) -> dict[str, Any]:
    """The same times, by name."""
    return dict(zip(TIME_NAMES, _times(source), strict=True))


def output_tuple(source: Any) -> tuple[float, ...]:
    """The outputs of an object that has them as attributes, in the order of OUTPUT_NAMES."""
    found: tuple[float, ...] = _values(source)
    return found


def outputs_of(source: Any) -> dict[str, Any]:
    """The same outputs by name, as keyword arguments."""
    return dict(zip(OUTPUT_NAMES, _values(source), strict=True))


def stored_outputs(columns: Sequence[Any]) -> dict[str, Any]:
    """Outputs by name, from SQL columns in the order of OUTPUT_NAMES. SQLite stores NaN as NULL; a
    row older than its column has NULL too."""
    return {
        spec.name: (spec.default if spec.whole else math.nan) if value is None else value
        for spec, value in zip(OUTPUTS, columns, strict=True)
    }
