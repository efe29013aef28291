"""A share of the sessions on a new bundle: which sessions get it, and the verdict on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.errors import DeployRefused
from server.routing.canary_analysis import Bounds, CanaryAnalysis
from server.routing.router import draw
from server.types import GenerationEnd, Token
from tests.support.patience import patience
from tests.support.running import until
from tests.support.stub_bundles import Site, site
from tests.support.stub_replica import work

A, B = "a" * 64, "b" * 64


async def begun(found: Site, name: str = "right", share: float = 0.4, minutes: float = 9) -> None:
    await found.load("b", name)
    await found.deployment.start_canary(B, share, minutes * 60)


async def stamp_of(found: Site, entry_id: str, **changes: Any) -> str:
    outcome = await found.engine.predict(work(entry_id, "x", **changes))
    return outcome.stamp[:1] if outcome.fault is None else outcome.fault.code


@asynccontextmanager
async def traffic(found: Site) -> Any:
    """Rows without pause until the block ends; yields how many each stamp answered."""
    seen: Counter[str] = Counter()
    done = asyncio.Event()

    async def call(number: int) -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            seen[await stamp_of(found, f"{number}-{turn}", request=f"{number}-{turn}")] += 1

    tasks = [asyncio.create_task(call(number)) for number in range(8)]
    try:
        yield seen
    finally:
        done.set()
        await asyncio.gather(*tasks)


def test_a_draw_is_the_same_every_time_and_even() -> None:
    rows = [work(str(n), "x", session=f"s{n}") for n in range(4000)]
    draws = [draw(B, row) for row in rows]
    assert draws == [draw(B, row) for row in rows]
    assert 0.07 < sum(value < 0.1 for value in draws) / 4000 < 0.13
    assert draws != [draw(A, row) for row in rows], "another candidate is another draw"
    once = work("id-1", "x", request="r", client="c")
    again = work("id-2", "y", request="r", client="c")
    assert draw(B, once) == draw(B, again), "a request tried again falls on the same side"


async def test_a_share_of_the_sessions_goes_to_it_and_each_stays(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        assert await stamp_of(found, "early", session="old") == "a"
        await begun(found)
        first = {n: await stamp_of(found, f"1-{n}", session=f"s{n}") for n in range(60)}
        again = {n: await stamp_of(found, f"2-{n}", session=f"s{n}") for n in range(60)}
        assert first == again
        assert 10 < sum(stamp == "b" for stamp in first.values()) < 40
        assert {n for n, stamp in first.items() if stamp == "b"} == {
            n for n in range(60) if draw(B, work("", "x", session=f"s{n}")) < 0.4
        }
        for turn in range(20):
            assert await stamp_of(found, f"o{turn}", session="old") == "a", "it began before"
        pinned = frozenset({B})
        assert await stamp_of(found, "p", expected_stamps=pinned) == "b"
        counted = found.engine.pool_set.canary.analysis  # type: ignore[union-attr]
        assert counted.active.errors.n + counted.candidate.errors.n == 120


async def test_one_that_fails_rows_is_rolled_back_with_the_evidence(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await begun(found, "flaky")
        async with traffic(found) as seen:
            await until(lambda: found.engine.pool_set.canary is None, 60)
            before = seen["INVALID_ARGUMENT"]
            assert before > 0
            await asyncio.sleep(0.1)
        action, stamp, evidence = found.recorded[-1]
        assert (action, stamp) == ("canary-rolled-back", "b")
        assert "rows failed" in evidence
        assert await stamp_of(found, "after") == "a"
        assert found.deployment.store.current.stamp == A  # type: ignore[union-attr]
        assert "rows failed" in found.engine.snapshot().reasons["last canary"]
        with pytest.raises(DeployRefused, match="not loaded"):
            await found.deployment.activate(B)


async def test_one_whose_replica_keeps_dying_is_rolled_back(tmp_path: Path) -> None:
    async with site(tmp_path, restart_first_s=60.0) as found:
        await begun(found)
        pool = found.engine.pool_set.candidate
        assert pool is not None
        pool._replicas[0].kill("a test")  # a first death is repaired at once
        await until(lambda: pool._replicas[0].restarts == 1 and pool.serving == 1)
        assert found.engine.pool_set.canary is not None
        pool._replicas[0].kill("a test")
        await until(lambda: found.engine.pool_set.canary is None)
        action, _, evidence = found.recorded[-1]
        assert action == "canary-rolled-back"
        assert "no replica of it serves: replica 0 killed: a test" in evidence


async def test_one_that_is_not_worse_is_promoted_at_the_end(tmp_path: Path) -> None:
    # As many rows as a test can wait for; what the usual bounds are worth is test_trial's business.
    # A stub's confidence is how much it has answered.
    wide = Bounds(errors_fine=0.3, slow_share=0.9, worse_sd=1e3)
    async with site(tmp_path) as found:
        found.deployment.analyse = lambda _active, _candidate: CanaryAnalysis(bounds=wide)
        await begun(found, minutes=patience(0.01))  # too few rows would hold it
        async with traffic(found):
            await until(lambda: found.engine.pool_set.canary is None, 60)
        assert found.recorded[-1][:2] == ("canary-promoted", "b")
        assert "realised value not compared: 0 and 0 labels so far" in found.recorded[-1][2]
        # The links on disk follow the switch.
        await until(lambda: found.deployment.store.current.stamp == B)  # type: ignore[union-attr]
        done = await found.deployment.roll_back("all the same")
        assert done.switch is not None and done.switch.stamp == A


async def test_too_few_rows_hold_it_where_it_is(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await begun(found, minutes=0.001)
        await stamp_of(found, "one")
        await until(lambda: "canary-held" in found.actions)
        assert "of 100 rows" in found.recorded[-1][2]
        assert "held" in found.engine.snapshot().reasons["canary"]
        await asyncio.sleep(0.2)
        assert found.actions.count("canary-held") == 1 and found.engine.pool_set.canary is not None
        done = await found.deployment.activate(B)
        assert done.switch is not None and done.switch.from_stamp == A
        assert "canary ended" in found.recorded[-1][2]
        assert await stamp_of(found, "all") == "b"


async def test_a_server_that_ends_records_the_end_of_its_canary(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await begun(found)
    assert found.recorded[-1] == ("canary-rolled-back", "b", "the server stopped")


async def test_rollback_ends_it_and_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("c", activate=True)
        await begun(found)
        done = await found.deployment.roll_back("changed my mind")
        assert done.name == "canary rolled back" and done.stamp == "c" * 64
        assert found.recorded[-1] == ("canary-rolled-back", "b", "changed my mind")
        for session in range(20):
            assert await stamp_of(found, f"s{session}", session=f"s{session}") == "c"


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda d: d.load("d"), "a canary is running"),
        (lambda d: d.deployment.start_canary(B, 0.1, 60), "already runs as a canary"),
        (lambda d: d.deployment.start_canary("e" * 64, 0.1, 60), "already runs as a canary"),
        (lambda d: d.deployment.activate("c" * 64), "canary of bbbbbbbbbbbb runs"),
    ],
)
async def test_one_at_a_time(tmp_path: Path, ask: Callable[[Site], Any], why: str) -> None:
    async with site(tmp_path) as found:
        await found.load("c", activate=True)
        await found.load("a", activate=True)  # c is the standby now
        await begun(found)
        with pytest.raises(DeployRefused, match=why):
            await ask(found)
        assert found.engine.pool_set.canary is not None


async def test_only_what_is_loaded_can_be_tried(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        with pytest.raises(DeployRefused, match="not loaded"):
            await found.deployment.start_canary(B, 0.1, 60)
        await found.load("b", activate=True)
        with pytest.raises(DeployRefused, match="standby"):
            await found.deployment.start_canary(A, 0.1, 60)


async def test_a_text_says_from_its_first_piece_which_stamp_writes_it(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await begun(found, share=0.5)
        written = set()
        for number in range(12):
            row = work(str(number), "one two", task="generate", request=str(number))
            items = [item async for item in found.engine.generate(row)]
            stamps = {item.stamp for item in items if isinstance(item, Token)}
            stamps |= {item.outcome.stamp for item in items if isinstance(item, GenerationEnd)}
            assert len(stamps) == 1
            written |= stamps
        assert written == {A, B}
