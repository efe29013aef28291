"""The filter line: `site=b conf<0.6 label!=ok error` into clauses. A name with a dot is a feature,
any other unknown name a slice key.
Pure: what a clause means in SQL is said in cache/predictions.py."""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.telemetry.outputs import FILTER_NAMES

NUMBERS = {
    **FILTER_NAMES,
    "ms": "total_ms",
    "total": "total_ms",
    "queue": "queue_ms",
    "decode": "decode_ms",
    "forward": "forward_ms",
    "batch": "batch_size",
    "replica": "replica",
}
NAMES = ("label", "true", "stamp", "mix", "server", "client", "task", "error", "id", "session")
FLAGS = ("error", "kept", "labelled", "wrong")
_TERM = re.compile(r'(?P<name>[\w.\-]+)(?P<op><=|>=|!=|=|<|>|~)(?P<value>"[^"]*"|\S*)')


class BadFilter(ValueError):
    """What cannot be understood, in words for the line below the filter."""


@dataclass(frozen=True, slots=True)
class Clause:
    name: str
    op: str
    value: str
    kind: str  # number | name | flag | slice | feature


def parse(line: str) -> tuple[Clause, ...]:
    """All clauses must hold. Raises BadFilter."""
    clauses: list[Clause] = []
    rest = line.strip()
    while rest:
        word = re.match(r"(!?)([\w]+)(?=\s|$)", rest)
        found = _TERM.match(rest)
        if found:
            clauses.append(_clause(found["name"], found["op"], found["value"].strip('"')))
            rest = rest[found.end() :].lstrip()
        elif word and word[2] in FLAGS:
            clauses.append(Clause(word[2], "!=" if word[1] else "=", "", "flag"))
            rest = rest[word.end() :].lstrip()
        else:
            raise BadFilter(f"cannot read {rest.split()[0]!r}: expected name=value, e.g. site=b")
    return tuple(clauses)


def _clause(name: str, op: str, value: str) -> Clause:
    if not value:
        raise BadFilter(f"{name}{op} needs a value")
    if name in NUMBERS:
        try:
            float(value)
        except ValueError:
            raise BadFilter(f"{name}{op}{value}: {value!r} is not a number") from None
        if op == "~":
            raise BadFilter(f"{name} is a number: use = != < <= > >=")
        return Clause(NUMBERS[name], op, value, "number")
    if "." in name:
        return Clause(name, op, value, "feature")
    if op not in ("=", "!=", "~"):
        raise BadFilter(f"{name} is a text: use = != or ~ (contains)")
    return Clause(name, op, value, "name" if name in NAMES else "slice")
