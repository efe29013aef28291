"""What telemetry deletes, by age and by size, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.telemetry.rows import LatencyRow, ProfileRow
from server.telemetry.stamps.feedback import FeedbackItem
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.retention import ClockSteps, Retention, RetentionLimits
from tests.support.telemetry_bench import NOW, Clock, record
from tests.support.telemetry_writer import WriterBench


def store_with_days(folder: Path, days: int, payload: bytes = b"x" * 3000) -> WriterBench:
    bench = WriterBench(folder, sample_share=1.0)
    for day in range(days):
        bench.put(day * 100, day * 100 + 100, NOW + day * 86400, payload=payload)
    bench.clock.now = NOW + (days - 1) * 86400
    bench.writer.flush()
    return bench


def test_old_days_go_one_a_pass(tmp_path: Path) -> None:
    bench = store_with_days(tmp_path, 10, b"")
    retention = Retention(bench.writer.store, RetentionLimits(predictions_days=6.0))
    assert len(retention.sweep(bench.clock.now)) > 0
    assert len(bench.tables()) == 9
    for _ in range(5):
        retention.sweep(bench.clock.now)
    assert len(bench.tables()) == 7
    bench.writer.close()


def test_a_clock_that_jumps_ahead_takes_one_day_with_it_at_most(tmp_path: Path) -> None:
    bench = store_with_days(tmp_path, 4, b"")
    Retention(bench.writer.store, RetentionLimits()).sweep(NOW + 400 * 86400)
    assert len(bench.tables()) == 3
    bench.writer.close()


def test_payloads_go_one_day_a_pass_too(tmp_path: Path) -> None:
    bench = store_with_days(tmp_path, 4)
    gone = Retention(bench.writer.store, RetentionLimits(predictions_days=900.0)).sweep(
        NOW + 400 * 86400
    )
    assert [line for line in gone if line.startswith("payloads")] == ["payloads of 20260921"]
    bench.writer.close()


def test_a_clock_that_was_moved_takes_nothing_for_its_age(tmp_path: Path) -> None:
    monotonic = Clock(0.0)
    bench = WriterBench(tmp_path, NOW, monotonic, sweep_s=1.0)
    bench.put(0, 5)
    bench.writer.idle()
    bench.clock.now += 400 * 86400
    for _ in range(20):
        monotonic.now += 120
        bench.writer.idle()
    assert len(bench.tables()) == 1 and "clock" in bench.writer.notes()
    monotonic.now += 86400
    bench.clock.now += 86400
    bench.writer.idle()
    assert bench.tables() == [] and "clock" not in bench.writer.notes()
    bench.writer.close()


@pytest.mark.parametrize("speed", [1.0, 4000.0])
def test_only_a_step_of_the_clock_is_one(speed: float) -> None:
    steps = ClockSteps(speed)
    assert [steps.step(NOW + speed * t, t) for t in (0.0, 0.2, 90.0, 8000.0)] == [0.0] * 4
    assert steps.step(NOW + speed * 8001 - 7200, 8001.0) == pytest.approx(-7200)
    assert steps.step(NOW + speed * 8002, 8002.0) == pytest.approx(7200)
    assert steps.step(NOW + speed * 8003 + 60, 8003.0) == 0.0


def test_a_store_too_large_gives_up_payloads_first_then_old_days(tmp_path: Path) -> None:
    bench = store_with_days(tmp_path, 3)
    before = bench.writer.store.bytes()
    gone = Retention(bench.writer.store, RetentionLimits(max_bytes=before - 500_000)).sweep(
        bench.clock.now
    )
    assert gone and all("payloads" in line for line in gone)
    assert len(bench.tables()) == 3
    gone = Retention(bench.writer.store, RetentionLimits(max_bytes=1)).sweep(bench.clock.now)
    assert any(line.startswith("predictions of") for line in gone)
    assert bench.writer.store.bytes() < before
    assert bench.writer.store.connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    bench.writer.close()


def test_old_latency_keeps_its_sums_in_wider_rows(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    for minute in range(12):
        bench.put(minute * 50, minute * 50 + 50, NOW + 60 * minute)
    bench.writer.flush()
    fine = [r for r in bench.reader.history(TimeSpan(0, NOW * 2), ["latency"])]
    Retention(bench.writer.store, RetentionLimits()).sweep(NOW + 3 * 86400)
    wide = [r for r in bench.reader.history(TimeSpan(0, NOW * 2), ["latency"])]
    assert all(isinstance(r, LatencyRow) and r.width_s == 300 for r in wide)
    for name in ("requests", "total_ms", "forward_ms", "batch_rows"):
        assert sum(getattr(r, name) for r in wide) == sum(getattr(r, name) for r in fine)
    assert [sum(c) for c in zip(*(r.counts for r in wide), strict=True)] == [  # type: ignore[union-attr]
        sum(c)
        for c in zip(*(r.counts for r in fine), strict=True)  # type: ignore[union-attr]
    ]
    assert len(wide) < len(fine)
    bench.writer.close()


def test_sums_outlive_the_rows_they_were_counted_from(tmp_path: Path) -> None:
    bench = store_with_days(tmp_path, 10, b"")
    retention = Retention(bench.writer.store, RetentionLimits(predictions_days=1.0))
    for _ in range(12):
        retention.sweep(bench.clock.now)
    assert len(bench.tables()) == 2
    rows = list(bench.reader.history(TimeSpan(0, NOW + 1e7), ["profile"]))
    assert len({r.hour_unix_s for r in rows if isinstance(r, ProfileRow)}) == 10
    bench.writer.close()


LIMIT = 6 << 20
FACE = "\N{GRINNING FACE}"


def test_the_size_of_the_file_is_kept_while_a_client_floods_it(tmp_path: Path) -> None:
    """16 tags of 256 emoji a row: 1.6 GB in 96 s at a limit of 50 MB, before."""
    bench = WriterBench(tmp_path, limits=RetentionLimits(max_bytes=LIMIT), sample_share=0.0)
    store, largest = bench.writer.store, 0
    tags = {f"tag-{n:02}-" + FACE * 249: FACE * 256 for n in range(16)}
    for turn in range(40):
        first = turn * 1000
        bench.put(first, first + 5, client="honest")
        bench.put(first + 5, first + 45, client="flood", slices=tags)
        bench.clock.now += 1.1
        bench.writer.idle()
        largest = max(largest, store.file_bytes())
    assert largest <= 1.5 * LIMIT  # what is written within a second comes on top
    rows = dict(
        store.connection.execute(
            f"SELECT client, count(*) FROM {bench.tables()[0]} GROUP BY client"
        ).fetchall()
    )
    assert rows["honest"] == 200 and 0 < rows["flood"] < 1600
    bench.writer.close()


def test_feedback_counts_and_goes_before_it_takes_more_than_its_share(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path, limits=RetentionLimits(max_bytes=LIMIT), sample_share=0.0)
    bench.put(0, 200)
    bench.writer.idle()
    for turn in range(24):
        items = [
            FeedbackItem(
                record(n).prediction_id,
                "ok",
                source=FACE * 1000,
                observed_at=bench.clock.now,
                idempotency_key=f"{turn}-{n}",
            )
            for n in range(200)
        ]
        assert all(one.status != "refused" for one in bench.writer.take_feedback(items))
        bench.clock.now += 1.1
        bench.writer.idle()
        assert bench.writer.store.file_bytes() <= 2 * LIMIT
    connection = bench.writer.store.connection
    assert connection.execute("SELECT count(*) FROM feedback").fetchone()[0] < 24 * 200
    assert connection.execute(f"SELECT count(*) FROM {bench.tables()[0]}").fetchone()[0] == 200
    bench.writer.close()
