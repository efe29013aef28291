"""Translates a filter line for telemetry.db: SQL over the prediction tables of reader.py (alias p,
the true label of alias t, the stamp of alias s), and a check of the features, which are one
blob."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence

import numpy as np

from server.telemetry.errors import BadFilter
from server.telemetry.filters import NUMBERS, Clause, feature_test, sql_test

_TRUE = "ifnull(t.label, '')"
_TEXTS = {
    name: f"ifnull(p.{name}, '')"
    for name in ("label", "mix", "task", "error", "client", "session", "prediction_id", "trace_id")
} | {"true_label": _TRUE, "stamp": "s.hex"}
# A request that no replica took has -1; in messages and in the console it is 0.
_NUMBERS = {name: f"p.{name}" for name in NUMBERS.values()} | {"replica": "max(p.replica, 0)"}
_FLAGS = {
    "error": "p.error != ''",
    "kept": "p.kept",
    "labelled": f"{_TRUE} != ''",
    "wrong": f"({_TRUE} != '' AND {_TRUE} != p.label)",
}


def where(clauses: Sequence[Clause]) -> tuple[str, tuple[str | float, ...]]:
    """The condition of all clauses except those about features, and its parameters. Raises
    BadFilter for fields that one server's file does not contain."""
    parts, values = ["1"], []  # type: list[str], list[str | float]
    for clause in clauses:
        if clause.kind == "feature":
            continue
        part, more = _condition(clause)
        parts.append(part)
        values += more
    return " AND ".join(parts), tuple(values)


def _condition(clause: Clause) -> tuple[str, list[str | float]]:
    """Names and operators come from the parser's own tables, never from the line."""
    if clause.kind == "flag":
        return ("" if clause.op == "=" else "NOT ") + _FLAGS[clause.name], []
    if clause.kind == "number":
        return f"{_NUMBERS[clause.name]} {clause.op} ?", [clause.number]
    if clause.kind == "slice":
        condition, value = sql_test(clause, "ifnull(json_extract(p.slices, ?), '')")
        return condition, ["$." + json.dumps(clause.name, ensure_ascii=False), value]
    if clause.name == "server":
        raise BadFilter(clause.term, "these are the predictions of one server: leave this term out")
    condition, value = sql_test(clause, _TEXTS[clause.name])
    return condition, [value]


def feature_check(
    connection: sqlite3.Connection, clauses: Sequence[Clause]
) -> Callable[[int, bytes], bool]:
    """A function that checks whether a row (its stamp_id, its features) satisfies the clauses about
    features. A feature that the stamp does not have satisfies none. Raises BadFilter."""
    wanted = [clause for clause in clauses if clause.kind == "feature"]
    if not wanted:
        return lambda stamp_id, blob: True
    tests: dict[tuple[int, int], tuple[int, Callable[[float], bool]]] = {}
    for number, clause in enumerate(wanted):
        for stamp_id, position, kind, categories in connection.execute(
            "SELECT stamp_id, position, kind, categories FROM feature WHERE name = ?",
            (clause.name,),
        ):
            known = json.loads(categories) if kind == "categorical" else None
            tests[stamp_id, number] = position, feature_test(clause, known)

    def check(stamp_id: int, blob: bytes) -> bool:
        values = np.frombuffer(blob, dtype="<f4")
        for number in range(len(wanted)):
            position, holds = tests.get((stamp_id, number), (len(values), None))
            if holds is None or position >= len(values) or not holds(float(values[position])):
                return False
        return True

    return check
