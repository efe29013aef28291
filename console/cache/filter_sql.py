"""Translates a filter line to SQL over the cache's `prediction` table. Repeated texts are numbers
of the `name` table; features are one blob, which an SQL function reads."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from console.cache.interned import InternedTexts
from server.telemetry.filters import Clause, feature_test, sql_test
from server.telemetry.rows import FeatureRow

_INTERNED = ("label", "true_label", "stamp", "mix", "client", "server")
_TEXTS = {name: name for name in ("task", "error", "session", "trace_id")} | {"prediction_id": "id"}
_LABELLED = "true_label != (SELECT id FROM name WHERE text = '')"
_FLAGS = {
    "error": "error != ''",
    "kept": "kept",
    "labelled": _LABELLED,
    "wrong": f"({_LABELLED} AND true_label != label)",
}


def where(
    clauses: Sequence[Clause],
    span: tuple[float, float] | None,
    aliases: Mapping[str, str] | None = None,
) -> tuple[str, list[object]]:
    """The condition and its parameters. `aliases` maps names of servers to their addresses. Clauses
    about features need a call of `know_features` with the same clauses first."""
    parts, values = ["1"], []  # type: list[str], list[object]
    if span is not None:
        parts.append("at_ms >= ? AND at_ms < ?")
        values += [int(span[0] * 1000), int(span[1] * 1000)]
    for place, clause in enumerate(clauses):
        if clause.kind == "feature":
            part, more = "feature_holds(stamp, features, ?)", [place]  # type: str, list[object]
        else:
            part, more = _condition(clause, aliases or {})
        parts.append(part)
        values += more
    return " AND ".join(parts), values


def _condition(clause: Clause, aliases: Mapping[str, str]) -> tuple[str, list[object]]:
    """Names and operators come from the parser's own tables, never from the line."""
    if clause.kind == "flag":
        return ("" if clause.op == "=" else "NOT ") + _FLAGS[clause.name], []
    if clause.kind == "number":
        return f"{clause.name} {clause.op} ?", [clause.number]
    if clause.kind == "slice":
        condition, value = sql_test(clause, "ifnull(json_extract(slices, ?), '')")
        return condition, ["$." + json.dumps(clause.name, ensure_ascii=False), value]
    if clause.name == "server":
        return _server(clause, aliases)
    if clause.name in _INTERNED:
        condition, value = sql_test(clause, "text")
        return f"{clause.name} IN (SELECT id FROM name WHERE {condition})", [value]
    condition, value = sql_test(clause, _TEXTS[clause.name])
    return condition, [value]


def _server(clause: Clause, aliases: Mapping[str, str]) -> tuple[str, list[object]]:
    """Match a server by its name or its address; an alias matches either."""
    wanted = clause if clause.op != "!=" else replace(clause, op="=")
    condition, value = sql_test(wanted, "text")
    named, _ = sql_test(wanted, "key")
    found = (
        f"server IN (SELECT id FROM name WHERE {condition} OR text IN"
        f" (SELECT json_each.value FROM json_each(?) WHERE {named}))"
    )
    return ("NOT " if clause.op == "!=" else "") + found, [value, json.dumps(aliases), value]


def know_features(
    db: sqlite3.Connection,
    names: InternedTexts,
    known: Mapping[tuple[str, str], FeatureRow],
    clauses: Sequence[Clause],
) -> None:
    """Define `feature_holds` for these clauses. Where a feature lies in a row depends on the stamp,
    and a feature that the stamp does not have satisfies no clause. Raises BadFilter."""
    places: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for stamp, name in known:
        places[stamp, name] = counts.get(stamp, 0)
        counts[stamp] = counts.get(stamp, 0) + 1
    tests: dict[tuple[str, int], tuple[int, Callable[[float], bool]]] = {}
    for number, clause in enumerate(clauses):
        for (stamp, name), feature in known.items():
            if clause.kind == "feature" and name == clause.name:
                categories = feature.categories if feature.kind == "categorical" else None
                tests[stamp, number] = places[stamp, name], feature_test(clause, categories)

    def feature_holds(stamp: int, blob: bytes, number: int) -> bool:
        place, holds = tests.get((names.text(stamp), number), (-1, None))
        if holds is None or not 0 <= 4 * place < len(blob):
            return False
        return holds(struct.unpack_from("<f", blob, 4 * place)[0])

    db.create_function("feature_holds", 3, feature_holds)
