"""What a board and its panels read from a cache: latency by each server's clock, predictions."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console.cache import filter_sql, predictions, retention, rows
from console.cache.interned import InternedTexts
from console.cache.latency import LatencyRows
from console.state.dashboard import View
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    Link,
    ServerSnapshot,
)
from server.telemetry.outputs import Timing
from tests.support.console_cache import T0, bucket, builder, feature, put


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
