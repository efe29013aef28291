"""Everything the writer thread does to telemetry.db. One connection, one thread, one transaction
at a time; raw SQL where it is hot. Readers have connections of their own (reading.py)."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from server.telemetry.database import Opened
from server.telemetry.latency import LatencyKey
from server.telemetry.profile import Profile, Reference, pack_counts
from server.telemetry.record import Record
from server.telemetry.rows import (
    AlertRow,
    AlertTransition,
    DeployRow,
    DriftRow,
    LatencyRow,
    SilenceRow,
)
from server.telemetry.schema import PREDICTION_NAMES, day_tables
from server.telemetry.stored_rows import alert_of, latency_of, latency_tuple, silence_of

_INSERT = (
    "INSERT OR IGNORE INTO prediction_{day} ("
    + ", ".join(PREDICTION_NAMES)
    + ") VALUES ("
    + ", ".join("?" * len(PREDICTION_NAMES))
    + ")"
)
_PROFILE = "INSERT OR REPLACE INTO profile VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_DRIFT_VALUES = attrgetter(*(field.name for field in fields(DriftRow)[2:]))
_DRIFT = f"INSERT INTO drift VALUES ({','.join('?' * 20)})"


def day_of(at: float) -> str:
    """The UTC day as 20261123; years a clock cannot mean are pulled in."""
    at = min(max(at, 0.0), 4_102_444_800.0) if at == at else 0.0
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d")


class Store:
    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.connection = opened.connection
        self.tools = Database(opened.connection)
        self._names: dict[tuple[str, str], int] = {}
        self._features: dict[str, list[int]] = {}
        self._days = set(self.days())

    @property
    def path(self) -> Path:
        return self._opened.path

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Raises sqlite3.Error, after which nothing of it is there."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            # What was made in it is gone again.
            self._names.clear()
            self._features.clear()
            self._days = set(self.days())
            raise

    def close(self) -> None:
        self._opened.close()

    # ---- names -----------------------------------------------------------------------------

    def stamp_id(self, stamp: str, name: str = "", at: float = 0.0) -> int:
        return self._name("stamp", "hex", stamp, {"name": name, "first_at": at})

    def env_id(self, text: str) -> int:
        return self._name("env", "text", text, {})

    def slice_id(self, name: str, at: float = 0.0) -> int:
        return self._name("slice", "name", name, {"first_at": at, "last_at": at})

    def _name(self, table: str, column: str, value: str, more: dict[str, Any]) -> int:
        key = (table, value)
        if key not in self._names:
            columns = ", ".join((column, *more))
            marks = ", ".join("?" * (len(more) + 1))
            self.connection.execute(
                f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",
                (value, *more.values()),
            )
            found = self.connection.execute(
                f"SELECT id FROM {table} WHERE {column} = ?", (value,)
            ).fetchone()
            self._names[key] = int(found[0])
        return self._names[key]

    def put_reference(self, stamp: str, name: str, reference: Reference, at: float) -> None:
        """The features of a stamp with their reference counts."""
        self._features.pop(stamp, None)
        stamp_id = self.stamp_id(stamp, name, at)
        if name:
            self.connection.execute("UPDATE stamp SET name = ? WHERE id = ?", (name, stamp_id))
        rows = [
            {
                "stamp_id": stamp_id,
                "position": position,
                "name": f.name,
                "modality": f.spec.modality,
                "kind": f.spec.kind,
                "unit": f.spec.unit,
                "categories": json.dumps(f.spec.categories),
                "importance": f.importance,
                "cells": len(f.counts),
                "centre": f.centre,
                "step": f.step,
                "edges": f.edges.astype("<f8").tobytes(),
                "reference_counts": pack_counts(f.counts),
            }
            for position, f in enumerate(reference.features)
        ]
        known = {
            row[0]: row[1]
            for row in self.connection.execute(
                "SELECT position, id FROM feature WHERE stamp_id = ?", (stamp_id,)
            )
        }
        for row in rows:
            if row["position"] in known:
                row["id"] = known[row["position"]]
        self.tools.table("feature").upsert_all([r for r in rows if "id" in r], pk="id")
        self.tools.table("feature").insert_all([r for r in rows if "id" not in r], pk="id")

    def feature_ids(self, stamp: str) -> list[int]:
        """In order of position."""
        if stamp not in self._features:
            self._features[stamp] = [
                int(row[0])
                for row in self.connection.execute(
                    "SELECT id FROM feature WHERE stamp_id = ? ORDER BY position",
                    (self.stamp_id(stamp),),
                )
            ]
        return self._features[stamp]

    def slice_names(self) -> list[str]:
        return [row[0] for row in self.connection.execute("SELECT name FROM slice ORDER BY id")]

    # ---- predictions -----------------------------------------------------------------------

    def days(self) -> list[str]:
        """Days that have tables, oldest first."""
        rows = self.connection.execute(
            "SELECT substr(name, 12) FROM sqlite_master"
            " WHERE type = 'table' AND name LIKE 'prediction\\_%' ESCAPE '\\' ORDER BY 1"
        )
        return [row[0] for row in rows]

    def make_day(self, day: str) -> None:
        if day not in self._days:
            for statement in day_tables(day):
                self.connection.execute(statement)
            self._days.add(day)

    def drop_day(self, day: str) -> None:
        with self.transaction():
            self.connection.execute(f"DROP TABLE IF EXISTS prediction_{day}")
            self.connection.execute(f"DROP TABLE IF EXISTS payload_{day}")
            self.connection.execute("DELETE FROM counted WHERE day = ?", (day,))
        self._days.discard(day)

    def insert(self, day: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """`rows` as made by `prediction_tuple`; ids that are there already are left alone."""
        self.connection.executemany(_INSERT.format(day=day), rows)

    def insert_payloads(
        self, day: str, rows: Sequence[tuple[str, float, str, float, bytes]]
    ) -> None:
        self.connection.executemany(f"INSERT OR IGNORE INTO payload_{day} VALUES (?,?,?,?,?)", rows)

    def prediction_tuple(self, record: Record, sample_p: float, kept: bool) -> tuple[Any, ...]:
        """The row of a record, in the order of PREDICTION_NAMES."""
        return (
            record.prediction_id,
            record.at,
            self.stamp_id(record.stamp, at=record.at),
            record.task,
            record.mix,
            record.label,
            record.confidence,
            record.margin,
            record.entropy,
            record.closed_set_mass,
            record.features,
            json.dumps(dict(record.slices)) if record.slices else "{}",
            record.client,
            record.session,
            record.replica,
            record.batch_size,
            record.queue_ms,
            record.decode_ms,
            record.preprocess_ms,
            record.forward_ms,
            record.post_ms,
            record.total_ms,
            record.error,
            self.env_id(record.env),
            record.trace_id,
            " ".join(record.company),
            sample_p,
            int(kept),
        )

    def last_row(self, day: str) -> int:
        found = self.connection.execute(f"SELECT max(id) FROM prediction_{day}").fetchone()
        return int(found[0] or 0)

    def counted(self) -> dict[str, int]:
        """Up to which row of each day the stored sums include the predictions."""
        return dict(self.connection.execute("SELECT day, row FROM counted").fetchall())

    def set_counted(self, rows: dict[str, int]) -> None:
        self.connection.executemany("INSERT OR REPLACE INTO counted VALUES (?, ?)", rows.items())

    # ---- sums ------------------------------------------------------------------------------

    def put_profiles(
        self, stamp_id: int, hour: int, slice_id: int, profiles: Sequence[tuple[int, Profile]]
    ) -> None:
        """(feature id, profile) of one slice and hour, absolute; features without rows left out."""
        rows = []
        for feature_id, p in profiles:
            if not (p.n or p.missing or p.nonfinite or p.absent):
                continue
            blob = pack_counts(p.counts)
            rows.append(
                (stamp_id, hour, slice_id, feature_id, p.n, p.missing, p.nonfinite, p.absent)
                + (p.sum, p.sum_squares, p.min, p.max, blob, zlib.crc32(blob))
            )
        self.connection.executemany(_PROFILE, rows)

    def profiles(self, stamp: str, hour: int, slice_name: str | None = None) -> Iterator[Any]:
        """(slice, position, missing, nonfinite, absent, sum, sum_squares, min, max, counts, crc)
        of an hour; of all slices unless one is named."""
        where = "" if slice_name is None else " AND s.name = :slice"
        yield from self.connection.execute(
            "SELECT s.name, f.position, p.missing, p.nonfinite, p.absent, p.sum, p.sum_squares,"
            " p.min, p.max, p.counts, p.crc FROM profile p JOIN slice s ON s.id = p.slice_id"
            " JOIN feature f ON f.id = p.feature_id"
            " WHERE p.stamp_id = (SELECT id FROM stamp WHERE hex = :stamp)"
            f" AND p.hour = :hour{where}",
            {"stamp": stamp, "hour": hour, "slice": slice_name},
        )

    def last_hour(self, stamp: str) -> int:
        """The latest hour (unix s) with counts of a stamp, 0 without."""
        found = self.connection.execute(
            "SELECT max(hour) FROM profile WHERE stamp_id = (SELECT id FROM stamp WHERE hex = ?)",
            (stamp,),
        ).fetchone()
        return int(found[0] or 0)

    def put_sums(self, table: str, key: tuple[Any, ...], blob: bytes) -> None:
        """`table` is quality (stamp, hour, slice) or profile_embedding (stamp, hour)."""
        marks = ",".join("?" * (len(key) + 2))
        self.connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*key, blob, zlib.crc32(blob))
        )

    def quality(self, stamp: str, hour: int, slice_name: str) -> bytes | None:
        """None when there is none, or its bytes are not what was written."""
        found = self.connection.execute(
            "SELECT q.sums, q.crc FROM quality q JOIN stamp s ON s.id = q.stamp_id"
            " JOIN slice c ON c.id = q.slice_id WHERE s.hex = ? AND q.hour = ? AND c.name = ?",
            (stamp, hour, slice_name),
        ).fetchone()
        return found[0] if found and zlib.crc32(found[0]) == found[1] else None

    def embedding(self, stamp: str, hour: int) -> bytes | None:
        """Likewise."""
        found = self.connection.execute(
            "SELECT e.sums, e.crc FROM profile_embedding e JOIN stamp s ON s.id = e.stamp_id"
            " WHERE s.hex = ? AND e.hour = ?",
            (stamp, hour),
        ).fetchone()
        return found[0] if found and zlib.crc32(found[0]) == found[1] else None

    def qualities(self, since: float, until: float) -> list[tuple[str, int, str, bytes]]:
        """(stamp, hour, slice, sums), oldest first."""
        found = self.connection.execute(
            "SELECT s.hex, q.hour, c.name, q.sums, q.crc FROM quality q"
            " JOIN stamp s ON s.id = q.stamp_id JOIN slice c ON c.id = q.slice_id"
            " WHERE q.hour > ? AND q.hour < ? ORDER BY q.hour",
            (since - 3600, until),
        )
        return [row[:4] for row in found if zlib.crc32(row[3]) == row[4]]

    def put_latency(self, rows: Sequence[LatencyRow]) -> None:
        self.connection.executemany(
            f"INSERT OR REPLACE INTO latency VALUES ({','.join('?' * 16)})",
            [latency_tuple(row, self.stamp_id(row.stamp)) for row in rows],
        )

    def latency(self, key: LatencyKey) -> LatencyRow | None:
        found = self.connection.execute(
            "SELECT * FROM latency WHERE bucket = ? AND width_s = ? AND mix = ? AND replica = ?"
            " AND stamp_id = (SELECT id FROM stamp WHERE hex = ?)",
            (key.bucket_unix_s, key.width_s, key.mix, key.replica, key.stamp),
        ).fetchone()
        return latency_of(found, key.stamp) if found else None

    # ---- judgements ------------------------------------------------------------------------

    def put_drift(self, rows: Sequence[DriftRow]) -> None:
        self.connection.executemany(
            _DRIFT,
            [(row.tick_unix_ms, self.stamp_id(row.stamp), *_DRIFT_VALUES(row)) for row in rows],
        )

    def put_alert(self, row: AlertRow) -> None:
        """The alert as it is now, and the steps of its history that are not there yet."""
        self.connection.execute(
            "INSERT OR REPLACE INTO alert VALUES (?, ?, ?)",
            (row.id, row.last_unix_ms, json.dumps({**asdict(row), "history": []})),
        )
        known = self.connection.execute(
            "SELECT count(*) FROM alert_event WHERE alert_id = ?", (row.id,)
        ).fetchone()[0]
        self.connection.executemany(
            "INSERT INTO alert_event (alert_id, at_unix_ms, from_state, to_state, actor, detail)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(row.id, *astuple(step)) for step in row.history[known:]],
        )

    def put_silence(self, row: SilenceRow) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO silence VALUES (?, ?, ?)",
            (row.id, row.until_unix_ms, json.dumps(asdict(row))),
        )

    def put_deploy(self, row: DeployRow) -> None:
        self.connection.execute(
            "INSERT INTO deploy (at_unix_ms, row) VALUES (?, ?)",
            (row.at_unix_ms, json.dumps(asdict(row))),
        )

    def levels(self, stamp: str, since_ms: int) -> list[tuple[int, str, str, int, str]]:
        """(tick, feature, slice, window, level) as they were judged, oldest first."""
        return self.connection.execute(
            "SELECT d.tick_unix_ms, d.feature, d.slice, d.window_s, d.level FROM drift d"
            " JOIN stamp s ON s.id = d.stamp_id WHERE d.tick_unix_ms >= ? AND s.hex = ?"
            " ORDER BY d.tick_unix_ms",
            (since_ms, stamp),
        ).fetchall()

    def alerts(self, limit: int = 200) -> list[AlertRow]:
        """The latest, each with its history."""
        found = self.connection.execute(
            "SELECT row FROM alert ORDER BY last_unix_ms DESC LIMIT ?", (limit,)
        ).fetchall()
        rows = [json.loads(row[0]) for row in found]
        return [alert_of(row, self._history(row["id"])) for row in rows]

    def _history(self, alert_id: str) -> tuple[AlertTransition, ...]:
        rows = self.connection.execute(
            "SELECT at_unix_ms, from_state, to_state, actor, detail FROM alert_event"
            " WHERE alert_id = ? ORDER BY id",
            (alert_id,),
        )
        return tuple(AlertTransition(*row) for row in rows)

    def silences(self, now_ms: int) -> list[SilenceRow]:
        rows = self.connection.execute("SELECT row FROM silence WHERE until_unix_ms > ?", (now_ms,))
        return [silence_of(json.loads(row[0])) for row in rows]

    # ---- size ------------------------------------------------------------------------------

    def bytes(self) -> int:
        """Of the file, without what is free inside it, and its log."""
        pages, free, size = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        log = self.path.with_name(self.path.name + "-wal")
        return int((pages - free) * size) + (log.stat().st_size if log.exists() else 0)
