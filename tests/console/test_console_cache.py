"""The cache: real SQLite files, small, with a clock of our own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console.cache import compare, drift, filter_sql, predictions, retention, rows, schema
from console.cache.build_board import BoardBuilder
from console.cache.codec import pack, unpack
from console.cache.insert import TextIds, insert
from console.cache.interned import InternedTexts
from console.cache.latency import LatencyRows
from console.cache.quantiles import lower_ms, quantiles
from console.cache.schema import VERSION, CacheTooNew, open_for_writing
from console.cache.writer import CacheWriter
from console.state.dashboard import View
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    Link,
    ReceivedRow,
    ServerSnapshot,
)
from server.telemetry.outputs import Timing
from server.telemetry.rows import (
    AlertRow,
    AlertTransition,
    DeployRow,
    DriftRow,
    FeatureRow,
    LatencyRow,
    ProfileRow,
)
from server.telemetry.stamps.latency import bucket_of
from tests.support.blank_rows import blank

T0 = 1_790_000_000.0  # unix s


def events(found: Sequence[FeedRow], server: str = "a:1") -> list[ReceivedRow]:
    return [ReceivedRow(server, 1 + n, "life", T0 * 1000, row) for n, row in enumerate(found)]


def bucket(at_s: float, ms: float = 30.0, requests: int = 10, **more: object) -> LatencyRow:
    counts = [0] * 64
    counts[bucket_of(ms)] = requests
    values: dict[str, object] = {
        "bucket_unix_ms": int(at_s * 1000), "width_s": 2, "stamp": "s" * 64, "mix": "text",
        "requests": requests, "counts": tuple(counts), "forward_ms": ms * requests,
        "total_ms": ms * requests,
    }  # fmt: skip
    return blank(LatencyRow, **{**values, **more})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_for_writing(path)
    yield connection
    connection.close()


def put(db: sqlite3.Connection, found: Sequence[FeedRow], server: str = "a:1") -> frozenset[str]:
    return insert(db, TextIds(db), events(found, server))


def builder(path: Path) -> BoardBuilder:
    found = rows.open_for_reading(path)
    assert found is not None
    return BoardBuilder(found)


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


def test_board_of_an_empty_cache_claims_nothing(path: Path, db: sqlite3.Connection) -> None:
    board = builder(path).board(View(), T0, {"a:1": Link("a:1")}, frozenset())
    assert board.fleet_state.state == "UNKNOWN"
    assert board.latency is not None and np.isnan(board.latency.p99).all()


def test_offline_axis_is_anchored_on_the_data(path: Path, db: sqlite3.Connection) -> None:
    put(db, [ServerSnapshot(server="one", state="ready"), bucket(T0)])
    board = builder(path).board(View(window_s=600), T0 + 7200, None, frozenset())
    assert board.offline and board.fleet_state.state == "OFFLINE"
    assert board.from_s < T0 < board.to_s < T0 + 600
    assert board.latency is not None and board.latency.requests == 10
    assert board.servers[0].age_s == pytest.approx(7200, abs=1)


def test_clock_offset_moves_a_server_onto_our_axis(path: Path, db: sqlite3.Connection) -> None:
    put(db, [bucket(T0 + 40.0, requests=5)], "ahead:1")
    link = Link("ahead:1", state="live", heard_s=T0, offset_ms=40_000.0)
    board = builder(path).board(View(), T0 + 10, {"ahead:1": link}, frozenset())
    assert board.latency is not None
    assert board.latency.newest_s == pytest.approx(T0 + 2)


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
def test_a_clock_far_off_costs_a_server_no_row(
    path: Path, db: sqlite3.Connection, ahead_s: float
) -> None:
    """Its rows are kept ten minutes beside the window, at the left edge as at the right one."""
    links = {
        "far:1": Link("far:1", state="live", heard_s=T0, offset_ms=ahead_s * 1000),
        "near:1": Link("near:1", state="live", heard_s=T0),
    }
    boards, view = builder(path), View(window_s=300)
    put(db, [bucket(T0 + ahead_s - 5 * n, requests=3) for n in range(1, 59)], "far:1")
    put(db, [bucket(T0 - 5 * n) for n in range(1, 400)], "near:1")
    first = boards.board(view, T0, links, frozenset())
    assert first.latency is not None and first.latency.requests == 58 * 3 + 60 * 10
    read = boards._latency.size
    assert read <= 58 + (300 + 60 + 10) / 5  # of the others no more than without a clock far off
    put(db, [bucket(T0 + ahead_s + 2, requests=3)], "far:1")
    then = boards.board(view, T0 + 10, links, frozenset({"latency"}))
    assert boards._latency.size == read + 1
    assert then.latency is not None and then.latency.newest_s == pytest.approx(T0 + 4)


def test_an_offline_axis_ends_with_the_newest_row_by_our_clock(
    path: Path, db: sqlite3.Connection
) -> None:
    put(db, [bucket(T0 - 7200)], "near:1")
    put(db, [bucket(T0 - 3600 - 3000)], "behind:1")
    links = {
        "near:1": Link("near:1", state="lost"),
        "behind:1": Link("behind:1", state="lost", offset_ms=-3_000_000.0),
    }
    board = builder(path).board(View(window_s=600), T0, links, frozenset())
    assert board.from_s < T0 - 3600 < board.to_s < T0 - 3500
    assert board.latency is not None and board.latency.requests == 10


def test_new_rows_are_picked_up_without_reading_all_again(
    path: Path, db: sqlite3.Connection
) -> None:
    held = LatencyRows()
    put(db, [bucket(T0 + 2 * n) for n in range(20)])
    reader = rows.open_for_reading(path)
    assert reader is not None
    held.refresh(reader, int(T0 * 1000), int((T0 + 100) * 1000))
    assert held.size == 20
    put(db, [bucket(T0 + 38, requests=99), bucket(T0 + 40)])
    held.refresh(reader, int(T0 * 1000), int((T0 + 102) * 1000))
    assert held.size == 21
    assert held.numbers[:21, 0].sum() == 19 * 10 + 99 + 10


def test_long_windows_read_summed_rows_and_the_fresh_tail(
    path: Path, db: sqlite3.Connection
) -> None:
    start = T0 // 600 * 600
    put(db, [bucket(start + 2 * n) for n in range(900)])
    retention.roll_up(db, 1, int((start + 1800) * 1000))
    reader = rows.open_for_reading(path)
    assert reader is not None
    held = LatencyRows()
    held._level = -1
    held.refresh(reader, int(start * 1000), int((start + 1800) * 1000))
    fine = held.numbers[: held.size, 0].sum()
    assert fine == 9000


def feature(**more: object) -> FeatureRow:
    edges = tuple(float(x) for x in np.linspace(-2, 2, 31))
    values: dict[str, object] = {
        "name": "audio.snr_db", "kind": "numeric", "stamp": "s", "edges": edges,
        "reference_counts": (100,) * 32,
    }  # fmt: skip
    return blank(FeatureRow, **{**values, **more})


def profile(counts: tuple[int, ...], place: str = "", hour: int = 0) -> ProfileRow:
    at = int(T0) // 3600 * 3600 + 3600 * hour
    return blank(
        ProfileRow, "s", "audio.snr_db", place, at, sum(counts), min=-3.0, max=3.0, counts=counts
    )


def test_drift_of_a_brushed_window_is_computed_from_its_hours(db: sqlite3.Connection) -> None:
    shifted = tuple(int(x) for x in np.linspace(10, 200, 32))
    put(db, [feature(), profile((50,) * 32), profile(shifted, "site=b"), profile((1,) * 32, "tiny"),
             profile(shifted, "", hour=-5)])  # fmt: skip
    names = InternedTexts(db)
    lines, hours = drift.in_window(db, names, drift.features(db), (T0, T0 + 60), "psi")
    levels = {line.row.slice: line.row.level for line in lines}
    assert levels == {"site=b": "critical", "": "ok", "tiny": "insufficient"}
    # Worst first, and not knowing is worse than knowing that all is well.
    assert [line.row.slice for line in lines] == ["site=b", "tiny", ""]
    assert hours[1] - hours[0] == 3600


def test_drift_scores_are_those_of_the_server(db: sqlite3.Connection) -> None:
    from server.telemetry.drift import scores as maths

    shifted = tuple(int(x) for x in np.linspace(10, 200, 32))
    row = feature(groups=tuple(n // 2 for n in range(32)))
    put(db, [row, profile(shifted)])
    lines, _ = drift.in_window(db, InternedTexts(db), drift.features(db), (T0, T0 + 60), "psi")
    reference = drift.reference_of(row)
    assert reference is not None
    reported = maths.compare(reference, np.array(shifted), reference.counts)
    assert (lines[0].row.psi, lines[0].row.kl) == (reported.psi[0], reported.kl[0])
    assert lines[0].row.n_effective == reported.n[0] / maths.UNMEASURED
    span = (T0, T0 + 60)
    key = ("audio.snr_db", "")
    found = compare.comparison(db, InternedTexts(db), drift.features(db), key, span, "s")
    assert found is not None and found.scores["psi"] == pytest.approx(reported.psi[0])
    area = float((found.live * np.diff(found.edges)).sum())
    assert area == pytest.approx(1.0)


def test_traffic_in_bursts_is_not_called_drift(db: sqlite3.Connection) -> None:
    """Every row twice, 30 features without any shift: each alone would be tried too hard."""
    draw = np.random.default_rng(1)
    names = [f"f{number:02d}" for number in range(30)]
    for name in names:
        counts = 2 * np.bincount(draw.integers(0, 32, 400), minlength=32)
        row = replace(profile(tuple(int(x) for x in counts)), feature=name)
        put(db, [feature(name=name), row])
    lines, _ = drift.in_window(db, InternedTexts(db), drift.features(db), (T0, T0 + 60), "psi")
    assert len(lines) == 30 and {line.row.level for line in lines} == {"ok"}


def test_features_that_come_later_are_compared_with(db: sqlite3.Connection, path: Path) -> None:
    """Also where nothing but the comparison asks for them."""
    tick = blank(DriftRow, int(T0 * 1000), "s", "audio.snr_db", "", level="ok", n=900.0)
    put(db, [ServerSnapshot(stamp="s"), feature(name="other"), profile((50,) * 32), tick])
    held = builder(path)
    view = View(end_s=T0, drift_key=("audio.snr_db", ""))
    assert held.board(view, T0, None, frozenset()).comparison is None
    changed = put(db, [feature()])
    held.board(view, T0, None, changed)
    later = replace(view, end_s=T0 + 3600)
    assert held.board(later, T0, None, frozenset()).comparison is not None
    held.db.close()


def test_rows_of_a_stamp_no_longer_served_are_left_out(db: sqlite3.Connection) -> None:
    for stamp, level in (("old", "critical"), ("new", "ok")):
        put(db, [blank(DriftRow, int(T0 * 1000), stamp, "f", "", level=level, n=900.0)])
    names = InternedTexts(db)
    lines = drift.newest(db, names, (T0 + 9) * 1000, {"a:1": "new"}, "psi")
    assert [line.row.level for line in lines] == ["ok"]


def test_the_window_that_tells_most_is_shown(db: sqlite3.Connection) -> None:
    """A shift of the last hour is in the last day's rows too, and does not stand out there."""
    at_ms = int(T0 * 1000)
    for tick, hour in ((0, "ok"), (1, "high")):
        for window_s, level, psi in ((3600, hour, 0.3), (14400, "warning", 0.1), (86400, "ok", 0)):
            row = blank(
                DriftRow, at_ms + tick, "s", "f", "", window_s=window_s, level=level, psi=psi
            )
            put(db, [row])
    (line,) = drift.newest(db, InternedTexts(db), (T0 + 9) * 1000, {"a:1": "s"}, "psi")
    assert (line.row.window_s, line.row.level, line.servers) == (3600, "high", 1)
    assert line.spark.tolist() == [0.3, 0.3]  # ticks of that window alone


def test_of_windows_that_say_the_same_the_longest_is_shown(db: sqlite3.Connection) -> None:
    for window_s, level in ((3600, "insufficient"), (14400, "ok"), (86400, "ok")):
        put(
            db,
            [
                blank(
                    DriftRow, int(T0 * 1000), "s", "f", "", window_s=window_s, level=level, psi=0.1
                )
            ],
        )
    (line,) = drift.newest(db, InternedTexts(db), (T0 + 9) * 1000, {"a:1": "s"}, "psi")
    assert (line.row.window_s, line.row.level) == (86400, "ok")


def test_features_with_wrong_cells_are_no_reference() -> None:
    assert drift.reference_of(feature(edges=(1.0,))) is None
    assert drift.reference_of(feature(reference_counts=(0,) * 32)) is None


def predictions_in(db: sqlite3.Connection) -> None:
    found: list[FeedRow] = [replace(feature(), name="a.x"), replace(feature(), name="audio.snr_db")]
    for n in range(300):
        found.append(
            CachedPrediction(
                prediction_id=f"p{n}",
                at_unix_ms=int(T0 * 1000) + n,
                stamp="s",
                label="ok" if n % 3 else "stop",
                true_label="ok" if n % 10 == 0 else "",
                confidence=n / 300,
                timing=Timing(total_ms=float(n)),
                slices={"site": "ab"[n % 2]},
                error="INVALID_ARGUMENT/X/y" if n == 7 else "",
                payload_kept=n < 5,
                features=(0.0, float(n)),
            )
        )
    put(db, found)


def test_page_of_predictions_comes_whole(db: sqlite3.Connection) -> None:
    predictions_in(db)
    names = InternedTexts(db)
    numbers = predictions.numbers(db, filter_sql.where((), (T0, T0 + 1)))
    assert (np.diff(numbers) < 0).all()  # newest first
    page = predictions.page(db, names, numbers[:3].tolist())
    server, row = page[int(numbers[0])]
    assert (server, row.prediction_id, row.slices) == ("a:1", "p299", {"site": "b"})
    assert row.timing.total_ms == 299.0 and row.features == (0.0, 299.0)


def test_feedback_that_comes_later_joins_its_prediction(db: sqlite3.Connection) -> None:
    put(db, [CachedPrediction("p", int(T0 * 1000), label="ok")])
    put(db, [CachedPrediction("p", int(T0 * 1000), label="ok", true_label="stop")])
    row = predictions.by_id(db, InternedTexts(db), "a:1", "p")
    assert row is not None and row.true_label == "stop"
    assert db.execute("SELECT count(*) FROM prediction").fetchone()[0] == 1


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
