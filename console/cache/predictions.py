"""Predictions by filter: the numbers of all matching rows at once (8 bytes each), their content a
page at a time, so that a million rows scroll."""

from __future__ import annotations

import json
import math
import operator
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from console.cache.interned import NameBook
from console.state.domain import FeatureRow, PredictionRow, Timing
from console.state.filterline import Clause
from server.telemetry.outputs import OUTPUT_NAMES, stored_outputs

MOST = 1_000_000
_COLUMNS = (
    "seq, server, id, at_ms, stamp, mix, label, true_label, queue_ms,"
    " decode_ms, preprocess_ms, forward_ms, post_ms, total_ms,"
    " batch_size, replica, slices, error, kept, client, session, trace_id, features, task,"
    " batch_mates, " + ", ".join(OUTPUT_NAMES)
)
_INTERNED = {
    "label": "label",
    "true": "true_label",
    "stamp": "stamp",
    "mix": "mix",
    "client": "client",
    "server": "server",
}
_TEXTS = {"task": "task", "error": "error", "id": "id", "session": "session"}
_FLAGS = {
    "error": "error != ''",
    "kept": "kept = 1",
    "labelled": "true_label != (SELECT id FROM name WHERE text = '')",
    "wrong": "true_label != (SELECT id FROM name WHERE text = '') AND true_label != label",
}


def where(
    clauses: Sequence[Clause],
    span: tuple[float, float] | None,
    aliases: Mapping[str, str] | None = None,
) -> tuple[str, list[object]]:
    """SQL condition and its parameters. `aliases`: server names for people to addresses."""
    parts, values = ["1"], []  # type: list[str], list[object]
    if span is not None:
        parts.append("at_ms >= ? AND at_ms < ?")
        values += [int(span[0] * 1000), int(span[1] * 1000)]
    for clause in clauses:
        part, more = _clause(clause, aliases or {})
        parts.append(f"({part})")
        values += more
    return " AND ".join(parts), values


def _clause(clause: Clause, aliases: Mapping[str, str]) -> tuple[str, list[object]]:
    if clause.kind == "flag":
        wanted = _FLAGS[clause.name]
        return (wanted if clause.op == "=" else f"NOT ({wanted})"), []
    if clause.kind == "number":
        # Names and operators come from the parser's own tables, never from the line.
        return f"{clause.name} {clause.op} ?", [float(clause.value)]
    if clause.kind == "feature":
        return f"feature_is(stamp, features, ?, '{clause.op}', ?)", [clause.name, clause.value]
    if clause.kind == "slice":
        path = "$." + json.dumps(clause.name)
        return _compare("ifnull(json_extract(slices, ?), '')", clause, [path], clause.value)
    if clause.name in _INTERNED:
        column = _INTERNED[clause.name]
        value = aliases.get(clause.value, clause.value) if clause.name == "server" else clause.value
        prefix = clause.name == "stamp" and clause.op != "~"
        if prefix:  # a stamp is given by its first digits
            test = f"{column} IN (SELECT id FROM name WHERE substr(text, 1, ?) = ?)"
            return (test if clause.op == "=" else f"NOT {test}"), [len(value), value]
        inner, values = _compare("text", Clause(clause.name, clause.op, value, "name"), [], value)
        return f"{column} IN (SELECT id FROM name WHERE {inner})", values
    return _compare(_TEXTS[clause.name], clause, [], clause.value)


_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def know_features(
    db: sqlite3.Connection, names: NameBook, known: Mapping[tuple[str, str], FeatureRow]
) -> None:
    """Teach this connection to test a feature: its place in the row depends on the stamp."""
    places: dict[tuple[str, str], tuple[int, FeatureRow]] = {}
    counts: dict[str, int] = {}
    for (stamp, name), feature in known.items():
        places[(stamp, name)] = (counts.get(stamp, 0), feature)
        counts[stamp] = counts.get(stamp, 0) + 1

    def feature_is(stamp: int, blob: bytes, name: str, op: str, value: str) -> bool:
        place, feature = places.get((names.text(stamp), name), (-1, None))
        if feature is None or not 0 <= 4 * place < len(blob):
            return False
        held = struct.unpack_from("<f", blob, 4 * place)[0]
        if held != held:
            return False
        if feature.kind == "categorical":
            text = feature.categories[int(held)] if held < len(feature.categories) else "new"
            return (value in text) if op == "~" else (text == value) == (op == "=")
        test = _TESTS.get(op)
        return test is not None and _is_number(value) and test(held, float(value))

    db.create_function("feature_is", 5, feature_is, deterministic=True)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _compare(
    expression: str, clause: Clause, values: list[object], value: str
) -> tuple[str, list[object]]:
    if clause.op == "~":
        return f"instr(lower({expression}), lower(?)) > 0", [*values, value]
    return f"{expression} {clause.op} ?", [*values, value]


def numbers(
    db: sqlite3.Connection, condition: tuple[str, list[object]], most: int = MOST
) -> NDArray[np.int64]:
    """`seq` of the matching rows, newest first."""
    cursor = db.execute(
        f"SELECT seq FROM prediction WHERE {condition[0]} ORDER BY at_ms DESC LIMIT ?",
        (*condition[1], most),
    )
    found: list[NDArray[np.int64]] = []
    while rows := cursor.fetchmany(50_000):
        found.append(np.array(rows, np.int64)[:, 0])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def page(
    db: sqlite3.Connection, names: NameBook, wanted: Sequence[int]
) -> dict[int, tuple[str, PredictionRow]]:
    """By `seq`: (server, row). Rows deleted meanwhile are absent."""
    marks = ",".join("?" * len(wanted))
    rows = db.execute(f"SELECT {_COLUMNS} FROM prediction WHERE seq IN ({marks})", list(wanted))
    return {row[0]: (names.text(row[1]), _prediction(row, names)) for row in rows}


def by_id(
    db: sqlite3.Connection, names: NameBook, server: str, identity: str
) -> PredictionRow | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM prediction WHERE server = ? AND id = ?",
        (names.find(server), identity),
    ).fetchone()
    return None if row is None else _prediction(row, names)


def _prediction(row: Sequence[object], names: NameBook) -> PredictionRow:
    def number(index: int) -> float:
        value = row[index]
        return float(value) if isinstance(value, int | float) else math.nan

    def text(index: int) -> str:
        return names.text(int(row[index]))  # type: ignore[call-overload]

    return PredictionRow(
        prediction_id=str(row[2]),
        at_unix_ms=int(row[3]),  # type: ignore[call-overload]
        stamp=text(4),
        mix=text(5),
        label=text(6),
        true_label=text(7),
        timing=Timing(*(number(index) for index in range(8, 14))),
        batch_size=int(number(14)),
        replica=int(number(15)),
        slices=json.loads(str(row[16])),
        error=str(row[17]),
        payload_kept=bool(row[18]),
        client=text(19),
        session=str(row[20]),
        trace_id=str(row[21]),
        features=tuple(np.frombuffer(row[22], "<f4").tolist()),  # type: ignore[call-overload]
        task=str(row[23]),
        batch_mates=tuple(json.loads(str(row[24]))),
        **stored_outputs(row[25:]),
    )
