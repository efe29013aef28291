"""What telemetry lets go of, by age and by size, and what it keeps of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.telemetry.rows import LatencyRow, ProfileRow
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.retention import ClockSteps, Retention, RetentionLimits
from tests.support.telemetry_bench import NOW, Clock
from tests.support.telemetry_writer import Desk


def store_with_days(folder: Path, days: int, payload: bytes = b"x" * 3000) -> Desk:
    desk = Desk(folder, sample_share=1.0)
    for day in range(days):
        desk.put(day * 100, day * 100 + 100, NOW + day * 86400, payload=payload)
    desk.clock.now = NOW + (days - 1) * 86400
    desk.writer.flush()
    return desk


def test_old_days_go_one_a_pass(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 10, b"")
    retention = Retention(desk.writer.store, RetentionLimits(predictions_days=6.0))
    assert len(retention.sweep(desk.clock.now)) > 0
    assert len(desk.tables()) == 9
    for _ in range(5):
        retention.sweep(desk.clock.now)
    assert len(desk.tables()) == 7
    desk.writer.close()


def test_a_clock_that_jumps_ahead_takes_one_day_with_it_at_most(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 4, b"")
    Retention(desk.writer.store, RetentionLimits()).sweep(NOW + 400 * 86400)
    assert len(desk.tables()) == 3
    desk.writer.close()


def test_payloads_go_one_day_a_pass_too(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 4)
    gone = Retention(desk.writer.store, RetentionLimits(predictions_days=900.0)).sweep(
        NOW + 400 * 86400
    )
    assert [words for words in gone if words.startswith("payloads")] == ["payloads of 20260921"]
    desk.writer.close()


def test_a_clock_that_was_moved_takes_nothing_for_its_age(tmp_path: Path) -> None:
    monotonic = Clock(0.0)
    desk = Desk(tmp_path, NOW, monotonic, sweep_s=1.0)
    desk.put(0, 5)
    desk.writer.idle()
    desk.clock.now += 400 * 86400
    for _ in range(20):
        monotonic.now += 120
        desk.writer.idle()
    assert len(desk.tables()) == 1 and "clock" in desk.writer.notes()
    monotonic.now += 86400
    desk.clock.now += 86400
    desk.writer.idle()
    assert desk.tables() == [] and "clock" not in desk.writer.notes()
    desk.writer.close()


@pytest.mark.parametrize("speed", [1.0, 4000.0])
def test_only_a_step_of_the_clock_is_one(speed: float) -> None:
    steps = ClockSteps(speed)
    assert [steps.step(NOW + speed * t, t) for t in (0.0, 0.2, 90.0, 8000.0)] == [0.0] * 4
    assert steps.step(NOW + speed * 8001 - 7200, 8001.0) == pytest.approx(-7200)
    assert steps.step(NOW + speed * 8002, 8002.0) == pytest.approx(7200)
    assert steps.step(NOW + speed * 8003 + 60, 8003.0) == 0.0


def test_a_store_too_large_gives_up_payloads_first_then_old_days(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 3)
    before = desk.writer.store.bytes()
    gone = Retention(desk.writer.store, RetentionLimits(max_bytes=before - 500_000)).sweep(
        desk.clock.now
    )
    assert gone and all("payloads" in words for words in gone)
    assert len(desk.tables()) == 3
    gone = Retention(desk.writer.store, RetentionLimits(max_bytes=1)).sweep(desk.clock.now)
    assert any(words.startswith("predictions of") for words in gone)
    assert desk.writer.store.bytes() < before
    assert desk.writer.store.connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    desk.writer.close()


def test_old_latency_keeps_its_sums_in_wider_rows(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for minute in range(12):
        desk.put(minute * 50, minute * 50 + 50, NOW + 60 * minute)
    desk.writer.flush()
    fine = [r for r in desk.reader.history(TimeSpan(0, NOW * 2), ["latency"])]
    Retention(desk.writer.store, RetentionLimits()).sweep(NOW + 3 * 86400)
    wide = [r for r in desk.reader.history(TimeSpan(0, NOW * 2), ["latency"])]
    assert all(isinstance(r, LatencyRow) and r.width_s == 300 for r in wide)
    for name in ("requests", "total_ms", "forward_ms", "batch_rows"):
        assert sum(getattr(r, name) for r in wide) == sum(getattr(r, name) for r in fine)
    assert [sum(c) for c in zip(*(r.counts for r in wide), strict=True)] == [  # type: ignore[union-attr]
        sum(c)
        for c in zip(*(r.counts for r in fine), strict=True)  # type: ignore[union-attr]
    ]
    assert len(wide) < len(fine)
    desk.writer.close()


def test_sums_outlive_the_rows_they_were_counted_from(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 10, b"")
    retention = Retention(desk.writer.store, RetentionLimits(predictions_days=1.0))
    for _ in range(12):
        retention.sweep(desk.clock.now)
    assert len(desk.tables()) == 2
    rows = list(desk.reader.history(TimeSpan(0, NOW + 1e7), ["profile"]))
    assert len({r.hour_unix_s for r in rows if isinstance(r, ProfileRow)}) == 10
    desk.writer.close()
