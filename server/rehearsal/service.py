"""Which bundle is rehearsed: finds it, or loads it first; one at a time; and tells the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from server.deploy.bundle_store import StoreRefused, identify
from server.deploy.deployment import Deployment
from server.deploy.strategy import BLUE_GREEN
from server.engine import Engine
from server.errors import DeployRefused
from server.pool.pool import Pool
from server.rehearsal.rehearsal import Rehearsal, Stage, Wanted
from server.rehearsal.report import RehearsalReport
from server.rehearsal.throttle import RehearsalEnded
from server.request.validation import Validator
from server.routing.progress import Step, Steps, Switch
from server.telemetry_port import TelemetryPort

SHORTEST = 6  # digits of a stamp


@dataclass(slots=True)
class RehearsalService:
    engine: Engine
    deployment: Deployment
    telemetry: TelemetryPort
    validator: Validator
    sample_share: float
    clock: Callable[[], float] = time.monotonic
    _running: bool = field(default=False, init=False)

    async def rehearse(
        self, stamp: str, path: str, wanted: Wanted
    ) -> AsyncGenerator[Step | Stage | RehearsalReport, None]:
        """Steps of a load if there is one, stages, and the judgement. Raises DeployRefused, and
        Refused when payloads cannot be read.

        What was loaded for this alone is let go unless it may be activated.
        """
        if self._running:
            raise DeployRefused("rehearse", "another rehearsal is running; one at a time")
        candidate, loaded, judged = self._find(stamp, path), False, None
        self._running = True
        try:
            if candidate is None:
                async with aclosing(self._load(stamp, path)) as steps:
                    async for step in steps:
                        yield step
                candidate, loaded = self.engine.pool_set.candidate, True
            if candidate is None:
                raise DeployRefused("rehearse", "what was loaded is not there any more")
            async with aclosing(self._run(candidate, wanted)) as stages:
                async for stage in stages:
                    judged = stage if isinstance(stage, RehearsalReport) else None
                    if judged is not None and loaded and judged.verdict.word == "refuse":
                        self._let_go(candidate)
                    yield stage
        finally:
            self._running = False
            if loaded and judged is None and candidate is not None:
                self._let_go(candidate)

    async def _run(
        self, candidate: Pool, wanted: Wanted
    ) -> AsyncGenerator[Stage | RehearsalReport, None]:
        active = self.engine.pool_set.active
        rehearsal = Rehearsal(
            self.engine,
            self.telemetry,
            self.validator,
            active,
            candidate,
            self.sample_share,
            self.clock,
        )
        verdict = None
        try:
            async with aclosing(rehearsal.run(wanted)) as stages:
                async for stage in stages:
                    if isinstance(stage, RehearsalReport):
                        verdict = stage.verdict
                        self._record(candidate, active, f"{verdict.word}: {verdict.reason}")
                    yield stage
        except RehearsalEnded as end:
            self._record(candidate, active, f"ended: {end}")
            raise DeployRefused("rehearse", str(end)) from None
        except (asyncio.CancelledError, GeneratorExit):
            if verdict is None:
                self._record(candidate, active, "ended: whoever asked for it went away")
            raise

    def _find(self, stamp: str, path: str) -> Pool | None:
        """The pool to rehearse; None when it has to be loaded. Raises DeployRefused."""
        wanted = stamp
        if path:
            try:
                _, wanted = identify(Path(path))
            except StoreRefused as error:
                raise DeployRefused("store", str(error)) from None
        if len(wanted) < SHORTEST:
            raise DeployRefused("rehearse", f"{wanted!r} is no stamp: at least {SHORTEST} digits")
        pool_set = self.engine.pool_set
        if _is(pool_set.active, wanted):
            raise DeployRefused("rehearse", f"{wanted[:12]} serves already")
        return next((pool for pool in pool_set.pools if _is(pool, wanted)), None)

    def _load(self, stamp: str, path: str) -> Steps:
        """Beside the active pool: what is replaced meanwhile cannot be compared with."""
        return self.deployment.load(self._path(stamp, path), BLUE_GREEN)

    def _path(self, stamp: str, path: str) -> Path:
        """Raises DeployRefused."""
        if path:
            return Path(path)
        try:
            return self.deployment.store.find(stamp).path
        except StoreRefused as error:
            message = f"{error}; give a bundle directory, or load one"
            raise DeployRefused("rehearse", message) from None

    def _let_go(self, candidate: Pool) -> None:
        pool_set = self.engine.pool_set
        if pool_set.candidate is candidate and pool_set.canary is None:
            pool_set.discard()

    def _record(self, candidate: Pool, active: Pool, detail: str) -> None:
        facts, beside = candidate.facts, active.facts
        if facts is not None and beside is not None:
            self.deployment.record(
                "rehearse", Switch(facts.stamp, facts.stamp_name, beside.stamp, 0.0), detail
            )


def _is(pool: Pool, stamp: str) -> bool:
    return pool.facts is not None and pool.facts.stamp.startswith(stamp)
