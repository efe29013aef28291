"""Keeps telemetry.db within its age and size.

Old things go a day at a time, oldest first, and at most one day of predictions a pass: a clock that
jumps ahead for an hour must not empty the store. When the file is still too large, kept payloads go
before predictions, predictions before hours of profiles; today's rows go last, the oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.telemetry.stamps.latency import WIDE_S, WIDTH_S, LatencyKey, LatencySums
from server.telemetry.store.row_codec import latency_of
from server.telemetry.store.store import Store, day_of

HOUR_S, DAY_S = 3600, 86400
CHUNK_ROWS = 5000
CLOCK_STEP_S = 3600.0  # smaller steps do not matter to ages in days
PAGES_FREED = 2000  # given back to the file system in one go


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Ages in days, size in bytes of the whole file."""

    predictions_days: float = 7.0
    payload_days: float = 7.0
    latency_fine_days: float = 2.0  # ten-second rows become five-minute ones
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
        deleted for its age."""
        gone = self._by_age(now) if trusted else []
        gone += self._by_size(now)
        if trusted:
            self._roll_latency(now)
        if gone:
            self._store.connection.execute(f"PRAGMA incremental_vacuum({PAGES_FREED})").fetchall()
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
            ("truth", "predicted_at", limits.profile_days, 1),
            ("feedback", "received_at", limits.profile_days, 1),
        ):
            rows = self._delete(table, column, (now - days * DAY_S) * scale)
            if rows:
                gone.append(f"{rows} rows of {table}")
        return gone

    def _delete(self, table: str, column: str, before: float) -> int:
        """One chunk: the writer has other things to do."""
        # Tables WITHOUT ROWID are deleted from by range; their hours are small.
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
        """Ten-second rows that are old become five-minute ones, an hour of them a pass; nothing
        but the resolution is lost."""
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
        steps = (self._oldest_payloads, self._oldest_day, self._oldest_profiles, self._oldest_rows)
        for step in steps:
            while self._store.bytes() > self._limits.max_bytes:
                went = step(now)
                if not went:
                    break
                gone += went
                self._store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

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
        with self._store.transaction() as connection:
            rows = connection.execute(
                f"DELETE FROM prediction_{day} WHERE id IN"
                f" (SELECT id FROM prediction_{day} ORDER BY id LIMIT {CHUNK_ROWS})"
            ).rowcount
        return [f"{rows} predictions of today"] if rows else []


@dataclass(slots=True)
class ClockSteps:
    """Notices that the wall clock was set: it advanced more, or less, than the monotonic clock.

    `speed`: unix seconds that pass in one of the monotonic clock, for a simulated clock."""

    speed: float = 1.0
    _seen: tuple[float, float] | None = field(default=None, init=False)

    def step(self, now: float, monotonic: float) -> float:
        """By how many seconds the clock was moved since the last look; 0.0 when by less than an
        hour, which is no matter to anything that is counted in days."""
        before, self._seen = self._seen, (now, monotonic)
        if before is None:
            return 0.0
        moved = now - before[0] - (monotonic - before[1]) * self.speed
        return moved if abs(moved) >= CLOCK_STEP_S else 0.0
