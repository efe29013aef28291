"""Finds or loads the bundle to rehearse, runs one rehearsal at a time, and records it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server.deploy.bundle_store import StoreRefused, identify
from server.deploy.deployment import Deployment
from server.deploy.strategy import BLUE_GREEN
from server.engine import Engine
from server.errors import DeployRefused
from server.pool.pool import Pool
from server.pool.readiness import tolerance_of
from server.rehearsal.rehearsal import Rehearsal, Wanted
from server.rehearsal.report import RehearsalReport
from server.rehearsal.shadow import LOW, WITHIN_S
from server.rehearsal.submit import submit
from server.rehearsal.throttle import RehearsalEnded
from server.request.validation import Terms, Validator
from server.request.worker_threads import WorkerThreads
from server.routing.progress import Report, Step, Switch
from server.telemetry.rows import PredictionRow
from server.telemetry_port import TelemetryPort
from server.types import Outcome

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
    _reading: WorkerThreads = field(
        default_factory=lambda: WorkerThreads("replay", 1, 8), init=False
    )

    async def rehearse(
        self,
        stamp: str,
        path: str,
        wanted: Wanted,
        report: Callable[[Step | RehearsalReport], None],
    ) -> None:
        """Report the steps of a load if one is needed, then those of the rehearsal, and its result.
        Raises DeployRefused, and Refused when payloads cannot be read.

        A bundle that was loaded only for this is discarded unless it may be activated.
        """
        if self._running:
            raise DeployRefused("rehearse", "another rehearsal is running; one at a time")
        candidate, loaded, result = self._find(stamp, path), False, None
        self._running = True
        try:
            if candidate is None:
                # Loaded beside the active pool: the comparison needs both bundles.
                await self.deployment.load(self._path(stamp, path), BLUE_GREEN, False, report)
                candidate, loaded = self.engine.pool_set.candidate, True
            if candidate is None:
                raise DeployRefused("rehearse", "the candidate was discarded meanwhile")
            result = await self._run(candidate, wanted, report)
        finally:
            self._running = False
            refused = result is None or result.verdict.word == "refuse"
            if loaded and refused and candidate is not None:
                self._let_go(candidate)
        report(result)

    async def replay(self, prediction_id: str, stamp: str) -> tuple[PredictionRow, Outcome, float]:
        """(the stored row, the answer of a loaded bundle to its payload, the golden tolerance of
        the bundles). The answer is neither counted nor recorded. Raises DeployRefused for a stamp
        that is not loaded or a payload that cannot be answered again."""
        pool = self._loaded(stamp)
        rows = await self._reading.run(lambda: self.telemetry.by_id([prediction_id], True))
        if not rows:
            raise DeployRefused("replay", f"there is no prediction {prediction_id[:64]}")
        kept = rows[0]
        if not kept.example:
            gone = "its payload was not kept, or is gone: --sample-share sets how many are"
            why = kept.locked or gone
            raise DeployRefused("replay", why)
        task = kept.record.task
        if task == "generate":
            raise DeployRefused("replay", "generated texts are not stored, nothing to compare")
        terms = Terms(
            task=task,
            want_embedding=task == "embed",
            priority=LOW,
            deadline=self.clock() + WITHIN_S,
            client="replay",
        )
        work = self.validator.work(kept.example, "payload", terms)
        both = self.engine.pool_set.active.statuses() + pool.statuses()
        return kept, await submit(pool, work), tolerance_of(both)

    def _loaded(self, stamp: str) -> Pool:
        """The loaded pool of a stamp. Raises DeployRefused."""
        pools = self.engine.pool_set.pools
        if len(stamp) >= SHORTEST:
            found = next((pool for pool in pools if _is(pool, stamp)), None)
            if found is not None:
                return found
        loaded = ", ".join(pool.facts.stamp[:12] for pool in pools if pool.facts is not None)
        message = f"{stamp[:12] or 'no stamp'} is not loaded; {loaded} is (`server load BUNDLE`)"
        raise DeployRefused("replay", message)

    async def _run(self, candidate: Pool, wanted: Wanted, report: Report) -> RehearsalReport:
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
        try:
            result = await rehearsal.run(wanted, report)
        except RehearsalEnded as end:
            self._record(candidate, active, f"ended: {end}", wanted.reason)
            raise DeployRefused("rehearse", str(end)) from None
        except asyncio.CancelledError:
            self._record(candidate, active, "ended: its caller went away", wanted.reason)
            raise
        detail = f"{result.verdict.word}: {result.verdict.reason}"
        self._record(candidate, active, detail, wanted.reason)
        return result

    def _find(self, stamp: str, path: str) -> Pool | None:
        """The pool to rehearse; None when it must be loaded first. Raises DeployRefused."""
        wanted = stamp
        if path:
            try:
                _, wanted = identify(Path(path))
            except StoreRefused as error:
                raise DeployRefused("store", str(error)) from None
        if len(wanted) < SHORTEST:
            raise DeployRefused(
                "rehearse", f"{wanted!r} is not a stamp: give at least {SHORTEST} hex digits"
            )
        pool_set = self.engine.pool_set
        if _is(pool_set.active, wanted):
            raise DeployRefused("rehearse", f"{wanted[:12]} serves already")
        return next((pool for pool in pool_set.pools if _is(pool, wanted)), None)

    def _path(self, stamp: str, path: str) -> Path:
        """The path of the bundle to load. Raises DeployRefused."""
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

    def _record(self, candidate: Pool, active: Pool, detail: str, reason: str) -> None:
        detail = f"{reason}; {detail}" if reason else detail
        facts, beside = candidate.facts, active.facts
        if facts is not None and beside is not None:
            self.deployment.record(
                "rehearse", Switch(facts.stamp, facts.stamp_name, beside.stamp, 0.0), detail
            )


def _is(pool: Pool, stamp: str) -> bool:
    return pool.facts is not None and pool.facts.stamp.startswith(stamp)
