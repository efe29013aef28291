"""Finds predictions by filter: the numbers of all matching rows at once (8 bytes each), their
content a page at a time, so that a million rows scroll."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from console.cache.interned import InternedTexts
from console.cache.schema import PREDICTION
from console.state.domain import CachedPrediction
from server.telemetry.outputs import Timing, stored_outputs

MOST = 1_000_000
_COLUMNS = ", ".join(("seq", *PREDICTION))


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
    db: sqlite3.Connection, names: InternedTexts, wanted: Sequence[int]
) -> dict[int, tuple[str, CachedPrediction]]:
    """The rows by `seq`, as (server, row). Rows deleted meanwhile are absent."""
    marks = ",".join("?" * len(wanted))
    rows = db.execute(f"SELECT {_COLUMNS} FROM prediction WHERE seq IN ({marks})", list(wanted))
    return {row[0]: (names.text(row[1]), _prediction(row, names)) for row in rows}


def by_id(
    db: sqlite3.Connection, names: InternedTexts, server: str, identity: str
) -> CachedPrediction | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM prediction WHERE server = ? AND id = ?",
        (names.find(server), identity),
    ).fetchone()
    return None if row is None else _prediction(row, names)


def _prediction(row: Sequence[object], names: InternedTexts) -> CachedPrediction:
    def number(index: int) -> float:
        value = row[index]
        return float(value) if isinstance(value, int | float) else math.nan

    def text(index: int) -> str:
        return names.text(int(row[index]))  # type: ignore[call-overload]

    return CachedPrediction(
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
        error_message=str(row[25] or ""),
        **stored_outputs(row[26:]),
    )
