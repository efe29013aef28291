"""How long rows are kept: fine latency rows are summed into minutes and ten minutes, old rows are
deleted, and a file above its limit loses its oldest rows first."""

from __future__ import annotations

import sqlite3

import numpy as np

HOUR_MS = 3_600_000
LEVEL_S = (0, 60, 600)  # width of a rolled-up row; level 0 is as the server sent it
KEEP_MS = (6 * HOUR_MS, 7 * 24 * HOUR_MS, 90 * 24 * HOUR_MS)
SETTLE_MS = 120_000  # a minute is rolled up once no more rows of it are expected
KEEP_ROWS_MS = {
    "prediction": ("at_ms", 7 * 24 * HOUR_MS),
    "drift": ("tick_ms", 14 * 24 * HOUR_MS),
    "alert": ("at_ms", 90 * 24 * HOUR_MS),
    "deploy": ("at_ms", 365 * 24 * HOUR_MS),
    "quality": ("at_ms", 90 * 24 * HOUR_MS),
    "slice": ("at_ms", 7 * 24 * HOUR_MS),
    "silence": ("at_ms", 7 * 24 * HOUR_MS),
    "annotation": ("at_ms", 365 * 24 * HOUR_MS),
    "host": ("at_ms", 7 * 24 * HOUR_MS),
}
SLICE_ROWS = 20_000  # rows deleted or summed in one step, so that a reader never waits long
_SUMS = "queue_ms, decode_ms, preprocess_ms, forward_ms, post_ms, total_ms"


def tidy(connection: sqlite3.Connection, now_s: float, limit_bytes: int) -> frozenset[str]:
    """One round of roll-up and deletion; cheap when there is nothing to do."""
    now_ms = int(now_s * 1000)
    for level in (1, 2):
        roll_up(connection, level, now_ms)
    for level, keep_ms in enumerate(KEEP_MS):
        connection.execute(
            "DELETE FROM latency WHERE seq IN (SELECT seq FROM latency WHERE level = ?"
            " AND bucket_ms < ? LIMIT ?)",
            (level, now_ms - keep_ms, SLICE_ROWS),
        )
    for table, (column, keep_ms) in KEEP_ROWS_MS.items():
        connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (now_ms - keep_ms,))
    connection.execute("DELETE FROM profile WHERE hour_s < ?", (now_s - 90 * 86400,))
    connection.execute(
        "DELETE FROM action WHERE state != 'waiting' AND at_s < ?", (now_s - 604800,)
    )
    shrink(connection, limit_bytes)
    connection.execute("PRAGMA incremental_vacuum(2000)").fetchall()
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return frozenset({"meta"})


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in pages that hold something."""
    pages, free, page = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page


# The tables that lose rows when the file is full: the column with the age, and the bytes of a row
# (plus the length of its body, where it has one).
_GIVE_WAY = {
    "prediction": ("at_ms", 700),
    "latency": ("bucket_ms", 600),
    "drift": ("tick_ms", 300),
    "profile": ("hour_s", 1200),
    "quality": ("at_ms", 100),
    "slice": ("at_ms", 100),
    "alert": ("at_ms", 100),
    "deploy": ("at_ms", 100),
    "silence": ("at_ms", 100),
    "annotation": ("at_ms", 100),
    "host": ("at_ms", 90),
    "feature": ("at_ms", 100),
}
_WITH_BODY = (
    *("quality", "slice", "alert", "deploy", "silence", "feature"),
    "annotation",
)
_SHRINK_TO = 0.95


def shrink(connection: sqlite3.Connection, limit_bytes: int) -> None:
    """Delete the oldest rows of the server that holds the most, until the file is below 95 % of its
    limit. So a server that floods the file costs the others nothing."""
    if used_bytes(connection) <= limit_bytes:
        return
    held = _held(connection)
    for _ in range(200):
        if used_bytes(connection) <= limit_bytes * _SHRINK_TO or not held:
            return
        sums: dict[int, float] = {}
        for (_table, server), size in held.items():
            sums[server] = sums.get(server, 0.0) + size
        largest = max(sums, key=lambda server: sums[server])
        place = max((p for p in held if p[1] == largest), key=lambda place: held[place])
        share = _delete_oldest(connection, *place)
        held[place] *= 1.0 - share
        if share >= 1.0:
            del held[place]


def _held(connection: sqlite3.Connection) -> dict[tuple[str, int], float]:
    """Roughly how many bytes each (table, server) takes. A feature belongs to a stamp and not to a
    server, so all features count together, under server 0."""
    found: dict[tuple[str, int], float] = {}
    for table, (_, each) in _GIVE_WAY.items():
        server = "0" if table == "feature" else "server"
        body = "sum(length(body))" if table in _WITH_BODY else "0"
        rows = connection.execute(
            f"SELECT {server}, count(*), {body} FROM {table} GROUP BY 1 HAVING count(*) > 0"
        )
        for number, count, length in rows:
            found[table, number] = count * each + length
    return found


def _delete_oldest(connection: sqlite3.Connection, table: str, server: int) -> float:
    """Delete a fifth of this server's rows in the table, at most SLICE_ROWS; returns the deleted
    share."""
    column = _GIVE_WAY[table][0]
    where = "1" if table == "feature" else f"server = {int(server)}"
    count = int(connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0])
    wanted = min(SLICE_ROWS, max(100, count // 5))
    if count <= wanted:
        connection.execute(f"DELETE FROM {table} WHERE {where}")
        return 1.0
    (until,) = connection.execute(
        f"SELECT {column} FROM {table} WHERE {where} ORDER BY {column} LIMIT 1 OFFSET ?",
        (wanted - 1,),
    ).fetchone()
    connection.execute(f"DELETE FROM {table} WHERE {where} AND {column} <= ?", (until,))
    left = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
    return 1.0 - int(left) / count


def roll_up(connection: sqlite3.Connection, level: int, now_ms: int, most: int = 400) -> int:
    """Sum the settled buckets that got rows since they were last summed; returns the number of rows
    written. A row that arrives late, after an outage, marks its bucket again and is not lost."""
    width_ms = LEVEL_S[level] * 1000
    changed = connection.execute(
        "SELECT bucket_ms FROM changed WHERE level = ? AND bucket_ms < ?"
        " ORDER BY bucket_ms LIMIT ?",
        (level, now_ms - SETTLE_MS - width_ms, most),
    ).fetchall()
    written = 0
    for (bucket,) in changed:
        rows = connection.execute(
            f"SELECT server, stamp, mix, replica, requests, errors, counts, {_SUMS}, batch_rows,"
            " exemplars FROM latency WHERE level = ? AND bucket_ms >= ? AND bucket_ms < ?",
            (level - 1, bucket, bucket + width_ms),
        ).fetchall()
        merged = _merge(rows)
        with connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR REPLACE INTO latency (level, bucket_ms, width_s, server, stamp, mix,"
                f" replica, requests, errors, counts, {_SUMS}, batch_rows, exemplars)"
                " VALUES (?, ?, ?" + ",?" * 15 + ")",
                [(level, bucket, LEVEL_S[level], *row) for row in merged],
            )
            mark_changed(connection, level + 1, {bucket})
            connection.execute(
                "DELETE FROM changed WHERE level = ? AND bucket_ms = ?", (level, bucket)
            )
        written += len(merged)
    return written


def mark_changed(connection: sqlite3.Connection, level: int, buckets_ms: set[int]) -> None:
    """Mark buckets of `level` that have to be summed (again)."""
    if level >= len(LEVEL_S):
        return
    width_ms = LEVEL_S[level] * 1000
    connection.executemany(
        "INSERT OR IGNORE INTO changed (level, bucket_ms) VALUES (?, ?)",
        [(level, bucket) for bucket in {ms - ms % width_ms for ms in buckets_ms}],
    )


def _merge(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Sum the rows of one bucket by (server, stamp, mix, replica), keeping the newest exemplars."""
    groups: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
    for row in rows:
        groups.setdefault(row[:4], []).append(row)
    merged: list[tuple[object, ...]] = []
    for key, members in groups.items():
        counts = np.zeros(64, "<u4")
        for member in members:
            counts += np.frombuffer(member[6], "<u4")  # type: ignore[call-overload]
        sums = [sum(m[i] for m in members) for i in range(7, 14)]  # type: ignore[misc]
        merged.append(
            (
                *key,
                sum(m[4] for m in members),  # type: ignore[misc]
                sum(m[5] for m in members),  # type: ignore[misc]
                counts.tobytes(),
                *sums,
                next((m[14] for m in reversed(members) if m[14]), ""),
            )
        )
    return merged
