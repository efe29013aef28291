"""The latency rows of the window shown, held in arrays and updated with what changed since the
last read: rewritten rows get a new `seq`, so `seq > last` is everything new."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from console.cache.retention import LEVEL_S
from console.cache.schema import LATENCY

MOST_ROWS = 60_000  # in memory: 64 buckets of 4 bytes each, 15 MB
_COLUMNS = ", ".join(("seq", *LATENCY))


class LatencyRows:
    """Not thread-safe: belongs to the reading thread."""

    def __init__(self) -> None:
        self.keys = np.zeros((0, 5), np.int64)  # bucket_ms, server, stamp, mix, replica
        self.width_s = np.zeros(0)
        self.numbers = np.zeros((0, 9))  # requests, errors, five stages, total, batch rows
        self.counts = np.zeros((0, 64), np.uint32)
        self.exemplars: dict[tuple[int, ...], str] = {}
        self._places: dict[tuple[int, ...], int] = {}
        self._used = 0
        self._seq = 0
        self._cut = 0  # older rows are summed ones
        self._span = (0, 0)
        self._level = -1

    @property
    def size(self) -> int:
        return self._used

    @property
    def level(self) -> int:
        return self._level

    def refresh(self, db: sqlite3.Connection, from_ms: int, to_ms: int) -> None:
        """Hold the rows of [from, to). The range may slide; a jump reads everything again."""
        begin, end = self._span
        slid = self._level >= 0 and begin <= from_ms and to_ms >= end and from_ms < end
        if not slid or (to_ms - from_ms) < (end - begin) * 0.6 or self._used > 2 * MOST_ROWS:
            self._load(db, from_ms, to_ms)
            return
        # The same span at the same level: what came since, plus what the longer span adds.
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM latency WHERE seq > ? AND level = 0 AND bucket_ms >= ?",
            (self._seq, self._cut),
        ).fetchall()
        self._add(rows)
        self._span = (begin, to_ms)

    def _load(self, db: sqlite3.Connection, from_ms: int, to_ms: int) -> None:
        self.__init__()  # type: ignore[misc]
        self._level = _level(db, from_ms, to_ms)
        self._seq = int(db.execute("SELECT ifnull(max(seq), 0) FROM latency").fetchone()[0])
        width_ms = LEVEL_S[self._level] * 1000
        begin = from_ms - (width_ms or 10_000)
        self._span = (begin, to_ms)
        cut = begin
        if self._level:
            cut = int(
                db.execute(
                    "SELECT ifnull(max(bucket_ms) + ?, ?) FROM latency WHERE level = ?",
                    (width_ms, begin, self._level),
                ).fetchone()[0]
            )
            self._read(db, self._level, begin, to_ms)
        # What is not summed yet is read as it came.
        self._cut = max(cut, begin)
        self._read(db, 0, self._cut, to_ms)

    def _read(self, db: sqlite3.Connection, level: int, from_ms: int, to_ms: int) -> None:
        cursor = db.execute(
            f"SELECT {_COLUMNS} FROM latency WHERE level = ? AND bucket_ms >= ?"
            " AND bucket_ms < ? LIMIT ?",
            (level, from_ms, to_ms + 600_000, 2 * MOST_ROWS),
        )
        while rows := cursor.fetchmany(4000):
            self._add(rows)

    def _add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        self._grow(len(rows))
        places = []
        for row in rows:
            key: tuple[int, ...] = row[1:6]
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = self._used
                self._used += 1
            places.append(place)
            if row[17]:
                self.exemplars[key] = str(row[17])
        self.keys[places] = [row[1:6] for row in rows]
        self.width_s[places] = [row[6] for row in rows]
        self.numbers[places] = [(*row[7:9], *row[10:17]) for row in rows]
        blob = b"".join(row[9] for row in rows)
        self.counts[places] = np.frombuffer(blob, "<u4").reshape(-1, 64)
        self._seq = max(self._seq, max(row[0] for row in rows))

    def _grow(self, more: int) -> None:
        need = self._used + more
        if need <= len(self.keys):
            return
        room = max(need, 2 * len(self.keys), 1024)
        for name in ("keys", "width_s", "numbers", "counts"):
            old: NDArray[np.generic] = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: self._used] = old[: self._used]
            setattr(self, name, new)


def _level(db: sqlite3.Connection, from_ms: int, to_ms: int) -> int:
    """The finest level that does not fill the memory. Counting is an index scan, and stops."""
    for level in range(len(LEVEL_S)):
        count = db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM latency WHERE level = ? AND bucket_ms >= ?"
            " AND bucket_ms < ? LIMIT ?)",
            (level, from_ms, to_ms, MOST_ROWS + 1),
        ).fetchone()[0]
        if count <= MOST_ROWS:
            return level
    return len(LEVEL_S) - 1
