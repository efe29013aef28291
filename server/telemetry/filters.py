"""The two small languages an operator types, each with one parser for every program.

A filter line chooses predictions: in the console, in `server export` and in the Samples call.

    site=b conf<0.6 label!=ok error !kept audio.snr_db<11

A matcher chooses the alerts that a silence covers.

    kind=drift feature=image.* slice=site=b

In both languages blanks separate the terms, and all terms must match. Double quotes enclose a value
with blanks, and `*` matches any text. docs/telemetry.md has the table of the names.

This module does not know databases. store/filter_sql.py translates clauses to SQL for telemetry.db,
and console/cache/filter_sql.py for the cache of the console.
"""

from __future__ import annotations

import math
import operator
import re
import string
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from server.telemetry.errors import BadFilter as BadFilter
from server.telemetry.outputs import FILTER_NAMES
from server.telemetry.rows import AlertRow

# The typed name -> the field it names.
NUMBERS: Mapping[str, str] = {
    name: name
    for name in ("replica", "batch_size")
    + ("queue_ms", "decode_ms", "preprocess_ms", "forward_ms", "post_ms", "total_ms")
} | {
    **FILTER_NAMES,
    "batch": "batch_size",
    "queue": "queue_ms",
    "decode": "decode_ms",
    "preprocess": "preprocess_ms",
    "forward": "forward_ms",
    "post": "post_ms",
    "total": "total_ms",
    "ms": "total_ms",
}
TEXTS: Mapping[str, str] = {
    name: name
    for name in ("label", "true_label", "mix", "task", "error", "client", "session", "server")
} | {"true": "true_label"}
DIGITS: Mapping[str, str] = {
    "stamp": "stamp",
    "id": "prediction_id",
    "prediction_id": "prediction_id",
    "trace": "trace_id",
    "trace_id": "trace_id",
}
FLAGS = ("error", "kept", "labelled", "wrong")
# The time span is chosen separately from the line. A line with two spans would be ambiguous.
TIMES = ("at", "time", "since", "until")
TAG = "slice."  # prefix for the key of a slice that has the name of a field, or that contains a dot

MOST_TERMS = 20
# Number of `*` in one value. SQLite's GLOB tries every way to divide a text among them.
MOST_WILDCARDS = 4
LONGEST = 4000  # characters in a line

Kind = Literal["number", "text", "digits", "flag", "slice", "feature"]
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TEXT_OPERATORS = ("=", "!=", "~")
_TERM = re.compile(r"(?P<name>\w[\w.\-]*)(?P<op>!=|<=|>=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_FLAG = re.compile(r"(?P<no>!?)(?P<name>\w+)")
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Clause:
    """One term of a filter line. `name` is a field, a flag, the key of a slice or a feature."""

    kind: Kind
    name: str
    op: str
    value: str
    term: str  # as typed, with its quotes

    @property
    def number(self) -> float:
        """The value as a number. Raises BadFilter."""
        try:
            found = float(self.value)
        except ValueError:
            found = math.nan
        if math.isnan(found):
            raise BadFilter(self.term, f"{self.value!r} is not a number")
        return found


def parse_filter(line: str) -> tuple[Clause, ...]:
    """The clauses of a line; an empty line has none. Raises BadFilter, which names the wrong term
    and what to write instead."""
    if len(line) > LONGEST:
        raise BadFilter(_short(line), f"{len(line)} characters; the limit is {LONGEST}")
    terms = _terms(line)
    if len(terms) > MOST_TERMS:
        raise BadFilter(_short(line), f"{len(terms)} terms; the limit is {MOST_TERMS}")
    return tuple(_clause(term) for term in terms)


def _terms(line: str) -> list[str]:
    """The terms with their quotes."""
    if not line.isascii() and any("\ud800" <= character <= "\udfff" for character in line):
        raise BadFilter(_short(ascii(line)), "it is not UTF-8")
    if line.count('"') % 2:
        raise BadFilter(_short(line), 'a quotation mark is not closed: write name="a value"')
    return _WORD.findall(line)


def _short(line: str) -> str:
    return line if len(line) <= 40 else f"{line[:40]}..."


def _clause(term: str) -> Clause:
    bare = term.replace('"', "")
    flag = _FLAG.fullmatch(bare)
    if flag is not None and flag["name"] in FLAGS:
        return Clause("flag", flag["name"], "!=" if flag["no"] else "=", "", term)
    found = _TERM.fullmatch(bare)
    if found is None:
        flags = ", ".join(FLAGS)
        raise BadFilter(
            term, f"write a name, one of = != < <= > >= ~ and a value, or a flag ({flags})"
        )
    name, op, value = found["name"], found["op"], found["value"]
    if name in TIMES:
        raise BadFilter(
            term, "the time is not part of the line: use --since and --until, or the time axis"
        )
    if name in FLAGS and name not in TEXTS:
        raise BadFilter(term, f"{name} takes no value: write {name} or !{name}")
    if name in NUMBERS:
        return _number(Clause("number", NUMBERS[name], op, value, term))
    if name in DIGITS:
        return _digits(Clause("digits", DIGITS[name], op, value, term))
    if name in TEXTS:
        return _text(Clause("text", TEXTS[name], op, value, term))
    if name.startswith(TAG) and len(name) > len(TAG):
        return _text(Clause("slice", name[len(TAG) :], op, value, term))
    if "." in name:
        return _feature(Clause("feature", name, op, value, term))
    return _text(Clause("slice", name, op, value, term))


def _number(clause: Clause) -> Clause:
    if clause.op == "~":
        raise BadFilter(clause.term, f"{clause.name} is a number: use = != < <= > >=")
    clause.number  # noqa: B018 - raises for what is not one
    return clause


def _text(clause: Clause) -> Clause:
    if clause.op not in TEXT_OPERATORS:
        raise BadFilter(clause.term, f"{clause.name} is text: use = != or ~ (contains)")
    if clause.op == "~" and not clause.value:
        raise BadFilter(clause.term, "~ needs a text to look for")
    if clause.value.count("*") > MOST_WILDCARDS:
        raise BadFilter(_short(clause.term), f"more than {MOST_WILDCARDS} * in one value")
    return clause


def _digits(clause: Clause) -> Clause:
    """A stamp may also be given as a stamp name, which ends in + and the stamp's first digits."""
    _text(clause)
    value = clause.value.rpartition("+")[2] if clause.name == "stamp" else clause.value
    if not value:
        raise BadFilter(clause.term, f"{clause.name} needs its first digits")
    return Clause(clause.kind, clause.name, clause.op, value, clause.term)


def _feature(clause: Clause) -> Clause:
    """A clause about a feature. Only code that has the features knows whether it is a number or a
    category (`feature_test`)."""
    if not clause.value:
        raise BadFilter(clause.term, f"{clause.name} needs a value")
    return clause if clause.op in TEXT_OPERATORS else _number(clause)


def sql_test(clause: Clause, expression: str) -> tuple[str, str]:
    """The SQL condition for a text clause on `expression`, and its one parameter."""
    if clause.op == "~":
        return f"instr(lower({expression}), lower(?)) > 0", clause.value
    value = clause.value + ("*" if clause.kind == "digits" else "")
    if "*" not in value:
        return f"{expression} {clause.op} ?", value
    # Escape the other wildcards of GLOB.
    pattern = re.sub(r"([\[?])", r"[\1]", value)
    return f"{expression} {'' if clause.op == '=' else 'NOT '}GLOB ?", pattern


def feature_test(clause: Clause, categories: Sequence[str] | None) -> Callable[[float], bool]:
    """Whether a stored value satisfies a clause about a feature; an absent one (NaN) never does.

    `categories` is None for a number. Raises BadFilter when the clause does not fit the kind.
    """
    if categories is None:
        return _number_test(clause)
    if clause.op not in TEXT_OPERATORS:
        raise BadFilter(clause.term, f"{clause.name} is a category: use = != or ~ (contains)")

    def holds(value: float) -> bool:
        if math.isnan(value):
            return False
        place = int(value)
        text = categories[place] if 0 <= place < len(categories) else "new"
        if clause.op == "~":
            return clause.value.translate(_ASCII_LOWER) in text.translate(_ASCII_LOWER)
        return like(text, clause.value) == (clause.op == "=")

    return holds


def _number_test(clause: Clause) -> Callable[[float], bool]:
    """A test on numbers. Features are stored in 32 bits, so the limit is rounded to 32 bits too."""
    limit, compare = _single(_number(clause).number), COMPARE[clause.op]
    return lambda value: not math.isnan(value) and compare(value, limit)


def _single(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def like(text: str, pattern: str) -> bool:
    """Whether the whole text matches; `*` is any text, every other character matches itself. It
    takes linear time, where a regular expression would try every way to divide the text among the
    wildcards."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    *middle, last = rest
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def equals(name: str, value: str) -> str:
    """The term `name=value`, quoted if necessary. A quotation mark in the value, which a term
    cannot contain, becomes the wildcard."""
    value = value.replace('"', "*")
    return f'{name}="{value}"' if re.search(r"\s", value) else f"{name}={value}"


def slice_name(key: str) -> str:
    """The form of a slice's key in a filter line."""
    taken = key in NUMBERS or key in TEXTS or key in DIGITS or key in FLAGS or key in TIMES
    return TAG + key if taken or "." in key else key


ALERT_FIELDS = ("id", "key", "kind", "severity", "stamp", "feature", "slice")


def parse_matcher(text: str) -> tuple[tuple[str, str], ...]:
    """(field, pattern) of each term; a term without `=` is the id of an alert. Raises BadFilter."""
    terms = []
    for term in _terms(text):
        field, equal, pattern = term.replace('"', "").partition("=")
        if not equal:
            field, pattern = "id", field
        if field not in ALERT_FIELDS:
            raise BadFilter(term, f"write one of {', '.join(ALERT_FIELDS)} before '='")
        if not pattern:
            raise BadFilter(term, f"write what {field} must be after '=', or * for anything")
        terms.append((field, pattern))
    if not terms:
        raise BadFilter(text, "an empty matcher would silence everything; write kind=* to do so")
    return tuple(terms)


def silences(matcher: str, alert: AlertRow) -> bool:
    """Whether every term matches. A feature or a slice must match at least one of the alert's.
    Raises BadFilter."""
    return all(_fits(field, pattern, alert) for field, pattern in parse_matcher(matcher))


def _fits(field: str, pattern: str, alert: AlertRow) -> bool:
    if field == "feature":
        return any(like(feature, pattern) for feature in alert.features)
    if field == "slice":
        return any(like(part, pattern) for part in alert.slices)
    return like(str(getattr(alert, field)), pattern)
