"""Switching bundles under load, with real processes: no request fails, no stamps mix, and no bad
bundle serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from server.config import ServerConfig
from server.engine import Engine
from server.errors import DeployRefused
from server.pool.pool import Pool
from server.routing.candidate_checks import slower
from server.routing.progress import Report, Step, streamed
from server.telemetry.record import FeatureSpec, Record
from server.types import Evidence, GenerationEnd, Token, Work
from tests.support.running import until
from tests.support.stub_replica import stub_config, stub_pool, work

OLD, NEW = "ab" * 32, "cd" * 32


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, _schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)


def build(config: ServerConfig) -> Pool:
    """A bundle called `cd` has stamp cdcd…; `slow-cd` answers slowly, and so on."""
    probes, _, name = config.bundle.name.rpartition("-")
    if probes == "refused":
        return stub_pool(config, refuse="the digest of weights differs")
    return stub_pool(config, stamps=name * 32, probes=probes or "right")


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[tuple[Engine, Kept]]:
    config = replace(stub_config(**settings), bundle=Path("ab"))
    kept = Kept()
    engine = Engine(config, build(config), kept, build=build)
    await engine.start()
    try:
        await until(lambda: engine.snapshot().state == "READY")
        yield engine, kept
    finally:
        await engine.stop()


async def load(engine: Engine, bundle: str) -> list[Step]:
    steps: list[Step] = []
    await loading(engine, bundle, steps.append)
    return steps


async def loading(engine: Engine, bundle: str, report: Report) -> None:
    report(await engine.pool_set.load(Path(bundle), report))


async def stamp_of(engine: Engine, row: Work) -> str:
    outcome = await engine.predict(row)
    assert outcome.fault is None, outcome.fault
    return outcome.stamp


async def text_of(engine: Engine, name: str) -> tuple[str, str]:
    """(text, stamp) of a long text, written slowly enough to span switches."""
    pieces = []
    async with aclosing(engine.generate(work(name, "word " * 60, task="generate"))) as items:
        async for item in items:
            if isinstance(item, Token):
                pieces.append(item.text)
            elif isinstance(item, GenerationEnd):
                assert item.outcome.fault is None, item.outcome.fault
                return "".join(pieces), item.outcome.stamp
    raise AssertionError("the text had no end")


async def test_switches_under_load_fail_nothing_and_mix_nothing() -> None:
    async with serving() as (engine, kept):
        steps = await load(engine, "cd")
        assert steps[-1].name == "ready" and steps[-1].stamp == NEW
        answered = 0
        done = asyncio.Event()

        async def caller(number: int) -> None:
            nonlocal answered
            while not done.is_set():
                answered += 1
                assert await stamp_of(engine, work(f"{number}-{answered}", "x")) in (OLD, NEW)

        def more_than(before: int) -> bool:
            return answered > before

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(caller(number))
            texts = [group.create_task(text_of(engine, f"t{n}")) for n in range(4)]
            switches = []
            for turn in range(20):
                await until(partial(more_than, answered + 2))
                stamp = NEW if turn % 2 == 0 else OLD
                switches.append(engine.pool_set.activate(stamp))
                # From the very next request on.
                assert await stamp_of(engine, work(f"s{turn}", "x")) == stamp
            await asyncio.wait(texts)
            done.set()
        assert [s.from_stamp for s in switches[:2]] == [OLD, NEW]
        assert all(text.result()[0].split() == ["word"] * 60 for text in texts)
        assert answered > 50
        await asyncio.sleep(0)
        assert {record.stamp for record in kept.records} == {OLD, NEW}
        assert all(record.error == "" for record in kept.records)


async def test_rollback_goes_back_to_the_bundle_kept_warm() -> None:
    async with serving() as (engine, _):
        with pytest.raises(DeployRefused, match="nothing|no bundle"):
            engine.pool_set.roll_back()
        await load(engine, "cd")
        engine.pool_set.activate(NEW)
        switch = engine.pool_set.roll_back()
        assert (switch.stamp, switch.from_stamp) == (OLD, NEW)
        assert await stamp_of(engine, work("a", "x")) == OLD


@pytest.mark.parametrize(
    ("bundle", "check"), [("refused-cd", "hash"), ("wrong-cd", "probe"), ("slow-cd", "speed")]
)
async def test_a_bad_candidate_is_refused_and_what_serves_is_untouched(
    bundle: str, check: str
) -> None:
    async with serving() as (engine, _):
        with pytest.raises(DeployRefused) as refusal:
            await load(engine, bundle)
        assert refusal.value.check == check
        assert engine.pool_set.candidate is None
        assert await stamp_of(engine, work("a", "x")) == OLD
        with pytest.raises(DeployRefused, match="not loaded"):
            engine.pool_set.activate(NEW)
        await load(engine, "cd")  # a good one still gets in


async def test_work_pinned_to_the_standby_is_answered_by_it() -> None:
    async with serving() as (engine, _):
        await load(engine, "cd")
        engine.pool_set.activate(NEW)
        pinned = work("a", "x", expected_stamps=frozenset({OLD}))
        assert await stamp_of(engine, pinned) == OLD
        other = await engine.predict(work("b", "x", expected_stamps=frozenset({"ef" * 32})))
        assert other.fault is not None and other.fault.code == "FAILED_PRECONDITION"


async def test_a_session_stays_on_the_stamp_it_began_on_until_a_rollback() -> None:
    async with serving() as (engine, _):
        await load(engine, "cd")
        assert await stamp_of(engine, work("a", "x", session="s")) == OLD
        engine.pool_set.activate(NEW)
        assert await stamp_of(engine, work("b", "x", session="s")) == OLD
        assert await stamp_of(engine, work("c", "x", session="t")) == NEW
        engine.pool_set.roll_back()
        assert await stamp_of(engine, work("d", "x", session="t")) == OLD


async def test_the_standby_ends_when_its_time_is_over() -> None:
    async with serving(standby_s=0.2) as (engine, _):
        await load(engine, "cd")
        engine.pool_set.activate(NEW)
        await until(lambda: engine.pool_set.standby is None)
        with pytest.raises(DeployRefused):
            engine.pool_set.roll_back()
        assert await stamp_of(engine, work("a", "x")) == NEW


async def test_a_client_that_leaves_at_the_end_of_a_load_leaves_a_candidate_that_serves() -> None:
    async with serving() as (engine, _):
        async with aclosing(streamed(partial(loading, engine, "cd"))) as steps:
            async for step in steps:
                if step.name == "ready":
                    break
        engine.pool_set.activate(NEW)
        assert await stamp_of(engine, work("a", "x")) == NEW


async def test_a_load_under_way_ends_when_the_server_stops() -> None:
    async with serving() as (engine, _):
        with pytest.raises(DeployRefused, match="draining"):
            async with aclosing(streamed(partial(loading, engine, "cd"))) as steps:
                async for _step in steps:
                    await engine.drain(1.0)
        assert [pool.config.bundle for pool in engine.pool_set.pools] == [Path("ab")]


async def test_the_bundle_that_serves_is_not_loaded_again() -> None:
    async with serving() as (engine, _):
        with pytest.raises(DeployRefused, match="being served already"):
            await load(engine, "ab")


def evidence(p50_ms: float, limit_ms: float = 10.0) -> Evidence:
    return Evidence("text", True, "", p50_ms, p50_ms, limit_ms, 3, 0.0, 0.1, 0.0, "probe")


def test_a_busy_machine_is_not_held_against_a_bundle() -> None:
    assert slower(evidence(9.0), ()) == ""
    assert slower(evidence(30.0), (evidence(25.0),)) == ""
    assert "the active bundle now 12.0 ms" in slower(evidence(30.0), (evidence(12.0),))
    assert slower(evidence(30.0), ()) != ""


@pytest.mark.parametrize("task", ["classify", "generate"])
async def test_a_row_is_routed_once(task: str) -> None:
    """The pool that admits a row is the pool that gets it, even when the share grows meanwhile."""
    async with serving() as (engine, _):
        await load(engine, "cd")
        assert engine.pool_set.candidate is not None
        drawn: list[str] = []

        def share() -> float:
            drawn.append("")
            return float(len(drawn) > 1)

        engine.pool_set.split(engine.pool_set.candidate, share)
        row = work("a", "x", task=task)
        if task == "classify":
            assert await stamp_of(engine, row) == OLD
        else:
            async with aclosing(engine.generate(row)) as items:
                assert {item.stamp async for item in items if isinstance(item, Token)} == {OLD}
        assert len(drawn) == 1
