"""Reads telemetry.db beside the writer: samples, history, tables for the slice search, export.

Every call opens its own read-only connection, so any thread may call at any time, and the writer
never waits longer than for one page of the log.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from server.telemetry.filters import Clause, parse_filter
from server.telemetry.outputs import OUTPUT_NAMES, TIME_NAMES, stored_outputs
from server.telemetry.record import Record
from server.telemetry.rows import PredictionRow, Row
from server.telemetry.store.database import open_reader
from server.telemetry.store.filter_sql import feature_check, where
from server.telemetry.store.history import HISTORY, TimeSpan
from server.telemetry.store.payload_keys import NO_KEYS, PayloadKeys, PayloadLocked
from server.telemetry.store.store import day_of, days_of

MOST_SAMPLES = 1000


class Reader:
    """`path` is called each time, as a damaged file may have been replaced. `keys` decrypt
    payloads."""

    def __init__(self, path: Callable[[], Path], keys: PayloadKeys = NO_KEYS) -> None:
        self._path = path
        self._keys = keys

    def samples(
        self, line: str = "", span: TimeSpan | None = None, limit: int = 100, payload: bool = False
    ) -> list[PredictionRow]:
        """The latest rows that match the filter line, newest first. Raises BadFilter."""
        wanted = parse_filter(line)
        limit = min(max(limit, 1), MOST_SAMPLES)
        found: list[PredictionRow] = []
        with closing(open_reader(self._path())) as connection:
            check = feature_check(connection, wanted)
            condition, values = _bounds(wanted, span)
            for day in reversed(days_in(connection, span)):
                rows = connection.execute(
                    _select(day, payload) + f" WHERE {condition} ORDER BY p.at DESC", values
                )
                for row in rows:
                    if check(row["stamp_id"], row["features"]):
                        found.append(prediction_of(row, self._keys))
                        if len(found) == limit:
                            return found
        return found

    def by_id(self, ids: Sequence[str], payload: bool = False) -> list[PredictionRow]:
        """The rows in the requested order, without unknown ones."""
        found = {}
        with closing(open_reader(self._path())) as connection:
            for day in days_of(connection):
                for some in chunks(list(ids), 500):
                    marks = ",".join("?" * len(some))
                    for row in connection.execute(
                        _select(day, payload) + f" WHERE p.prediction_id IN ({marks})", some
                    ):
                        found[row["prediction_id"]] = prediction_of(row, self._keys)
        return [found[i] for i in ids if i in found]

    def export(self, span: TimeSpan, line: str = "") -> Iterator[PredictionRow]:
        """All rows in a span, oldest first, without payloads. Raises BadFilter."""
        wanted = parse_filter(line)
        with closing(open_reader(self._path())) as connection:
            check = feature_check(connection, wanted)
            condition, values = _bounds(wanted, span)
            for day in days_in(connection, span):
                for row in connection.execute(
                    _select(day, False) + f" WHERE {condition} ORDER BY p.at", values
                ):
                    if check(row["stamp_id"], row["features"]):
                        yield prediction_of(row, self._keys)

    def history(self, span: TimeSpan, kinds: Sequence[str] = ()) -> Iterator[Row]:
        """Rows of a span, oldest first within each kind. Quality comes from `Telemetry`, which
        knows the yardsticks of the stored sums."""
        with closing(open_reader(self._path())) as connection:
            for kind, read in HISTORY.items():
                if not kinds or kind in kinds:
                    yield from read(connection, span)


def prediction_of(row: sqlite3.Row, keys: PayloadKeys) -> PredictionRow:
    record = Record(
        prediction_id=row["prediction_id"],
        at=row["at"],
        stamp=row["stamp"],
        task=row["task"],
        mix=row["mix"],
        label=row["label"],
        features=row["features"],
        slices=json.loads(row["slices"]),
        client=row["client"],
        session=row["session"],
        replica=row["replica"],
        batch_size=row["batch_size"],
        error=row["error"],
        error_message=row["error_message"] or "",
        env=row["env"] or "",
        trace_id=row["trace_id"],
        batch_mates=tuple(row["batch_mates"].split()),
        **{name: row[name] for name in TIME_NAMES},
        **stored_outputs([row[name] for name in OUTPUT_NAMES]),
    )
    example, locked = row["example"] or b"", ""
    try:
        example = keys.open(record.prediction_id, example)
    except PayloadLocked as error:
        example, locked = b"", str(error)
    return PredictionRow(
        record, bool(row["kept"]), row["sample_p"], row["true_label"] or "", example, locked
    )


def _select(day: str, payload: bool) -> str:
    example = "y.example" if payload else "NULL"
    join = f" LEFT JOIN payload_{day} y USING (prediction_id)" if payload else ""
    return (
        f"SELECT p.*, s.hex AS stamp, e.text AS env, t.label AS true_label, {example} AS example"
        f" FROM prediction_{day} p JOIN stamp s ON s.id = p.stamp_id"
        " LEFT JOIN env e ON e.id = p.env_id LEFT JOIN truth t USING (prediction_id)" + join
    )


def _bounds(wanted: Sequence[Clause], span: TimeSpan | None) -> tuple[str, tuple[Any, ...]]:
    condition, values = where(wanted)
    if span is None:
        return condition, values
    return f"{condition} AND p.at >= ? AND p.at < ?", (*values, span.since, span.until)


def days_in(connection: sqlite3.Connection, span: TimeSpan | None) -> list[str]:
    """Days that have a table and touch the span, oldest first."""
    if span is None:
        return days_of(connection)
    return days_of(connection, day_of(span.since), day_of(span.until))


def chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
