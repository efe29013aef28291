"""The expected time of a new row, and when a refused one should come back. Without a clock."""

from __future__ import annotations

import random

import pytest

from server.pool.admission import (
    BURST_S,
    FEW,
    LASTING,
    LATEST_S,
    MOST_FACTOR,
    RETURNING,
    SOONEST_S,
    USUAL_FACTOR,
    Admission,
)
from server.pool.service_time import ENOUGH_ROWS, ServiceTime
from server.telemetry.outputs import Timing

TIMING = Timing(decode_ms=2.0, preprocess_ms=0.0, forward_ms=16.0, post_ms=0.0, total_ms=50.0)
ROW_S = 0.004  # of TIMING in a batch of 8


def learned(admission: Admission, speed: float = 1.0) -> Admission:
    """One replica that has worked for a second, at this speed."""
    times = admission.service_time
    times.meter(0.0, 1)
    for number in range(int(speed / ROW_S)):
        times.learn("text", TIMING, 8)
        times.meter((number + 1) * ROW_S / speed, 1)
    return admission


def test_nothing_is_expected_before_enough_rows_were_seen() -> None:
    admission = Admission()
    for _ in range(ENOUGH_ROWS - 1):
        admission.service_time.learn("text", TIMING, 8)
    assert admission.expected_s("text", 1.0, 1) is None
    admission.service_time.learn("text", TIMING, 8)
    assert admission.expected_s("text", 0.0, 1) == pytest.approx(ROW_S)
    assert admission.expected_s("audio", 0.0, 1) == pytest.approx(ROW_S)  # as all the others


def test_the_work_before_a_row_counts_in_cost_and_at_the_measured_speed() -> None:
    slow, fast = learned(Admission(), 0.5), learned(Admission(), 2.0)
    one, two = slow.expected_s("text", 1.0, 1), fast.expected_s("text", 1.0, 1)
    assert one == pytest.approx(2.0, rel=0.05) and two == pytest.approx(0.5, rel=0.05)
    assert slow.expected_s("text", 1.0, 4) == pytest.approx(0.5, rel=0.05)


def test_the_speed_is_that_of_busy_time_and_of_the_last_second() -> None:
    times = ServiceTime()
    times.meter(0.0, 0)
    times.meter(100.0, 1)  # idle for long: no sign of slowness
    for number in range(250):
        times.learn("text", TIMING, 8)
        times.meter(100.0 + (number + 1) * ROW_S, 1)
    assert times.speed == pytest.approx(1.0, rel=0.05)
    for number in range(250):  # four times slower from now on
        times.learn("text", TIMING, 8)
        times.meter(101.0 + (number + 1) * 4 * ROW_S, 1)
    assert times.speed == pytest.approx(0.25, rel=0.1)


def test_few_rows_take_longer_than_the_factor_allows() -> None:
    rng, admission, above = random.Random(3), Admission(), 0
    for number in range(20_000):
        took_s = rng.uniform(0.2, 2.0)
        above += number >= 10_000 and took_s > admission.factor
        admission.took(1.0, took_s, number * 1e-4)
    assert above / 10_000 < 3 * FEW


def test_the_factor_is_bounded_and_forgotten() -> None:
    admission = Admission()
    for _ in range(1000):
        admission.took(1.0, 100.0, 0.0)
    assert admission.factor == MOST_FACTOR
    admission.took(1.0, 1.0, 60.0)
    assert admission.factor == pytest.approx(USUAL_FACTOR, abs=0.01)


def test_refused_rows_are_asked_back_one_after_the_other() -> None:
    admission = learned(Admission())
    waits = [admission.come_back_s(10.0, 0.1, 0.2, 1) for _ in range(5)]
    gaps = [later - sooner for sooner, later in zip(waits, waits[1:], strict=False)]
    assert waits[0] > 0.2 and gaps == pytest.approx([0.2] * 4, rel=0.05)  # half of the speed
    booked_s = admission.booked_s(10.0)
    assert booked_s == pytest.approx(waits[-1]) == admission.booked_s(10.0)  # it books nothing
    for _ in range(100):
        assert admission.come_back_s(10.0, 0.1, 0.2, 1) <= LATEST_S + 1e-9
    assert admission.booked_s(100.0) == SOONEST_S


def test_in_a_lasting_overload_they_come_back_later() -> None:
    admission, now = learned(Admission()), 100.0
    first_s = admission.come_back_s(now, 0.1, 0.0, 1)
    while now < 100.0 + BURST_S:
        now += 0.25
        admission.come_back_s(now, 0.0, 0.0, 1)
    gaps_s = [admission.come_back_s(now, 0.1, 0.0, 1) for _ in range(2)]
    assert gaps_s[1] - gaps_s[0] == pytest.approx(first_s * RETURNING / LASTING)
    now += LATEST_S  # more than PAUSE_S
    assert admission.come_back_s(now, 0.1, 0.0, 1) == pytest.approx(first_s)


def test_a_pool_that_is_idle_tries_a_row_now_and_then() -> None:
    admission = Admission()
    tried = [admission.may_try(10.0 + 0.1 * tenth) for tenth in range(25)]
    assert tried.count(True) == 3
