"""A rehearsal on a serving server, with real processes: it ends when its candidate does or its
caller leaves, and live traffic is not affected."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from proto import inference_pb2
from server.api.listener import upload_limits
from server.config import ServerConfig
from server.deploy.bundle_store import BundleStore
from server.deploy.deployment import Deployment
from server.engine import Engine
from server.errors import DeployRefused
from server.pool.pool import Pool
from server.rehearsal.rehearsal import Wanted
from server.rehearsal.report import RehearsalReport
from server.rehearsal.service import RehearsalService
from server.request.uploads import UploadStore
from server.request.validation import Validator
from server.routing.progress import Step, Switch, streamed
from server.telemetry.record import Record
from server.telemetry.rows import PredictionRow
from server.telemetry.store.history import TimeSpan
from server.telemetry_port import NullTelemetry
from server.types import Outcome
from tests.support.running import until
from tests.support.stub_replica import stub_config, stub_pool, work

OLD, NEW = "ab" * 32, "cd" * 32


class Kept(NullTelemetry):
    """Payloads of the past, all answered with the one label that the stub has."""

    def __init__(self, count: int, text: str = "x") -> None:
        super().__init__()
        example = inference_pb2.Example()
        example.parts.add(text=text)
        self.rows = {
            str(n): PredictionRow(record(str(n)), True, 0.5, "", example.SerializeToString())
            for n in range(count)
        }

    def samples(
        self, line: str, span: TimeSpan | None, limit: int, payload: bool
    ) -> list[PredictionRow]:
        assert line == f"kept task=classify stamp={OLD}"
        return list(self.rows.values())[:limit]

    def by_id(self, ids: Sequence[str], payload: bool) -> list[PredictionRow]:
        return [self.rows[one] for one in ids]


def record(prediction_id: str) -> Record:
    return Record(
        prediction_id=prediction_id,
        at=0.0,
        stamp=OLD,
        task="classify",
        mix="text",
        label="a",
        confidence=0.9,
        margin=0.8,
        entropy=0.1,
        closed_set_mass=1.0,
        features=b"",
        slices={"site": "b"},
        client="",
        session="",
        replica=0,
        batch_size=1,
        queue_ms=0.0,
        decode_ms=0.0,
        preprocess_ms=0.0,
        forward_ms=1.0,
        post_ms=0.0,
        total_ms=1.0,
    )


@dataclass(slots=True)
class Site:
    engine: Engine
    rehearsal_service: RehearsalService
    journal: list[tuple[str, str, str]]

    async def load(self) -> Pool:
        await self.engine.pool_set.load(Path("cd"), lambda step: None)
        assert self.engine.pool_set.candidate is not None
        return self.engine.pool_set.candidate

    async def rehearse(self, wanted: Wanted, stamp: str = NEW, path: str = "") -> RehearsalReport:
        reported: list[Step | RehearsalReport] = []
        await self.rehearsal_service.rehearse(stamp, path, wanted, reported.append)
        assert isinstance(reported[-1], RehearsalReport)
        return reported[-1]

    async def asked(self, name: str, text: str = "x") -> Outcome:
        outcome = await self.engine.predict(work(name, text))
        assert outcome.fault is None, outcome.fault
        assert outcome.stamp == OLD
        return outcome


def build(config: ServerConfig) -> Pool:
    return stub_pool(config, stamps=(config.bundle.name * 32)[:64])


@asynccontextmanager
async def serving(folder: Path, kept: Kept, **settings: object) -> AsyncIterator[Site]:
    config = replace(stub_config(**settings), bundle=Path("ab"))
    engine = Engine(config, build(config), kept, build=build)
    journal: list[tuple[str, str, str]] = []

    def record(action: str, switch: Switch | None, detail: str) -> None:
        journal.append((action, switch.stamp if switch is not None else "", detail))

    deployment = Deployment(engine.pool_set, BundleStore(folder / "bundles"), record)
    validator = Validator(config, UploadStore(upload_limits(config)))
    await engine.start()
    try:
        await until(lambda: engine.snapshot().state == "READY")
        yield Site(engine, RehearsalService(engine, deployment, kept, validator, 0.05), journal)
    finally:
        await engine.stop()


@asynccontextmanager
async def calling(site: Site, callers: int = 2, text: str = "x") -> AsyncIterator[list[Outcome]]:
    """Callers that ask all the time; what they are answered, all of it well."""
    outcomes: list[Outcome] = []
    done = asyncio.Event()

    async def call(number: int) -> None:
        while not done.is_set():
            outcomes.append(await site.asked(f"live-{number}-{len(outcomes)}", text))
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(number))
        try:
            yield outcomes
        finally:
            done.set()


async def test_a_loaded_bundle_is_judged_and_the_journal_records_it(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(80)) as site:
        candidate = await site.load()
        judged = await site.rehearse(Wanted(500), stamp=NEW[:6])
        # A stub's label is its process: no two answer alike.
        assert judged.verdict.word == "refuse" and "wrong in at least" in judged.verdict.reason
        assert judged.whole.payloads == 80 and judged.whole.changed.value == 1.0
        assert judged.slices == (), "a slice that is everything is none"
        assert site.journal == [("rehearse", NEW, f"refuse: {judged.verdict.reason}")]
        assert site.engine.pool_set.candidate is candidate, "what was loaded before stays"
        assert sum(replica.answered for replica in candidate.statuses()) == 80
        counted = site.engine.snapshot().counters
        assert counted.requests == 0, "a rehearsal is nobody's request"


async def test_nothing_kept_is_held_with_the_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(0)) as site:
        await site.load()
        judged = await site.rehearse(Wanted(500))
        assert judged.verdict.word == "hold" and "--sample-share" in judged.verdict.reason


async def test_what_serves_or_is_unknown_is_not_rehearsed(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(1)) as site:
        with pytest.raises(DeployRefused, match="serves already"):
            await site.rehearse(Wanted(1), stamp=OLD)
        with pytest.raises(DeployRefused, match="not in the store"):
            await site.rehearse(Wanted(1), stamp=NEW)
        with pytest.raises(DeployRefused, match="not a stamp"):
            await site.rehearse(Wanted(1), stamp="cd")
        with pytest.raises(DeployRefused, match="not a bundle"):
            await site.rehearse(Wanted(1), stamp="", path=str(tmp_path))


async def test_it_ends_when_its_bundle_is_activated_or_discarded(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(400, "sleep 0.02")) as site:
        for order, message in (("discard", "discarded"), ("activate", "activated meanwhile")):
            await site.load()
            with pytest.raises(DeployRefused, match=message):

                def interfere(_step: object, order: str = order) -> None:
                    if order == "discard":
                        site.engine.pool_set.discard()
                        return
                    with contextlib.suppress(DeployRefused):
                        site.engine.pool_set.activate(NEW)

                await site.rehearsal_service.rehearse(NEW, "", Wanted(400), interfere)
            assert message in site.journal[-1][2]
        assert (await site.engine.predict(work("a", "x"))).stamp == NEW


async def test_it_is_gone_when_its_caller_is(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(400, "sleep 0.05")) as site:
        candidate = await site.load()
        started = asyncio.Event()

        async def rehearse() -> None:
            wanted = Wanted(400, 1.0, 60)
            rehearsing = partial(site.rehearsal_service.rehearse, NEW, "", wanted)
            async with aclosing(streamed(rehearsing)) as steps:
                async for _ in steps:
                    started.set()

        task = asyncio.create_task(rehearse())
        await started.wait()
        with pytest.raises(DeployRefused, match="one at a time"):
            await site.rehearse(Wanted(1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert site.engine.observer is None
        await until(lambda: not candidate.waiting and not candidate.in_flight)
        answered = sum(replica.answered for replica in candidate.statuses())
        await asyncio.sleep(0.2)
        assert sum(replica.answered for replica in candidate.statuses()) == answered
        assert site.journal[-1][2].startswith("ended: its caller went away")


async def test_what_it_loaded_itself_is_let_go_when_it_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "cdcdcdcdcdcd"
    bundle.mkdir()
    (bundle / "manifest.json").write_text(f'{{"name": "cdcdcdcdcdcd", "stamp": "{NEW}"}}')
    async with serving(tmp_path, Kept(80)) as site:
        judged = await site.rehearse(Wanted(500), stamp="", path=str(bundle))
        assert judged.verdict.word == "refuse"
        assert site.engine.pool_set.candidate is None
        assert [action for action, _, _ in site.journal] == ["load", "rehearse"]


async def test_a_shadow_takes_its_share_and_changes_no_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(0)) as site:
        candidate = await site.load()
        async with calling(site) as outcomes:
            judged = await site.rehearse(Wanted(1, 0.5, 2.0))
        assert 0 < judged.live < len(outcomes)
        # One may be on its way when the time is over.
        assert (
            judged.live
            <= sum(replica.answered for replica in candidate.statuses())
            <= judged.live + 1
        )
        assert judged.whole.payloads == judged.live
        (active,) = {outcome.answer.label for outcome in outcomes if outcome.answer}
        assert active == str(site.engine.pool_set.active.statuses()[0].pid)
        assert site.engine.snapshot().counters.requests == len(outcomes)


async def test_a_shadow_is_dropped_when_the_active_pool_has_a_queue(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(0)) as site:
        await site.load()
        async with calling(site, 40, "sleep 0.02") as outcomes:
            judged = await site.rehearse(Wanted(1, 1.0, 1.0))
        assert len(outcomes) > 40, "all of them answered, by the active pool"
        assert judged.live_dropped > 0
        assert judged.live + judged.live_dropped <= len(outcomes)


async def test_a_candidate_that_dies_in_the_shadow_fails_no_request(tmp_path: Path) -> None:
    async with serving(tmp_path, Kept(0)) as site:
        candidate = await site.load()
        before = sum(status.answered for status in candidate.statuses())

        async def murder() -> None:
            await until(lambda: sum(status.answered for status in candidate.statuses()) > before)
            os.kill(candidate.statuses()[0].pid, signal.SIGKILL)

        async with calling(site) as outcomes:
            judged, _ = await asyncio.gather(site.rehearse(Wanted(1, 1.0, 1.0)), murder())
        assert outcomes, "each of them well"
        assert candidate.statuses()[0].restarts > 0
        assert judged.whole.lost_rows == 0, "what was killed from outside is asked again"
