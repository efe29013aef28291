"""Keeps telemetry.db within its limits of age and size.

Old rows are deleted a day at a time, oldest first, and at most one day of predictions in each pass:
a clock that jumps ahead for an hour must not empty the store. If the file is still too large, kept
payloads are deleted before predictions, and predictions before hours of profiles. Today's rows come
last, starting with the oldest of the client that has most of them, so that a flood by one client
only displaces its own rows. Feedback beyond a quarter of the size is deleted first of all, oldest
first.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from server.telemetry.stamps.latency import WIDE_S, WIDTH_S, LatencyKey, LatencySums
from server.telemetry.store.row_codec import latency_of
from server.telemetry.store.store import Store, day_of

HOUR_S, DAY_S = 3600, 86400
CHUNK_ROWS = 5000
CLOCK_STEP_S = 3600.0  # smaller steps do not matter for ages in days
PAGES_FREED = 2000  # pages returned to the file system at once; 8 MB
ROOM_AGAIN = 0.95  # share of the size limit to reach once rows of today must be deleted
SAMPLED_ROWS = 2000  # rows of a day, to estimate each client's share; 40 ms
ROW_EXTRA_BYTES = 400  # of each row: its numbers, short texts and keys in the indexes
FEEDBACK_SHARE = 0.25  # of the size limit
FEEDBACK_SAMPLE = 1000  # newest rows, from which the size of one is estimated
FEEDBACK_EXTRA_BYTES = 150  # of each row: its numbers, its keys in the indexes and in `truth`


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Ages in days; size of the whole file in bytes."""

    predictions_days: float = 7.0
    payload_days: float = 7.0
    latency_fine_days: float = 2.0  # ten-second rows are then merged into five-minute ones
    latency_days: float = 30.0
    profile_days: float = 90.0
    drift_days: float = 90.0
    history_days: float = 730.0  # alerts, deploys
    max_bytes: int = 4 << 30


class Retention:
    def __init__(self, store: Store, limits: RetentionLimits) -> None:
        self._store = store
        self._limits = limits

    def sweep(self, now: float, trusted: bool = True) -> list[str]:
        """One pass; returns what it deleted, for the log. Without a `trusted` clock nothing is
        deleted because of its age."""
        gone = self._by_age(now) if trusted else []
        gone += self.fit(now)
        if trusted:
            self._roll_latency(now)
        if gone:
            self._store.connection.execute(f"PRAGMA incremental_vacuum({PAGES_FREED})").fetchall()
        return gone

    def fit(self, now: float) -> list[str]:
        """Delete rows until the size limit is met; cheap if it already is. Returns what it deleted,
        for the log."""
        if max(self._store.file_bytes(), self._store.bytes()) <= self._limits.max_bytes:
            return []
        gone = self._by_size(now)
        # Deleted pages are reused before the file grows, but the file keeps its largest size on
        # disk.
        self._store.connection.execute(f"PRAGMA incremental_vacuum({PAGES_FREED})").fetchall()
        self._store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    def _by_age(self, now: float) -> list[str]:
        limits, gone = self._limits, []
        first = day_of(now - limits.predictions_days * DAY_S)
        old = [day for day in self._store.days() if day < first]
        if old:
            self._store.drop_day(old[0])
            gone.append(f"predictions of {old[0]}")
        payloads = day_of(now - limits.payload_days * DAY_S)
        for day in self._store.days():
            if day < payloads and self._drop_payloads(day):
                gone.append(f"payloads of {day}")
                break
        for table, column, days, scale in (
            ("profile", "hour", limits.profile_days, 1),
            ("profile_embedding", "hour", limits.profile_days, 1),
            ("quality", "hour", limits.profile_days, 1),
            ("latency", "bucket", limits.latency_days, 1),
            ("drift", "tick_unix_ms", limits.drift_days, 1000),
            ("alert", "last_unix_ms", limits.history_days, 1000),
            ("alert_event", "at_unix_ms", limits.history_days, 1000),
            ("deploy", "at_unix_ms", limits.history_days, 1000),
            ("silence", "until_unix_ms", limits.history_days, 1000),
            ("annotation", "at_unix_ms", limits.history_days, 1000),
            ("truth", "predicted_at", limits.profile_days, 1),
            ("feedback", "received_at", limits.profile_days, 1),
        ):
            rows = self._delete(table, column, (now - days * DAY_S) * scale)
            if rows:
                gone.append(f"{rows} rows of {table}")
        return gone

    def _delete(self, table: str, column: str, before: float) -> int:
        """Delete one chunk, as the writer has other work."""
        # Tables WITHOUT ROWID are deleted by range, as their hours are small.
        keyed = table in ("profile", "profile_embedding", "quality", "latency")
        where = f"{column} < ?"
        if keyed:
            oldest = self._store.connection.execute(f"SELECT min({column}) FROM {table}").fetchone()
            if oldest[0] is None or oldest[0] >= before:
                return 0
            before = min(before, oldest[0] + DAY_S)
        else:
            where = f"rowid IN (SELECT rowid FROM {table} WHERE {column} < ? LIMIT {CHUNK_ROWS})"
        with self._store.transaction() as connection:
            return connection.execute(f"DELETE FROM {table} WHERE {where}", (before,)).rowcount

    def _roll_latency(self, now: float) -> None:
        """Merge old ten-second rows into five-minute rows, one hour of them in each pass; only the
        resolution is lost."""
        first = self._store.connection.execute(
            "SELECT min(bucket) FROM latency WHERE width_s = ?", (WIDTH_S,)
        ).fetchone()[0]
        if first is None or first >= now - self._limits.latency_fine_days * DAY_S:
            return
        end = first // HOUR_S * HOUR_S + HOUR_S
        merged: dict[LatencyKey, LatencySums] = {}
        with self._store.transaction() as connection:
            rows = connection.execute(
                "SELECT l.*, s.hex FROM latency l JOIN stamp s ON s.id = l.stamp_id"
                " WHERE width_s = ? AND bucket < ?",
                (WIDTH_S, end),
            ).fetchall()
            for row in rows:
                fine = latency_of(row[:-1], row[-1])
                bucket = fine.bucket_unix_ms // 1000 // WIDE_S * WIDE_S
                key = LatencyKey(bucket, WIDE_S, fine.stamp, fine.mix, fine.replica)
                merged.setdefault(key, LatencySums()).merge(fine)
            self._store.sums.put_latency([sums.row(key) for key, sums in merged.items()])
            connection.execute(
                "DELETE FROM latency WHERE width_s = ? AND bucket < ?", (WIDTH_S, end)
            )

    def _by_size(self, now: float) -> list[str]:
        gone: list[str] = []
        steps = (
            self._surplus_feedback,
            self._oldest_payloads,
            self._oldest_day,
            self._oldest_profiles,
            self._oldest_rows,
        )
        for step in steps:
            while self._store.bytes() > self._limits.max_bytes:
                went = step(now)
                if not went:
                    break
                gone += went
                self._store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    def _surplus_feedback(self, _now: float) -> list[str]:
        if self._feedback_bytes() <= FEEDBACK_SHARE * self._limits.max_bytes:
            return []
        with self._store.transaction() as connection:
            oldest = f"SELECT id FROM feedback ORDER BY id LIMIT {CHUNK_ROWS}"
            labelled = "SELECT prediction_id FROM feedback WHERE id IN"
            connection.execute(f"DELETE FROM truth WHERE prediction_id IN ({labelled} ({oldest}))")
            rows = connection.execute(f"DELETE FROM feedback WHERE id IN ({oldest})").rowcount
        return [f"{rows} observations"] if rows else []

    def _feedback_bytes(self) -> float:
        """Bytes of all feedback, from its number of rows and the size of the newest ones."""
        first, last = self._store.connection.execute(
            "SELECT min(id), max(id) FROM feedback"
        ).fetchone()
        if first is None:
            return 0.0
        texts = "prediction_id || label || outcome || source || idempotency_key"
        (each,) = self._store.connection.execute(
            f"SELECT avg(length(CAST({texts} AS BLOB))) FROM"
            f" (SELECT * FROM feedback ORDER BY id DESC LIMIT {FEEDBACK_SAMPLE})"
        ).fetchone()
        return float((last - first + 1) * ((each or 0.0) + FEEDBACK_EXTRA_BYTES))

    def _oldest_payloads(self, now: float) -> list[str]:
        for day in self._store.days():
            if self._drop_payloads(day):
                return [f"payloads of {day}"]
        return []

    def _drop_payloads(self, day: str) -> bool:
        found = self._store.connection.execute(f"SELECT 1 FROM payload_{day} LIMIT 1").fetchone()
        if found is None:
            return False
        with self._store.transaction() as connection:
            connection.execute(f"DELETE FROM payload_{day}")
            connection.execute(f"UPDATE prediction_{day} SET kept = 0 WHERE kept")
        return True

    def _oldest_day(self, now: float) -> list[str]:
        days = [day for day in self._store.days() if day != day_of(now)]
        if not days:
            return []
        self._store.drop_day(days[0])
        return [f"predictions of {days[0]}"]

    def _oldest_profiles(self, now: float) -> list[str]:
        rows = self._delete("profile", "hour", now - DAY_S)
        return [f"{rows} rows of profile"] if rows else []

    def _oldest_rows(self, now: float) -> list[str]:
        day = day_of(now)
        if day not in self._store.days():
            return []
        found = self._largest_client(day)
        if found is None:
            return []
        client, surplus, each = found
        used = self._store.bytes()
        needed = min(used - ROOM_AGAIN * self._limits.max_bytes, surplus)
        rows = max(min(CHUNK_ROWS, math.ceil(needed / each)), 1)
        with self._store.transaction() as connection:
            gone = connection.execute(
                f"DELETE FROM prediction_{day} WHERE id IN (SELECT id FROM prediction_{day}"
                f" WHERE client = ? ORDER BY id LIMIT {rows})",
                (client,),
            ).rowcount
        return [f"{gone} predictions of {client or 'no client'} of today"] if gone else []

    def _largest_client(self, day: str) -> tuple[str, float, float] | None:
        """The client whose rows of a day take most, by how many bytes more than those of the next
        one (at least a tenth), and the bytes of one row; estimated from a sample of the rows."""
        first, last = self._store.connection.execute(
            f"SELECT min(id), max(id) FROM prediction_{day}"
        ).fetchone()
        if first is None:
            return None
        ids = range(first, last + 1)
        drawn = random.sample(ids, min(SAMPLED_ROWS, len(ids)))
        taken: dict[str, list[int]] = {}
        sizes = "length(CAST(slices AS BLOB)) + length(CAST(batch_mates AS BLOB))"
        for client, size in self._store.connection.execute(
            f"SELECT client, {sizes} + length(features) + {ROW_EXTRA_BYTES} FROM prediction_{day}"
            f" WHERE id IN ({','.join(map(str, drawn))})"
        ):
            taken.setdefault(client, []).append(size or ROW_EXTRA_BYTES)
        if not taken:  # mostly gaps: the rows are few
            (client,) = self._store.connection.execute(
                f"SELECT client FROM prediction_{day} WHERE id = ?", (first,)
            ).fetchone()
            return client, math.inf, ROW_EXTRA_BYTES
        order = sorted(taken, key=lambda client: sum(taken[client]), reverse=True)
        sums = [sum(taken[client]) for client in order]
        more = max(sums[0] - (sums[1] if len(sums) > 1 else 0), sums[0] / 10)
        return order[0], more * len(ids) / len(drawn), sums[0] / len(taken[order[0]])


@dataclass(slots=True)
class ClockSteps:
    """Detects that the wall clock was set: it advanced more, or less, than the monotonic clock.

    `speed`: unix seconds that pass in one second of the monotonic clock, for a simulated clock.
    """

    speed: float = 1.0
    _seen: tuple[float, float] | None = field(default=None, init=False)

    def step(self, now: float, monotonic: float) -> float:
        """By how many seconds the clock was set since the last call; 0.0 for less than an hour,
        which does not matter for ages in days."""
        before, self._seen = self._seen, (now, monotonic)
        if before is None:
            return 0.0
        moved = now - before[0] - (monotonic - before[1]) * self.speed
        return moved if abs(moved) >= CLOCK_STEP_S else 0.0
