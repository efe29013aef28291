"""The filter line of the predictions panel and of `server export`:

    site=b conf<0.6 label!=ok image.brightness<0.2 error!=

Terms are joined by "and". A name without a dot that is not a column is a slice tag; a name with a
dot is a feature. `=` takes `*` as anything; an empty value means "has none".
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from server.telemetry.errors import BadFilter
from server.telemetry.outputs import FILTER_NAMES

TERM = re.compile(r"(?P<name>[A-Za-z_][\w.\-]*)(?P<op>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
TEXTS = {
    name: name
    for name in ("label", "mix", "task", "error", "client", "session", "trace_id", "prediction_id")
} | {"id": "prediction_id", "trace": "trace_id", "true": "true_label", "true_label": "true_label"}
NUMBERS = {
    name: name
    for name in ("replica", "batch_size")
    + ("queue_ms", "decode_ms", "preprocess_ms", "forward_ms", "post_ms", "total_ms", "kept")
} | {"ms": "total_ms", "batch": "batch_size", **FILTER_NAMES}
MOST_TERMS = 20
LONGEST = 4000  # characters of a line

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class FeatureTerm:
    """Decided in Python: features are stored as one blob. Absent values satisfy nothing."""

    name: str
    op: str
    value: float

    def holds(self, value: float) -> bool:
        return not math.isnan(value) and COMPARE[self.op](value, self.value)


@dataclass(frozen=True, slots=True)
class Filter:
    """`where` is SQL over the prediction tables (alias p, true_label of alias t) and the stamp's
    hex (alias s), with `values` for its marks."""

    where: str
    values: tuple[str | float, ...]
    features: tuple[FeatureTerm, ...]


def parse_filter(line: str) -> Filter:
    """Raises BadFilter."""
    wheres: list[str] = ["1"]
    values: list[str | float] = []
    features: list[FeatureTerm] = []
    if len(line) > LONGEST:
        raise BadFilter(line[:40] + "...", f"{len(line)} characters; the limit is {LONGEST}")
    terms = _words(line)
    if len(terms) > MOST_TERMS:
        raise BadFilter(line, f"more than {MOST_TERMS} terms")
    for term in terms:
        found = TERM.fullmatch(term)
        if found is None:
            raise BadFilter(term, "NAME, then one of = != < <= > >=, then a value")
        name, op, value = found["name"], found["op"], found["value"]
        if name in NUMBERS:
            wheres.append(f"p.{NUMBERS[name]} {op} ?")
            values.append(_number(term, value))
        elif "." in name:
            features.append(FeatureTerm(name, op, _number(term, value)))
        else:
            where, wanted = _text(term, name, op, value)
            wheres.append(where)
            values.append(wanted)
    return Filter(" AND ".join(wheres), tuple(values), tuple(features))


def _words(line: str) -> list[str]:
    """Split at blanks; double quotes keep a value with blanks together."""
    return [w.replace('"', "") for w in re.findall(r'(?:[^\s"]|"[^"]*")+', line)]


def _number(term: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise BadFilter(term, f"{value!r} is not a number")
    return number


def _text(term: str, name: str, op: str, value: str) -> tuple[str, str]:
    if op not in ("=", "!="):
        raise BadFilter(term, f"{name} is text: only = and !=")
    if name == "stamp":
        column, value = "s.hex", value.partition("+")[2] or value
        value += "*"  # a stamp may be given by its first digits, or by its name
    elif name == "true" or name == "true_label":
        column = "ifnull(t.label, '')"
    elif name in TEXTS:
        column = f"p.{TEXTS[name]}"
    else:
        path = "$." + json.dumps(name)
        column = f"ifnull(json_extract(p.slices, '{path}'), '')"
    if "*" in value:
        # GLOB's other wildcards mean themselves here.
        pattern = re.sub(r"([\[?])", r"[\1]", value)
        return f"{column} {'' if op == '=' else 'NOT '}GLOB ?", pattern
    return f"{column} {op} ?", value
