"""What the hosts used over a span, from the cache's ten-second rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import numpy as np

from console.cache.insert import HOST_MS
from console.cache.interned import InternedTexts
from console.cache.schema import HOST
from console.cache.timeline import column_width_s
from console.state.dashboard import HostColumns, View

FIGURES = HOST[2:]
ROW_S = HOST_MS / 1000


def columns(
    db: sqlite3.Connection,
    names: InternedTexts,
    view: View,
    span: tuple[float, float],
    shifts_s: Mapping[str, float],
) -> HostColumns:
    """For each column, the highest value of each figure over the servers shown. A column is at
    least as wide as a row."""
    column_s = column_width_s(view, ROW_S)
    origin = np.floor(span[0] / column_s) * column_s
    count = max(1, int(np.ceil((span[1] - origin) / column_s)))
    found = np.full((len(FIGURES), count), np.nan)
    known = 0
    for address, number in names.all().items():
        if address not in shifts_s or view.scope not in ("", address):
            continue
        ahead_ms = shifts_s[address] * 1000
        rows = db.execute(
            f"SELECT CAST((at_ms - ?) / ? AS INTEGER) AS place, {_AVERAGES} FROM host"
            " WHERE at_ms >= ? AND at_ms < ? AND server = ? GROUP BY place",
            (
                origin * 1000 + ahead_ms,
                column_s * 1000,
                origin * 1000 + ahead_ms,
                span[1] * 1000 + ahead_ms,
                number,
            ),
        ).fetchall()
        known += bool(rows)
        for place, *values in rows:
            if 0 <= place < count:
                column = np.array([np.nan if v is None else v for v in values])
                found[:, place] = np.fmax(found[:, place], column)
    return HostColumns(float(origin), column_s, known, *found)


_AVERAGES = ", ".join(f"avg({name})" for name in FIGURES)
