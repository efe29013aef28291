"""The cache: small real SQLite files, and a clock set by the test: what is written and kept."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console.cache import retention, rows, schema
from console.cache.codec import pack, unpack
from console.cache.insert import TextIds, insert
from console.cache.interned import InternedTexts
from console.cache.quantiles import lower_ms, quantiles
from console.cache.schema import VERSION, CacheTooNew, open_for_writing
from console.cache.writer import CacheWriter
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    ReceivedRow,
    ServerSnapshot,
)
from server.telemetry.rows import (
    AlertRow,
    AlertTransition,
    DeployRow,
    FeatureRow,
    ProfileRow,
)
from server.telemetry.stamps.latency import bucket_of
from tests.support.blank_rows import blank
from tests.support.console_cache import T0, bucket, events, put


def test_a_write_that_fails_is_taken_back_and_the_next_one_goes_on(db: sqlite3.Connection) -> None:
    at_ms = int((T0 + 600) * 1000)
    put(db, [bucket(T0)])
    db.execute("CREATE TRIGGER full BEFORE INSERT ON latency BEGIN SELECT RAISE(FAIL, 'full'); END")
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        retention.roll_up(db, 1, at_ms)
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        put(db, [blank(AlertRow, id="x"), bucket(T0 + 60)])
    db.execute("DROP TRIGGER full")
    assert db.execute("SELECT count(*) FROM alert").fetchone()[0] == 0
    put(db, [bucket(T0 + 60)])
    assert retention.roll_up(db, 1, at_ms) == 2


def test_row_received_twice_changes_nothing(db: sqlite3.Connection) -> None:
    found: list[FeedRow] = [
        bucket(T0),
        blank(ProfileRow, "s", "f", "", 3600, 5, counts=(2, 3)),
        blank(AlertRow, id="x"),
    ]
    put(db, found)
    put(db, found)
    for table in ("latency", "profile", "alert"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 1


def test_later_profile_row_replaces_the_earlier(db: sqlite3.Connection) -> None:
    put(db, [blank(ProfileRow, "s", "f", "", 3600, 5, counts=(2, 3))])
    put(db, [blank(ProfileRow, "s", "f", "", 3600, 9, counts=(4, 5))])
    assert db.execute("SELECT n FROM profile").fetchall() == [(9,)]


def test_cursor_is_remembered_and_history_moves_none(db: sqlite3.Connection) -> None:
    put(db, [ServerSnapshot(server="one"), bucket(T0)])
    past = ReceivedRow("a:1", 0, "other life", T0 * 1000, bucket(T0 - 60))
    insert(db, TextIds(db), [past])
    assert rows.cursors(db) == {"a:1": ("life", 2, T0 * 1000)}


def test_unreadable_file_is_moved_aside(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)
    open_for_writing(path).close()
    assert path.with_name("cache.db.unreadable").exists()


def test_newer_file_is_read_but_never_written(path: Path) -> None:
    connection = open_for_writing(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(CacheTooNew):
        open_for_writing(path)
    assert rows.open_for_reading(path) is not None
    reported: list[frozenset[str]] = []
    writer = CacheWriter(path, reported.append)
    writer.start()
    writer.close()
    assert "version" in writer.trouble


def test_rows_of_an_older_file_keep_what_was_renamed(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    schema.build(connection, stop_before="0002_names_of_the_field")
    connection.execute(
        "INSERT INTO action VALUES (1, 'a:1', 'silence', 'kind=drift', 'kim', '', 5, 0, 'waiting',"
        " '', 1.0)"
    )
    connection.execute("""INSERT INTO slice VALUES (1, 's', 5, '{"words": "site b"}')""")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert rows.open_for_reading(path) is None  # a board needs the new columns
    writable = open_for_writing(path)
    assert [action.actor for action in rows.actions(writable)] == ["kim"]
    assert writable.execute("SELECT body FROM slice").fetchone() == ('{"message":"site b"}',)
    writable.execute("SELECT batch_mates FROM prediction")
    writable.close()


def test_reader_cannot_write(path: Path, db: sqlite3.Connection) -> None:
    found = rows.open_for_reading(path)
    assert found is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        found.execute("DELETE FROM name")
    found.close()


def test_row_survives_json_with_nested_rows_and_nan() -> None:
    row = blank(
        AlertRow, id="x", features=("a",), history=(blank(AlertTransition, 5, "ok", "pending"),)
    )
    assert unpack(AlertRow, pack(row)) == row
    assert unpack(AlertRow, '{"id": "y", "from the future": 1}').id == "y"


def test_quantiles_of_buckets_are_within_half_a_bucket() -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(4, 0.6, 20_000))
    counts = np.bincount([bucket_of(v) for v in values], minlength=64)[None, :]
    for share, found in zip((0.5, 0.95, 0.99), quantiles(counts, (0.5, 0.95, 0.99)), strict=True):
        assert found[0] == pytest.approx(np.quantile(values, share), rel=0.09)
    assert np.isnan(quantiles(np.zeros((1, 64), int), (0.5,))[0][0])
    assert lower_ms(bucket_of(100.0)) <= 100.0 < lower_ms(bucket_of(100.0) + 1)


def test_roll_up_keeps_every_request_and_takes_late_rows(db: sqlite3.Connection) -> None:
    start = T0 // 600 * 600
    put(db, [bucket(start + 2 * n) for n in range(300)])
    now = int((start + 4000) * 1000)
    for level in (1, 2):
        retention.roll_up(db, level, now)
    total = "SELECT sum(requests), count(*) FROM latency WHERE level = ?"
    assert db.execute(total, (1,)).fetchone() == (3000, 10)
    assert db.execute(total, (2,)).fetchone() == (3000, 1)
    put(db, [bucket(start + 3, requests=7)])  # after an outage
    for level in (1, 2):
        retention.roll_up(db, level, now)
    assert db.execute(total, (2,)).fetchone() == (3007, 1)


def test_old_rows_go_and_the_file_stays_below_its_limit(db: sqlite3.Connection) -> None:
    put(db, [bucket(T0 - 30 * 86400)])
    many = [
        CachedPrediction(f"p{n}", int(T0 * 1000) + n, slices={"k": "v" * 200}) for n in range(4000)
    ]
    put(db, many)
    retention.tidy(db, T0, 1 << 40)
    assert db.execute("SELECT count(*) FROM latency WHERE level = 0").fetchone()[0] == 0
    retention.shrink(db, 300_000)
    assert retention.used_bytes(db) <= 300_000 + 200_000


def test_writer_keeps_order_and_tells_what_changed(path: Path) -> None:
    reported: list[frozenset[str]] = []
    writer = CacheWriter(path, reported.append, clock=time.time)
    writer.start()
    writer.put(events([ServerSnapshot(server="one"), bucket(T0)]))
    writer.set_meta("layout", "{}")
    writer.keep_payload("a:1", "p", b"body")
    writer.close()
    assert writer.backlog == 0
    assert {"opened"} in reported and any({"server", "latency"} <= set(t) for t in reported)
    found = rows.open_for_reading(path)
    assert found is not None
    assert rows.meta(found, "layout") == "{}"
    assert rows.payload(found, InternedTexts(found), "a:1", "p") == b"body"
    found.close()


def test_a_flood_of_one_server_costs_the_others_nothing(db: sqlite3.Connection) -> None:
    """Other kinds than predictions too: alerts, deploys, features, names."""
    honest: list[FeedRow] = [
        CachedPrediction(f"h{n}", int(T0 * 1000) - 86_400_000 + n) for n in range(200)
    ]
    honest += [blank(AlertRow, id=f"h{n}", opened_unix_ms=int(T0 * 1000) - n) for n in range(50)]
    put(db, honest, "honest:1")
    at_ms = int(T0 * 1000)
    text = "x" * 1500
    loud: list[FeedRow] = []
    for n in range(3000):
        loud += [
            blank(AlertRow, id=f"f{n}", summary=text, opened_unix_ms=at_ms),
            blank(DeployRow, at_unix_ms=at_ms + n, action="load", detail=text),
            blank(FeatureRow, stamp="s", name=f"f{n}", unit=text),
        ]
    put(db, loud, "loud:1")
    limit = 3_000_000
    assert retention.used_bytes(db) > 4 * limit
    retention.shrink(db, limit)
    assert retention.used_bytes(db) <= limit
    (number,) = db.execute("SELECT id FROM name WHERE text = 'honest:1'").fetchone()
    for table, count in (("prediction", 200), ("alert", 50)):
        left = db.execute(f"SELECT count(*) FROM {table} WHERE server = ?", (number,)).fetchone()
        assert left == (count,), table
    for table in ("alert", "deploy"):
        newest = db.execute(f"SELECT max(at_ms) FROM {table} WHERE server != ?", (number,))
        left = db.execute(f"SELECT count(*) FROM {table} WHERE server != ?", (number,)).fetchone()
        assert left == (0,) or newest.fetchone()[0] >= at_ms, "the oldest go first"


def test_a_server_that_invents_names_gets_one_for_the_rest(db: sqlite3.Connection) -> None:
    names = TextIds(db, most=50)
    rows = [replace(bucket(T0 + n), stamp=f"stamp {n}") for n in range(500)]
    insert(db, names, events(rows, "loud:1"))
    insert(db, names, events([bucket(T0, requests=7)], "honest:1"))
    assert db.execute("SELECT count(*) FROM name").fetchone()[0] <= 60
    found = db.execute(
        "SELECT sum(requests) FROM latency l JOIN name n ON n.id = l.stamp WHERE text = '(other)'"
    ).fetchone()
    assert found[0] >= 10 * 440, "no request is lost, only whose stamp it was"
    known = db.execute(
        "SELECT n.text FROM name n JOIN latency l ON n.id = l.stamp JOIN name s ON s.id = l.server"
        " WHERE s.text = 'honest:1'"
    )
    assert known.fetchone()[0] == bucket(T0).stamp
