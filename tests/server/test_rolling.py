"""Replacing a pool replica by replica: both stamps serve, no request fails, and a bad bundle is
withdrawn."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from server.deploy.bundle_listing import roles
from server.errors import DeployRefused
from tests.server.test_deployment import FULL
from tests.support.running import until
from tests.support.stub_bundles import ROOMY, Site, site
from tests.support.stub_replica import work

A, B = "a" * 64, "b" * 64
FULLER = (100 << 20, "available on this host")  # not even one replica more


class Callers:
    """Rows and sessions without pause; every answer must come, a session's from one stamp until
    that stamp is gone."""

    def __init__(self, found: Site) -> None:
        self._found = found
        self._done = asyncio.Event()
        self.stamps: Counter[str] = Counter()
        self.by_session: dict[str, list[str]] = {}

    async def __aenter__(self) -> Callers:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._done.set()
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        turn, session = 0, f"session-{number}" if number % 2 else ""
        while not self._done.is_set():
            turn += 1
            row = work(f"{number}-{turn}", "x", session=session)
            outcome = await self._found.engine.predict(row)
            assert outcome.fault is None, outcome.fault
            self.stamps[outcome.stamp[0]] += 1
            if session:
                self.by_session.setdefault(session, []).append(outcome.stamp[0])
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(("room", "order"), [(FULL, "new one comes"), (FULLER, "old one leaves")])
async def test_every_row_is_answered_while_replicas_are_replaced(
    tmp_path: Path, room: tuple[int, str], order: str
) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = room
        async with Callers(found) as callers:
            steps = await found.load("b", activate=True, swap="rolling")
            await until(lambda: callers.stamps["b"])
        assert order in next(step.detail for step in steps if step.name == "rolling")
        assert steps[-1].switch is not None and steps[-1].stamp == B
        assert {"loading 1", "proving 1", "loading 2", "proving 2"} <= {s.name for s in steps}
        assert callers.stamps["a"] and callers.stamps["b"], "both stamps serve meanwhile"
        for stamps in callers.by_session.values():
            assert "".join(stamps).lstrip("a").rstrip("b") == "", "a session moves once at most"
        assert found.engine.snapshot().state == "READY"
        assert {replica.stamp for replica in found.engine.snapshot().replicas} == {B}
        assert found.deployment.store.current.stamp == B  # type: ignore[union-attr]
        assert found.engine.pool_set.standby is None


async def test_a_drain_in_the_middle_of_a_roll_loses_nothing_that_was_accepted(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = FULL
        pool_set = found.engine.pool_set
        rolling = asyncio.create_task(found.load("b", activate=True, swap="rolling"))
        await until(lambda: pool_set.branch is not None and pool_set.branch.pool.serving > 0)
        rows = [found.engine.predict(work(f"r{n}", "sleep 0.05")) for n in range(60)]
        answers = [asyncio.create_task(row) for row in rows]
        await asyncio.sleep(0.05)
        await found.engine.drain(20.0)
        outcomes = await asyncio.gather(*answers)
        assert [outcome.fault for outcome in outcomes if outcome.fault] == []
        assert {outcome.stamp for outcome in outcomes} == {A, B}
        rolling.cancel()
        await asyncio.gather(rolling, return_exceptions=True)


async def test_two_pools_that_do_not_fit_roll_when_they_are_to_be_activated(tmp_path: Path) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = FULL
        steps = await found.load("b", activate=True)
        assert "rolling: two pools do not fit" in "".join(step.detail for step in steps)
        assert (await found.engine.predict(work("r", "x"))).stamp == B


@pytest.mark.parametrize("room", [FULL, FULLER])
@pytest.mark.parametrize(("name", "check"), [("wrong", "probe"), ("slow", "speed")])
async def test_a_bad_replica_ends_it_and_the_old_ones_are_back(
    tmp_path: Path, room: tuple[int, str], name: str, check: str
) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = room
        async with Callers(found) as callers:
            with pytest.raises(DeployRefused) as refusal:
                await found.load("b", name, activate=True, swap="rolling")
        assert refusal.value.check == check
        assert set(callers.stamps) == {"a"}, "it never served a row"
        await until(lambda: found.engine.snapshot().state == "READY")
        assert [replica.stamp for replica in found.engine.snapshot().replicas] == [A, A]
        found.room = ROOMY
        await found.load("c")  # and the next one gets in


async def test_a_second_replica_that_turns_out_bad_brings_both_old_ones_back(
    tmp_path: Path,
) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = FULLER
        async with Callers(found) as callers:
            with pytest.raises(DeployRefused, match="stamp"):
                # Its second replica reports another stamp than the first.
                await found.load("b", "changed", activate=True, swap="rolling")
        assert callers.stamps["b"] and callers.stamps["a"], "the first one had served"
        await until(lambda: found.engine.snapshot().state == "READY")
        assert [replica.stamp for replica in found.engine.snapshot().replicas] == [A, A]
        assert (await found.engine.predict(work("r", "x"))).stamp == A


async def test_one_replica_cannot_roll(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        with pytest.raises(DeployRefused, match="--warm-pool 2"):
            await found.load("b", activate=True, swap="rolling")


async def test_a_roll_goes_on_when_whoever_asked_for_it_goes_away(tmp_path: Path) -> None:
    async with site(tmp_path, replicas=2) as found:
        loading = asyncio.create_task(found.load("b", activate=True, swap="rolling"))
        await until(lambda: len(found.engine.snapshot().replicas) == 2 and loading.done() is False)
        await until(lambda: "rolling in" in str(roles(found.engine.pool_set)))
        loading.cancel()
        await until(lambda: found.actions == ["activate"])
        assert (await found.engine.predict(work("r", "x"))).stamp == B
