"""Keeps the latency rows of the shown window in arrays, and adds what changed since the last read:
a rewritten row gets a new `seq`, so `seq > last` finds everything new."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from console.cache.interned import InternedTexts
from console.cache.retention import LEVEL_S
from console.cache.schema import LATENCY

MOST_ROWS = 60_000  # in memory: 64 buckets of 4 bytes each, 15 MB
MARGIN_MS = 60_000  # rows this far beyond a span are read too, as clocks are only roughly right
FAR_MS = 50_000  # a clock further off gets a read of its own: MARGIN_MS less the longest bucket
_COLUMNS = ", ".join(("seq", *LATENCY))


def clocks_of(names: InternedTexts, shifts_s: Mapping[str, float]) -> dict[int, int]:
    """For each server (by its number), how far its clock is ahead of the axis, in ms."""
    found = {names.find(address): int(shift * 1000) for address, shift in shifts_s.items()}
    found.pop(-1, None)
    return found


def newest_row_s(db: sqlite3.Connection, clocks: Mapping[int, int]) -> float:
    """Where the newest row of all servers begins on the axis; NaN if there is none."""
    last = db.execute("SELECT max(bucket_ms) FROM latency WHERE level = 0").fetchone()[0]
    if last is None:
        return math.nan
    apart = max([0, *clocks.values()]) - min([0, *clocks.values()])
    found = db.execute(
        "SELECT server, max(bucket_ms) FROM latency WHERE level = 0 AND bucket_ms >= ?"
        " GROUP BY server",
        (last - apart,),
    )
    return float(max(bucket - clocks.get(server, 0) for server, bucket in found)) / 1000


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
        self._cut = 0  # rows before this are roll-ups
        # By server: how far its clock is ahead, and its own cut (ms).
        self._far: dict[int, tuple[int, int]] = {}
        self._span = (0, 0)
        self._level = -1

    @property
    def size(self) -> int:
        return self._used

    @property
    def level(self) -> int:
        return self._level

    def refresh(
        self,
        db: sqlite3.Connection,
        from_ms: int,
        to_ms: int,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        """Hold the rows of [from, to) and MARGIN_MS around it. The range may slide; after a jump
        everything is read again. Rows carry their server's clock; `clocks` has how far each clock
        is ahead of the range (`clocks_of`). A server whose clock is far off is read on its own,
        where its rows are."""
        clocks, (begin, end) = clocks or {}, self._span
        from_ms, to_ms = from_ms - MARGIN_MS, to_ms + MARGIN_MS
        slid = self._level >= 0 and begin <= from_ms and to_ms >= end and from_ms < end
        if not slid or self._left(clocks) or self._is_too_large(to_ms - from_ms):
            self._load(db, from_ms, to_ms, clocks)
            return
        # The same span at the same level: read what is new, which includes what the longer span
        # adds.
        earliest = min([self._cut, *(cut for _, cut in self._far.values())])
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM latency WHERE seq > ? AND level = 0 AND bucket_ms >= ?",
            (self._seq, earliest),
        ).fetchall()
        self._add([row for row in rows if row[1] >= self._cut_of(row[2])])
        self._span = (begin, to_ms)

    def _is_too_large(self, wanted_ms: int) -> bool:
        begin, end = self._span
        return wanted_ms < (end - begin) * 0.6 or self._used > 2 * MOST_ROWS

    def _left(self, clocks: Mapping[int, int]) -> bool:
        """Whether a clock has moved away from where its rows were read."""
        held = ((ahead, self._far.get(server, (0, 0))[0]) for server, ahead in clocks.items())
        return any(abs(ahead - read) > FAR_MS for ahead, read in held)

    def _cut_of(self, server: int) -> int:
        return self._far[server][1] if server in self._far else self._cut

    def _load(
        self, db: sqlite3.Connection, from_ms: int, to_ms: int, clocks: Mapping[int, int]
    ) -> None:
        self.__init__()  # type: ignore[misc]
        self._level = _level(db, from_ms, to_ms)
        self._seq = int(db.execute("SELECT ifnull(max(seq), 0) FROM latency").fetchone()[0])
        width_ms = LEVEL_S[self._level] * 1000
        begin = from_ms - (width_ms or 10_000)
        self._span = (begin, to_ms)
        summed = 0
        if self._level:
            summed = int(
                db.execute(
                    "SELECT ifnull(max(bucket_ms) + ?, 0) FROM latency WHERE level = ?",
                    (width_ms, self._level),
                ).fetchone()[0]
            )
        self._cut = max(summed, begin)
        self._read_both(db, begin, to_ms, self._cut)
        for server, ahead in clocks.items():
            if abs(ahead) > FAR_MS:
                cut = max(summed, begin + ahead)
                self._far[server] = (ahead, cut)
                self._read_both(db, begin + ahead, to_ms + ahead, cut, server)

    def _read_both(
        self, db: sqlite3.Connection, begin: int, end: int, cut: int, server: int | None = None
    ) -> None:
        """Read the rolled-up rows, and the original rows that are not rolled up yet."""
        if self._level:
            self._read(db, self._level, begin, end, server)
        self._read(db, 0, cut, end, server)

    def _read(
        self,
        db: sqlite3.Connection,
        level: int,
        from_ms: int,
        to_ms: int,
        server: int | None,
    ) -> None:
        """Read the rows of all servers, or of one."""
        cursor = db.execute(
            f"SELECT {_COLUMNS} FROM latency WHERE level = ? AND bucket_ms >= ?"
            " AND bucket_ms < ? AND server = ifnull(?, server) LIMIT ?",
            (level, from_ms, to_ms + 600_000, server, 2 * MOST_ROWS),
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
    """The finest level whose rows fit into memory. Counting is an index scan, and stops early."""
    for level in range(len(LEVEL_S)):
        count = db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM latency WHERE level = ? AND bucket_ms >= ?"
            " AND bucket_ms < ? LIMIT ?)",
            (level, from_ms, to_ms, MOST_ROWS + 1),
        ).fetchone()[0]
        if count <= MOST_ROWS:
            return level
    return len(LEVEL_S) - 1
