"""The stored results of evaluations and decisions: drift scores, alerts with their history,
silences, notes, deploys. Part of `Store`, on its connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from operator import attrgetter

from server.telemetry.rows import AlertRow, AnnotationRow, DeployRow, DriftRow, SilenceRow
from server.telemetry.store.row_codec import alert_history, alert_of, annotation_of, silence_of
from server.telemetry.store.stored_names import StoredNames

_DRIFT_VALUES = attrgetter(*(field.name for field in fields(DriftRow)[2:]))
_DRIFT = f"INSERT INTO drift VALUES ({','.join('?' * 20)})"


class JudgementStore:
    def __init__(self, connection: sqlite3.Connection, names: StoredNames) -> None:
        self._connection = connection
        self._names = names

    def put_drift(self, rows: Sequence[DriftRow]) -> None:
        self._connection.executemany(
            _DRIFT,
            [
                (row.tick_unix_ms, self._names.stamp_id(row.stamp), *_DRIFT_VALUES(row))
                for row in rows
            ],
        )

    def levels(self, stamp: str, since_ms: int) -> list[tuple[int, str, str, int, str]]:
        """(tick, feature, slice, window, level) as evaluated, oldest first."""
        return self._connection.execute(
            "SELECT d.tick_unix_ms, d.feature, d.slice, d.window_s, d.level FROM drift d"
            " JOIN stamp s ON s.id = d.stamp_id WHERE d.tick_unix_ms >= ? AND s.hex = ?"
            " ORDER BY d.tick_unix_ms",
            (since_ms, stamp),
        ).fetchall()

    def put_alert(self, row: AlertRow) -> None:
        """Store the current alert, and the steps of its history that are not stored yet."""
        self._connection.execute(
            "INSERT OR REPLACE INTO alert VALUES (?, ?, ?)",
            (row.id, row.last_unix_ms, json.dumps({**asdict(row), "history": []})),
        )
        known = self._connection.execute(
            "SELECT count(*) FROM alert_event WHERE alert_id = ?", (row.id,)
        ).fetchone()[0]
        self._connection.executemany(
            "INSERT INTO alert_event (alert_id, at_unix_ms, from_state, to_state, actor, detail)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(row.id, *astuple(step)) for step in row.history[known:]],
        )

    def put_silence(self, row: SilenceRow) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO silence VALUES (?, ?, ?)",
            (row.id, row.until_unix_ms, json.dumps(asdict(row))),
        )

    def put_annotation(self, row: AnnotationRow) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO annotation VALUES (?, ?, ?)",
            (row.id, row.at_unix_ms, json.dumps(asdict(row))),
        )

    def annotations(self, limit: int) -> list[AnnotationRow]:
        """The notes about the latest times, oldest first."""
        rows = self._connection.execute(
            "SELECT row FROM annotation ORDER BY at_unix_ms DESC LIMIT ?", (limit,)
        ).fetchall()
        return [annotation_of(json.loads(row[0])) for row in reversed(rows)]

    def put_deploy(self, row: DeployRow) -> None:
        self._connection.execute(
            "INSERT INTO deploy (at_unix_ms, row) VALUES (?, ?)",
            (row.at_unix_ms, json.dumps(asdict(row))),
        )

    def alerts(self, limit: int = 200) -> list[AlertRow]:
        """The latest alerts, each with its history."""
        found = self._connection.execute(
            "SELECT row FROM alert ORDER BY last_unix_ms DESC LIMIT ?", (limit,)
        ).fetchall()
        rows = [json.loads(row[0]) for row in found]
        return [alert_of(row, alert_history(self._connection, row["id"])) for row in rows]

    def silences(self, now_ms: int) -> list[SilenceRow]:
        rows = self._connection.execute(
            "SELECT row FROM silence WHERE until_unix_ms > ?", (now_ms,)
        )
        return [silence_of(json.loads(row[0])) for row in rows]
