"""The rows of a pool with real processes: answers, quarantine, cancellation, order, affinity."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.support.patience import patience
from tests.support.running import until
from tests.support.running_pool import Ask, ask, pid, running
from tests.support.stub_replica import STAMP, work


async def test_an_answer_names_its_stamp_and_its_stages_add_up() -> None:
    async with running() as pool:
        outcome = await ask(pool, "a", "hello")
        assert outcome.answer and outcome.answer.label == str(pid(pool))
        assert (outcome.stamp, outcome.batch_size, outcome.retried) == (STAMP, 1, False)
        t = outcome.timing
        stages = t.queue_ms + t.decode_ms + t.preprocess_ms + t.forward_ms + t.post_ms
        assert stages == pytest.approx(t.total_ms)
        assert pool.facts and [f.name for f in pool.facts.features] == ["one", "none"]


async def test_rows_that_wait_together_are_computed_together() -> None:
    async with running() as pool:
        asks = [Ask(pool, work(f"r{n}", "sleep 0.05" if n == 0 else "x")) for n in range(7)]
        outcomes = [await a.answer for a in asks]
        assert max(outcome.batch_size for outcome in outcomes) > 1
        for outcome in outcomes:
            assert len(outcome.batch_mates) == outcome.batch_size - 1
            assert outcome.prediction_id not in outcome.batch_mates


async def test_a_bad_row_is_refused_by_field_and_the_others_are_answered() -> None:
    async with running() as pool:
        good, bad, other = [
            Ask(pool, work(name, text)) for name, text in [("g", "x"), ("b", "bad"), ("o", "y")]
        ]
        fault = (await bad.answer).fault
        assert fault and (fault.code, fault.field) == ("INVALID_ARGUMENT", "parts[0].text")
        assert (await good.answer).answer and (await other.answer).answer


async def test_a_row_that_breaks_its_batch_fails_alone() -> None:
    async with running() as pool:
        first = Ask(pool, work("s", "sleep 0.05"))
        asks = [Ask(pool, work(f"r{n}", "boom" if n == 2 else "x")) for n in range(5)]
        assert (await first.answer).answer
        faults = [(await a.answer).fault for a in asks]
        assert [fault is not None for fault in faults] == [False, False, True, False, False]
        assert faults[2] and faults[2].reason == "FORWARD_FAILED"


async def test_a_request_that_kills_two_replicas_is_quarantined_and_its_company_answered() -> None:
    async with running(2) as pool:
        blockers = [Ask(pool, work(f"b{n}", f"sleep {patience(0.1)}")) for n in range(2)]
        asks = [Ask(pool, work(f"r{n}", "die" if n == 3 else "x")) for n in range(8)]
        outcomes = [await a.answer for a in [*blockers, *asks]]
        failed = [outcome for outcome in outcomes if outcome.answer is None]
        assert [outcome.prediction_id for outcome in failed] == ["r3"]
        assert failed[0].fault and failed[0].fault.reason == "QUARANTINED"
        assert failed[0].fault.code == "INTERNAL"
        refusal = pool.refusal(work("again", "die"))
        assert refusal and refusal.reason == "QUARANTINED"
        assert pool.refusal(work("other", "dye")) is None


async def test_a_row_is_not_suspected_where_replicas_lost_their_weights(tmp_path: Path) -> None:
    async with running(2) as pool:
        outcome = await ask(pool, "a", f"lost {tmp_path}")
        assert outcome.answer and outcome.retried and len(os.listdir(tmp_path)) == 3
        exits = [status.last_exit for status in pool.statuses() if status.last_exit]
        assert exits and all("held its weights ended" in why for why in exits)


async def test_a_cancelled_row_never_reaches_a_replica() -> None:
    async with running(rows=1) as pool:
        blocker = Ask(pool, work("b", "sleep 0.2"))
        ahead = Ask(pool, work("c", "x"))
        await until(lambda: pool.in_flight == 2)
        queued = Ask(pool, work("q", "x"))
        pool.cancel(queued.entry)
        await blocker.answer
        await ahead.answer
        last = await ask(pool, "l", "x")
        assert last.answer and last.answer.confidence == 3  # rows decoded: b, c, l
        assert not queued.answer.done()


async def test_a_row_cancelled_in_the_replica_is_dropped_before_its_next_stage() -> None:
    async with running(rows=4) as pool:
        blocker = Ask(pool, work("b", "slow 0.2"))
        behind = Ask(pool, work("c", "x"))
        await until(lambda: pool.in_flight == 2)
        pool.cancel(behind.entry)
        await blocker.answer
        await until(lambda: pool.in_flight == 0)
        last = await ask(pool, "l", "x")
        assert last.answer and last.answer.confidence == 2  # rows decoded: b, l


async def test_an_expired_row_never_reaches_a_replica() -> None:
    async with running(rows=1) as pool:
        blocker = Ask(pool, work("b", f"sleep {patience(0.3)}"))
        ahead = Ask(pool, work("c", "x"))
        await until(lambda: pool.in_flight == 2)
        late = Ask(pool, work("q", "x", deadline=time.monotonic() + 0.1))
        outcome = await late.answer
        assert not blocker.answer.done()
        assert outcome.fault and outcome.fault.code == "DEADLINE_EXCEEDED"
        await blocker.answer
        await ahead.answer
        last = await ask(pool, "l", "x")
        assert last.answer and last.answer.confidence == 3


async def test_a_row_that_expires_in_the_replica_is_dropped_there() -> None:
    async with running(rows=4) as pool:
        blocker = Ask(pool, work("b", f"slow {patience(0.3)}"))
        await until(lambda: pool.in_flight == 1)
        late = Ask(pool, work("q", "x", deadline=time.monotonic() + patience(0.1)))
        outcome = await late.answer
        assert outcome.fault and outcome.fault.reason == "EXPIRED_IN_REPLICA"
        assert (await blocker.answer).answer


async def test_higher_priority_overtakes_what_is_queued() -> None:
    async with running(rows=1) as pool:
        order: list[str] = []
        blockers = [Ask(pool, work(f"b{n}", f"sleep {patience(0.1)}")) for n in range(2)]
        await until(lambda: pool.in_flight == 2)
        rows = [("low", 2), ("normal", 1), ("high", 0)]
        asks = [Ask(pool, work(name, "x", priority=priority)) for name, priority in rows]
        for a in asks:
            a.answer.add_done_callback(lambda f: order.append(f.result().prediction_id))
        for a in [*blockers, *asks]:
            await a.answer
        await asyncio.sleep(0)
        assert order == ["high", "normal", "low"]


async def test_rows_of_a_session_stay_on_one_replica_that_is_not_overloaded() -> None:
    async with running(2) as pool:
        homes = {}
        for session in "abcdefgh":
            replicas = {
                (await ask(pool, f"{session}{n}", "x", session=session)).replica for n in range(4)
            }
            assert len(replicas) == 1
            homes[session] = replicas.pop()
        assert set(homes.values()) == {0, 1}


async def test_idle_replicas_share_rows_that_come_together() -> None:
    async with running(2) as pool:
        asks = [Ask(pool, work(f"r{n}", "sleep 0.05")) for n in range(4)]
        replicas = [(await a.answer).replica for a in asks]
        assert sorted(replicas) == [0, 0, 1, 1]


async def test_a_text_comes_in_pieces_while_other_rows_are_answered() -> None:
    async with running() as pool:
        text = Ask(pool, work("t", "one two three four " * 5, task="generate"))
        await until(lambda: text.tokens)
        row = await ask(pool, "r", "x")
        assert row.answer and not text.answer.done()
        outcome = await text.answer
        assert outcome.answer and "".join(text.tokens).split() == "one two three four".split() * 5
        assert (text.entry.finish_reason, text.entry.tokens) == ("stop", 20)


async def test_a_cancelled_text_stops_being_written() -> None:
    async with running() as pool:
        text = Ask(pool, work("t", "word " * 1000, task="generate"))
        await until(lambda: text.tokens)
        pool.cancel(text.entry)
        await until(lambda: pool.in_flight == 0)
        assert len(text.tokens) < 900


async def test_a_text_that_was_partly_sent_is_not_retried() -> None:
    async with running(2) as pool:
        text = Ask(pool, work("t", "die slowly but surely", task="generate"))
        outcome = await text.answer
        assert text.tokens and outcome.fault and outcome.fault.reason == "REPLICA_LOST"
        assert len(pool.dispatcher.quarantine) == 0


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async with running(settings={"queue_rows": 2}, rows=1) as pool:
        asks = [Ask(pool, work(f"r{n}", "sleep 0.1")) for n in range(2)]
        await until(lambda: pool.in_flight == 2)
        asks += [Ask(pool, work(f"q{n}", "x")) for n in range(2)]
        refusal = pool.refusal(work("more", "x"))
        assert refusal and refusal.code == "RESOURCE_EXHAUSTED" and refusal.retry_after_s > 0
        urgent = Ask(pool, work("u", "x", priority=0))
        displaced = await asks[-1].answer
        assert displaced.fault and displaced.fault.reason == "QUEUE_FULL"
        assert (await urgent.answer).answer
        assert all([(await a.answer).answer for a in asks[:-1]])


async def test_a_deadline_that_cannot_be_met_is_refused_at_arrival() -> None:
    async with running(rows=1) as pool:
        for n in range(8):
            await ask(pool, f"r{n}", "sleep 0.05")
        soon = work("d", "x", deadline=time.monotonic() + 0.01)
        refusal = pool.refusal(soon)
        assert refusal and refusal.reason == "DEADLINE_UNREACHABLE"
        assert refusal.code == "RESOURCE_EXHAUSTED" and refusal.retry_after_s > 0
        assert pool.refusal(work("d", "x", deadline=time.monotonic() + 9)) is None


async def test_what_a_new_row_waits_grows_with_the_rows_before_it_and_ends_with_them() -> None:
    async with running(rows=1) as pool:
        waits = [pool.dispatcher.expected_wait_s()]
        for n in range(8):
            await ask(pool, f"r{n}", "sleep 0.05")
        waits.append(pool.dispatcher.expected_wait_s())  # a free replica begins at once
        asks = [Ask(pool, work(f"q{n}", "sleep 0.05")) for n in range(4)]
        await until(lambda: pool.in_flight > 0)
        few = pool.dispatcher.expected_wait_s()
        asks += [Ask(pool, work(f"p{n}", "sleep 0.05")) for n in range(16)]
        many = pool.dispatcher.expected_wait_s()
        assert all([(await one.answer).answer for one in asks])
        await until(lambda: pool.in_flight == 0)
        waits.append(pool.dispatcher.expected_wait_s())
    assert waits == [0.0, 0.0, 0.0]
    assert 0.05 < few < many


async def test_a_row_that_one_replica_has_no_memory_for_is_answered_by_another() -> None:
    async with running(2, short_below=1) as pool:
        outcomes = [await ask(pool, f"r{number}", "large") for number in range(6)]
        assert {outcome.answer.label for outcome in outcomes if outcome.answer} == {
            str(pid(pool, 1))
        }
        assert all(outcome.answer for outcome in outcomes)
        assert any(outcome.retried for outcome in outcomes)
        assert [status.restarts for status in pool.statuses()] == [0, 0]


async def test_a_row_that_no_replica_has_memory_for_is_refused_with_a_time() -> None:
    async with running(2, short_below=2) as pool:
        outcome = await ask(pool, "a", "large")
        assert outcome.fault is not None and outcome.retried
        assert (outcome.fault.code, outcome.fault.reason) == (
            "RESOURCE_EXHAUSTED",
            "REPLICA_MEMORY",
        )
        assert outcome.fault.retry_after_s > 0
        assert (await ask(pool, "b", "hello")).answer
    async with running(1, short_below=1) as pool:
        outcome = await ask(pool, "a", "large")
        assert outcome.fault is not None and outcome.fault.code == "RESOURCE_EXHAUSTED"
