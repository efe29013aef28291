"""The way of a request: admission, answers before records, cancellation, texts, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from server.engine import Engine
from server.pool.pool import Pool
from server.telemetry.record import FeatureSpec, Record
from server.types import GenerationEnd, Outcome, Token
from tests.support.patience import patience
from tests.support.running import until
from tests.support.stub_replica import STAMP, stub_config, stub_pool, stub_spawner, work


class Kept:
    """A recorder that remembers, and what was true when it was called."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.schemas: list[tuple[FeatureSpec, ...]] = []

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)
        self.schemas.append(schema)


@asynccontextmanager
async def running(
    replicas: int = 1, settings: dict[str, Any] | None = None, **stub: object
) -> AsyncIterator[tuple[Engine, Kept]]:
    config = stub_config(warm_pool=replicas, **(settings or {}))
    kept = Kept()
    engine = Engine(config, stub_pool(config, **stub), kept)
    await engine.start()
    try:
        state = "STARTING"
        while state != "READY":
            state = await asyncio.wait_for(engine.changed(state), patience(20))
        yield engine, kept
    finally:
        await engine.stop()


async def test_a_row_is_answered_counted_and_then_recorded() -> None:
    async with running() as (engine, kept):
        row = work("a", "hello", trace_parent=f"00-{'1' * 32}-{'2' * 16}-01", session="s")
        outcome = await engine.predict(row)
        assert outcome.answer and kept.records == []  # the caller comes first
        await asyncio.sleep(0)
        (record,) = kept.records
        assert (record.prediction_id, record.stamp, record.label) == (
            "a",
            STAMP,
            outcome.answer.label,
        )
        assert (record.trace_id, record.session, record.error) == ("1" * 32, "s", "")
        assert record.payload == row.example and record.features == outcome.answer.features
        assert [spec.name for spec in kept.schemas[0]] == ["one", "none"]
        assert engine.snapshot().counters.answered == 1


async def test_a_payload_that_must_not_be_kept_is_not() -> None:
    async with running() as (engine, kept):
        await engine.predict(work("a", "hello", keep_payload=False))
        await asyncio.sleep(0)
        assert kept.records[0].payload == b""


async def test_a_fault_of_the_row_is_an_outcome_and_is_recorded_with_its_field() -> None:
    async with running() as (engine, kept):
        outcome = await engine.predict(work("a", "bad"))
        await asyncio.sleep(0)
        assert outcome.fault and outcome.fault.code == "INVALID_ARGUMENT"
        assert kept.records[0].error == "INVALID_ARGUMENT/BAD_WORD/parts[0].text"
        assert engine.snapshot().counters.bad_input == 1


async def test_nothing_is_admitted_before_a_replica_is_ready() -> None:
    config = stub_config()
    engine = Engine(config, stub_pool(config), Kept())
    outcome = await engine.predict(work("a", "x"))
    assert outcome.fault and (outcome.fault.code, outcome.fault.reason) == (
        "UNAVAILABLE",
        "WARMING",
    )
    assert engine.snapshot().state == "STARTING"


async def test_a_pinned_stamp_that_differs_is_refused_with_the_serving_one_and_remembered() -> None:
    async with running() as (engine, kept):
        pinned = work("a", "x", expected_stamps=frozenset({"ff" * 32}))
        outcome = await engine.predict(pinned)
        assert outcome.fault and outcome.fault.code == "FAILED_PRECONDITION"
        assert outcome.stamp == STAMP and STAMP in outcome.fault.message
        ((client, stamp, refused, _),) = engine.snapshot().pins
        assert (client, stamp, refused) == ("test", "ff" * 32, 1)
        either = work("b", "x", expected_stamps=frozenset({"ff" * 32, STAMP}))
        assert (await engine.predict(either)).answer
        await asyncio.sleep(0)
        assert [record.prediction_id for record in kept.records] == ["b"]


async def test_a_caller_that_goes_away_takes_its_row_along() -> None:
    async with running(rows=1) as (engine, kept):
        blocker = asyncio.create_task(engine.predict(work("b", f"sleep {patience(0.2)}")))
        ahead = asyncio.create_task(engine.predict(work("c", "x")))
        gone = asyncio.create_task(engine.predict(work("g", "x")))
        await until(lambda: engine.snapshot().in_flight == 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await blocker).answer and (await ahead).answer
        last = await engine.predict(work("l", "x"))
        assert last.answer and last.answer.confidence == 3  # rows decoded: b, c, l
        await asyncio.sleep(0)
        assert [record.prediction_id for record in kept.records] == ["b", "c", "l"]
        assert engine.snapshot().counters.cancelled == 1


async def test_a_text_comes_in_pieces_and_ends_with_its_outcome() -> None:
    async with running() as (engine, kept):
        pieces, end = [], None
        async for item in engine.generate(work("t", "one two three", task="generate")):
            if isinstance(item, Token):
                pieces.append(item.text)
            else:
                end = item
        assert "".join(pieces) == "one two three "
        assert end is not None and end.outcome.answer and end.outcome.stamp == STAMP
        assert (end.finish_reason, end.tokens) == ("stop", 3)
        assert 0 < end.first_token_ms <= end.outcome.timing.total_ms
        await asyncio.sleep(0)
        assert kept.records[0].task == "generate"


async def test_closing_a_text_frees_its_place() -> None:
    async with running() as (engine, _):
        async with aclosing(engine.generate(work("t", "w " * 999, task="generate"))) as items:
            assert isinstance(await anext(items), Token)
        await until(lambda: engine.snapshot().in_flight == 0)
        assert engine.snapshot().counters.cancelled == 1


async def test_a_refused_text_is_one_end_with_the_fault() -> None:
    async with running() as (engine, _):
        row = work("t", "x", task="generate", expected_stamps=frozenset({"ff" * 32}))
        (end,) = [item async for item in engine.generate(row)]
        assert isinstance(end, GenerationEnd) and end.outcome.fault


async def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async with running(rows=1) as (engine, _):
        accepted = [
            asyncio.create_task(engine.predict(work(f"r{n}", "sleep 0.05"))) for n in range(4)
        ]
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(engine.drain(10))
        assert await engine.changed("READY") == "DRAINING"
        refused = await engine.predict(work("late", "x"))
        assert refused.fault and refused.fault.reason == "DRAINING"
        await draining
        assert all([outcome.answer for outcome in await asyncio.gather(*accepted)])


async def test_what_outlasts_the_grace_of_a_drain_is_reported() -> None:
    async with running() as (engine, _):
        slow = asyncio.create_task(engine.predict(work("s", "sleep 2")))
        await asyncio.sleep(0.05)
        await engine.drain(0.1)
        outcome = await slow
        assert outcome.fault and outcome.fault.code == "UNAVAILABLE"


async def test_the_snapshot_shows_replicas_with_their_evidence() -> None:
    async with running(2) as (engine, _):
        snapshot = engine.snapshot()
        assert (snapshot.state, snapshot.reason, snapshot.warm_replicas) == ("READY", "", 2)
        assert snapshot.facts and snapshot.facts.stamp == STAMP
        for replica in snapshot.replicas:
            assert replica.pid and replica.state == "ready"
            assert [e.mix for e in replica.evidence] == ["image", "text"]
            assert all(e.source == "probe" and e.ok for e in replica.evidence)


async def test_rows_past_their_deadline_end_even_if_the_replica_does_not_report_it() -> None:
    async with running() as (engine, _):
        began = time.monotonic()
        outcome = await engine.predict(work("s", "sleep 3", deadline=began + patience(0.1)))
        assert outcome.fault and outcome.fault.reason == "EXPIRED_IN_REPLICA"


async def test_a_thousand_rows_are_each_answered_once() -> None:
    async with running(2) as (engine, kept):
        outcomes: list[Outcome] = []
        for start in range(0, 1000, 200):
            rows = [engine.predict(work(f"r{start + n}", "x")) for n in range(200)]
            outcomes += await asyncio.gather(*rows)
        await asyncio.sleep(0)
        assert [o.prediction_id for o in outcomes] == [f"r{n}" for n in range(1000)]
        assert sorted(r.prediction_id for r in kept.records) == sorted(
            o.prediction_id for o in outcomes
        )


class Verified(Pool):
    """Counts how often its bytes are compared, and takes until `over` is set."""

    times = 0

    async def verify(self) -> None:
        self.times += 1
        await self.over.wait()

    over: asyncio.Event


async def test_callers_who_want_every_byte_compared_share_the_work() -> None:
    config = stub_config()
    pool = Verified(config, stub_spawner())
    pool.over = asyncio.Event()
    engine = Engine(config, pool, Kept())
    first = asyncio.create_task(engine.verify())
    await until(lambda: pool.times == 1)
    others = [asyncio.create_task(engine.verify()) for _ in range(100)]
    await asyncio.sleep(0)
    others[0].cancel()  # one who goes away does not end it for the others
    pool.over.set()
    await asyncio.gather(first, *others[1:])
    assert pool.times == 2
    await engine.verify()
    assert pool.times == 3
