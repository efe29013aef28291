"""The stored sums: hourly profiles, embeddings and quality, latency. They are absolute: a new value
replaces the old one. Part of `Store`, on its connection."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from server.telemetry.drift.profile import Profile, pack_counts
from server.telemetry.rows import LatencyRow
from server.telemetry.stamps.latency import LatencyKey
from server.telemetry.store.row_codec import latency_of, latency_tuple
from server.telemetry.store.stored_names import StoredNames

_PROFILE = "INSERT OR REPLACE INTO profile VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"


class SumsStore:
    def __init__(self, connection: sqlite3.Connection, names: StoredNames) -> None:
        self._connection = connection
        self._names = names

    def put_profiles(
        self, stamp_id: int, hour: int, slice_id: int, profiles: Sequence[tuple[int, Profile]]
    ) -> None:
        """Store (feature id, profile) of one slice and hour, as absolute values; features without
        rows are left out."""
        rows = []
        for feature_id, p in profiles:
            if not (p.n or p.missing or p.nonfinite or p.absent):
                continue
            blob = pack_counts(p.counts)
            rows.append(
                (stamp_id, hour, slice_id, feature_id, p.n, p.missing, p.nonfinite, p.absent)
                + (p.sum, p.sum_squares, p.min, p.max, blob, zlib.crc32(blob))
            )
        self._connection.executemany(_PROFILE, rows)

    def profiles(self, stamp: str, hour: int, slice_name: str | None = None) -> Iterator[Any]:
        """(slice, position, missing, nonfinite, absent, sum, sum_squares, min, max, counts, crc) of
        an hour, for all slices unless one is given."""
        where = "" if slice_name is None else " AND s.name = :slice"
        yield from self._connection.execute(
            "SELECT s.name, f.position, p.missing, p.nonfinite, p.absent, p.sum, p.sum_squares,"
            " p.min, p.max, p.counts, p.crc FROM profile p JOIN slice s ON s.id = p.slice_id"
            " JOIN feature f ON f.id = p.feature_id"
            " WHERE p.stamp_id = (SELECT id FROM stamp WHERE hex = :stamp)"
            f" AND p.hour = :hour{where}",
            {"stamp": stamp, "hour": hour, "slice": slice_name},
        )

    def first_hour(self, stamp: str, slice_name: str) -> int:
        """The first hour (unix s) with counts of a slice; 0 if there is none."""
        found = self._connection.execute(
            "SELECT min(hour) FROM profile WHERE stamp_id = (SELECT id FROM stamp WHERE hex = ?)"
            " AND slice_id = (SELECT id FROM slice WHERE name = ?)",
            (stamp, slice_name),
        ).fetchone()
        return int(found[0] or 0)

    def last_hour(self, stamp: str) -> int:
        """The latest hour (unix s) with counts of a stamp; 0 if there is none."""
        found = self._connection.execute(
            "SELECT max(hour) FROM profile WHERE stamp_id = (SELECT id FROM stamp WHERE hex = ?)",
            (stamp,),
        ).fetchone()
        return int(found[0] or 0)

    def put_sums(self, table: str, key: tuple[Any, ...], blob: bytes) -> None:
        """`table` is quality (stamp, hour, slice) or profile_embedding (stamp, hour)."""
        marks = ",".join("?" * (len(key) + 2))
        self._connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*key, blob, zlib.crc32(blob))
        )

    def quality(self, stamp: str, hour: int, slice_name: str) -> bytes | None:
        """The stored bytes; None if there are none, or if they are damaged."""
        found = self._connection.execute(
            "SELECT q.sums, q.crc FROM quality q JOIN stamp s ON s.id = q.stamp_id"
            " JOIN slice c ON c.id = q.slice_id WHERE s.hex = ? AND q.hour = ? AND c.name = ?",
            (stamp, hour, slice_name),
        ).fetchone()
        return found[0] if found and zlib.crc32(found[0]) == found[1] else None

    def embedding(self, stamp: str, hour: int) -> bytes | None:
        """The stored bytes; None if there are none, or if they are damaged."""
        found = self._connection.execute(
            "SELECT e.sums, e.crc FROM profile_embedding e JOIN stamp s ON s.id = e.stamp_id"
            " WHERE s.hex = ? AND e.hour = ?",
            (stamp, hour),
        ).fetchone()
        return found[0] if found and zlib.crc32(found[0]) == found[1] else None

    def qualities(self, since: float, until: float) -> list[tuple[str, int, str, bytes]]:
        """(stamp, hour, slice, sums), oldest first."""
        found = self._connection.execute(
            "SELECT s.hex, q.hour, c.name, q.sums, q.crc FROM quality q"
            " JOIN stamp s ON s.id = q.stamp_id JOIN slice c ON c.id = q.slice_id"
            " WHERE q.hour > ? AND q.hour < ? ORDER BY q.hour",
            (since - 3600, until),
        )
        return [row[:4] for row in found if zlib.crc32(row[3]) == row[4]]

    def put_latency(self, rows: Sequence[LatencyRow]) -> None:
        self._connection.executemany(
            f"INSERT OR REPLACE INTO latency VALUES ({','.join('?' * 16)})",
            [latency_tuple(row, self._names.stamp_id(row.stamp)) for row in rows],
        )

    def latency(self, key: LatencyKey) -> LatencyRow | None:
        found = self._connection.execute(
            "SELECT * FROM latency WHERE bucket = ? AND width_s = ? AND mix = ? AND replica = ?"
            " AND stamp_id = (SELECT id FROM stamp WHERE hex = ?)",
            (key.bucket_unix_s, key.width_s, key.mix, key.replica, key.stamp),
        ).fetchone()
        return latency_of(found, key.stamp) if found else None
