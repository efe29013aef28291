"""The replicas of a pool, as real processes: start, checks, death, replacement, end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time

import pytest

from server.errors import PoolRefused
from server.pool.forks import ReplicaProcess
from server.pool.pool import Pool
from server.types import Outcome
from tests.support.patience import patience
from tests.support.running import until
from tests.support.running_pool import Ask, ask, pid, running
from tests.support.stopped import stop
from tests.support.stub_replica import STAMP, stub_config, stub_pool, stub_spawner, work


async def test_ten_kills_under_load_fail_no_request() -> None:
    async with running(2) as pool:
        stop = asyncio.Event()
        outcomes: list[Outcome] = []

        async def caller(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                outcomes.append(await ask(pool, f"{number}.{count}", "sleep 0.002"))

        callers = [asyncio.create_task(caller(number)) for number in range(16)]
        for kill in range(10):
            await asyncio.sleep(0.1)
            await until(lambda: pool.serving == 2)
            os.kill(pid(pool, kill % 2), signal.SIGKILL)
            await until(lambda: pool.serving < 2)
        await until(lambda: pool.serving == 2)
        stop.set()
        await asyncio.gather(*callers)
        assert [outcome for outcome in outcomes if outcome.answer is None] == []
        assert any(outcome.retried for outcome in outcomes)
        assert sum(status.restarts for status in pool.statuses()) == 10


async def test_rows_wait_while_the_only_replica_is_replaced() -> None:
    async with running() as pool:
        before = pid(pool)
        os.kill(before, signal.SIGKILL)
        await until(lambda: pool.serving == 0)
        outcome = await ask(pool, "a", "x")
        assert outcome.answer and outcome.answer.label != str(before)
        assert "SIGKILL" not in pool.statuses()[0].reason
        assert pool.statuses()[0].restarts == 1


async def test_a_replica_that_stops_moving_is_killed_and_its_row_retried() -> None:
    # On a slow machine a shorter limit kills the replica while it starts, before it has the row. So
    # does a probe that is under way when it is stopped, as after one that was slow.
    settings = {"stall_s": patience(0.5), "slow_after": 1, "probe_interval_s": 3_600.0}
    async with running(settings=settings) as pool:
        stop(pid(pool))
        outcome = await ask(pool, "a", "x")
        assert outcome.answer and outcome.retried


async def test_a_death_is_reported_with_its_reason_and_stays_in_the_status() -> None:
    """It was in the log alone: the console showed a healthy replica again a moment later."""
    reported: list[str] = []
    config = stub_config(warm_pool=1, stall_s=0.5)
    pool = Pool(config, stub_spawner(), exited=lambda facts, why: reported.append(why))
    await pool.start()
    try:
        await until(lambda: pool.statuses()[0].state == "ready")
        assert (await ask(pool, "a", "x")).answer
        before = pool.statuses()[0]
        assert before.p95_ms > 0 and before.last_exit == ""
        stop(pid(pool))
        outcome = await ask(pool, "b", "x")
        assert outcome.answer and outcome.retried
        status = pool.statuses()[0]
        assert status.last_exit.startswith("killed: no progress for 0.5 s after ")
        assert before.last_progress <= status.last_exit_at <= status.last_progress
        assert reported == [f"replica 0 {status.last_exit}"]
    finally:
        await pool.stop()


async def test_a_refused_bundle_ends_the_start_with_its_check() -> None:
    pool = stub_pool(stub_config(warm_pool=2), refuse="labels.json was changed")
    with pytest.raises(PoolRefused, match=r"labels\.json was changed") as caught:
        await pool.start()
    assert caught.value.check == "hash"


async def test_a_replica_that_crashes_while_loading_ends_the_start() -> None:
    pool = stub_pool(stub_config(), crash=True)
    with pytest.raises(PoolRefused, match="exit code 3"):
        await pool.start()


async def test_a_pool_that_does_not_fit_in_memory_is_refused_with_the_numbers() -> None:
    pool = stub_pool(stub_config(warm_pool=1000))
    with pytest.raises(PoolRefused, match=r"1000 replicas need .* MiB together.* fit") as caught:
        await pool.start()
    assert caught.value.check == "memory"


async def test_a_replica_with_another_stamp_never_serves() -> None:
    pool = stub_pool(stub_config(warm_pool=2), stamps=f"{STAMP},{'cd' * 32}")
    await pool.start()
    try:
        await until(lambda: any("stamp" in status.reason for status in pool.statuses()))
        assert pool.serving <= 1
    finally:
        await pool.stop()


async def test_wrong_answers_take_a_replica_out_and_end_it() -> None:
    settings = {"probe_interval_s": 0.0}
    pool = stub_pool(stub_config(**settings), probes="right,wrong")
    pool.quiet_s = 0.0
    await pool.start()
    try:
        await until(lambda: pool.statuses()[0].state == "wrong")
        assert "the probe was wrong" in pool.statuses()[0].reason
        await until(lambda: pool.statuses()[0].restarts > 0)
    finally:
        await pool.stop()


async def test_a_slow_replica_serves_and_says_so() -> None:
    async with running(probes="slow") as pool:
        (status,) = pool.statuses()
        assert status.state == "slow" and "the probe was slow" in status.reason
        assert (await ask(pool, "a", "x")).answer


async def test_one_slow_probe_is_repeated_before_it_counts() -> None:
    async with running(probes="slow,right") as pool:
        assert pool.statuses()[0].state == "ready"


async def test_stopping_ends_every_process_and_answers_what_waits() -> None:
    async with running(2) as pool:
        pids = [status.pid for status in pool.statuses()]
        waiting = Ask(pool, work("w", "sleep 5"))
        await until(lambda: pool.in_flight == 1)
    outcome = await waiting.answer
    assert outcome.fault and outcome.fault.code == "UNAVAILABLE"
    for process in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


async def test_a_replica_that_hangs_is_replaced_within_three_heartbeats() -> None:
    async with running(2, {"stall_s": 600.0}) as pool:
        stopped = pool.statuses()[0].pid
        stop(stopped)
        answers = await asyncio.gather(*(ask(pool, f"r{n}", "hello") for n in range(16)))
        assert all(outcome.answer for outcome in answers)
        await until(lambda: pool.serving == 2 and pool.statuses()[0].pid != stopped)
        assert "3 heartbeats missed" in pool.statuses()[0].last_exit


async def test_a_replica_that_dies_while_no_descriptor_is_left_is_started_later() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(1, {"restart_longest_s": 0.2}) as pool:
        dead = pid(pool)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            os.kill(dead, signal.SIGKILL)
            await until(lambda: "Too many open files" in pool.last_death)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (await ask(pool, "a", "hello")).answer
        assert pid(pool) != dead


async def test_a_fault_of_the_front_itself_is_a_death_like_any_other() -> None:
    spawn, faults = stub_spawner(), [RuntimeError("a bug")]

    async def broken(index: int, end: socket.socket) -> ReplicaProcess:
        process = await spawn(index, end)
        if faults:
            raise faults.pop()
        return process

    pool = Pool(stub_config(), spawn)
    await pool.start()
    try:
        await until(lambda: pool.serving == 1)
        replica = pool._replicas[0]
        replica.spawn = broken
        os.kill(pid(pool), signal.SIGKILL)
        assert (await ask(pool, "a", "hello")).answer and not faults
        assert "RuntimeError('a bug')" in pool.last_death and replica.restarts == 2
    finally:
        await pool.stop()


async def test_a_front_that_stood_still_does_not_kill_a_replica_for_it() -> None:
    slept_s = [0.0]
    pool = Pool(stub_config(stall_s=30.0), stub_spawner(), lambda: time.monotonic() + slept_s[0])
    await pool.start()
    try:
        await until(lambda: pool.serving == 1)
        asked = Ask(pool, work("a", "sleep 1.0"))
        await until(lambda: pool.in_flight == 1)
        slept_s[0] = 40.0
        assert (await asked.answer).answer and pool.statuses()[0].restarts == 0
    finally:
        await pool.stop()
