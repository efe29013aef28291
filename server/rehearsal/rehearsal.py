"""Runs a rehearsal: kept payloads, and optionally a share of live traffic, go through a bundle that
does not serve yet, and its answers are compared with the active bundle's.

It uses the candidate's own replicas, at a lower priority than the active pool's, so that they
compete only for cores. It uses the active pool only to compare times, for at most a minute, and
sends each row when that pool has nothing else to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from server.engine import Engine
from server.pool.pool import Pool
from server.pool.readiness import tolerance_of
from server.pool.service_time import own_work_ms
from server.rehearsal.paired_answers import AnswerPair, answer_of_outcome, answer_of_row, slices_of
from server.rehearsal.report import Observations, RehearsalReport, build_report
from server.rehearsal.shadow import LOW, WITHIN_S, Shadow
from server.rehearsal.submit import is_inconclusive, submit
from server.rehearsal.throttle import CandidateGone, Throttle
from server.rehearsal.verdict import RehearsalVerdict
from server.request.status import Refused
from server.request.validation import Terms, Validator, prediction_id
from server.request.worker_threads import WorkerThreads
from server.routing.progress import Report, Step
from server.telemetry.rows import PredictionRow
from server.telemetry.store.reader import chunks
from server.telemetry_port import TelemetryPort
from server.types import Facts, Outcome, Work

# Payloads that both bundles answer one after the other, to compare times: until this many could be
# compared, or for this long. With traffic, most of them cannot be.
PAIRS_WANTED = 60
TIMED_FOR_S = 60.0
READ_AT_ONCE = 16  # payloads in memory
REPORT_S = 0.2
COMPARABLE = ("INVALID_ARGUMENT", "INTERNAL")  # errors that a payload itself can cause


@dataclass(frozen=True, slots=True)
class Wanted:
    payloads: int
    shadow_share: float = 0.0
    seconds: float = 0.0  # of shadowing live traffic
    reason: str = ""  # given by the person who asked, for the history


@dataclass(slots=True)
class Rehearsal:
    """One rehearsal of one candidate. `active` must be the pool that serves."""

    engine: Engine
    telemetry: TelemetryPort
    validator: Validator
    active: Pool
    candidate: Pool
    sample_share: float
    clock: Callable[[], float] = time.monotonic
    _pairs: list[AnswerPair] = field(default_factory=list, init=False)
    _times: list[tuple[float, float]] = field(default_factory=list, init=False)
    _timed: int = field(default=0, init=False)  # pairs tried
    _skipped: int = field(default=0, init=False)
    _throttle: Throttle = field(init=False)
    _reading: WorkerThreads = field(
        default_factory=lambda: WorkerThreads("rehearsal", 1, 1), init=False
    )

    def __post_init__(self) -> None:
        self._throttle = Throttle(self.engine, self.active, self.candidate, self.clock)

    async def run(self, wanted: Wanted, report: Report) -> RehearsalReport:
        """Raises RehearsalEnded, and Refused when the payloads cannot be read. When it is
        cancelled, everything ends at once."""
        old, new = _facts(self.active), _facts(self.candidate)
        both = self.active.statuses() + self.candidate.statuses()
        tolerance = tolerance_of(both)  # read now: a candidate that dies loses its evidence
        shadow = Shadow(
            wanted.shadow_share, self.active, self.candidate, self._see_live, self.clock
        )
        gone = ""
        try:
            await self._replay(old, wanted.payloads, report)
            if wanted.shadow_share and wanted.seconds:
                await self._shadow(shadow, wanted.seconds, report)
        except CandidateGone as error:
            gone = str(error)
        finally:
            self._throttle.give_way(False)
            self._reading.close()
        report(Step("judging", 1.0, f"{len(self._pairs)} payloads"))
        seen = Observations(
            tuple(self._pairs),
            tuple(self._times),
            self._timed,
            self._skipped,
            shadow.dropped,
            tolerance,
            _more(len(self._pairs), wanted, self.sample_share),
        )
        found = await asyncio.to_thread(build_report, seen, old, new)
        return replace(found, verdict=RehearsalVerdict("refuse", gone)) if gone else found

    async def _replay(self, old: Facts, most: int, report: Report) -> None:
        rows = await self._kept(old, most)
        done, reported_at, began = 0, 0.0, self.clock()
        for some in chunks(rows, READ_AT_ONCE):
            kept = await self._reading.run(partial(self.telemetry.by_id, some, True))
            if locked := next((row.locked for row in kept if row.locked), ""):
                report(Step("replaying", done / len(rows), f"left out: {locked}"))
                kept = [row for row in kept if not row.locked]
            while kept:
                few = len(self._times) < PAIRS_WANTED
                timed = few and self.clock() - began < TIMED_FOR_S
                together = 1 if timed else max(1, self.candidate.serving)
                group, kept = kept[:together], kept[together:]
                self._throttle.check()
                if timed:
                    await self._answer_twice(group[0], done % 2 == 0)
                else:
                    self._throttle.give_way(True)
                    await self._throttle.gap()
                    await asyncio.gather(*(self._answer(row) for row in group))
                done += len(group)
                if self.clock() - reported_at >= REPORT_S:
                    reported_at = self.clock()
                    report(Step("replaying", done / len(rows), f"{done} of {len(rows)} payloads"))

    async def _kept(self, old: Facts, most: int) -> list[str]:
        """Ids of the latest payloads that the active bundle classified. Requests with their own
        labels are left out, as the labels are not stored."""
        line = f"kept task=classify stamp={old.stamp}"
        rows = await self._reading.run(lambda: self.telemetry.samples(line, None, most, False))
        fit = [row.record for row in rows if _fits(row, old)]
        self._skipped += len(rows) - len(fit)
        return [record.prediction_id for record in fit]

    async def _answer(self, row: PredictionRow) -> None:
        work = self._work(row)
        if work is not None:
            self._see(row, await submit(self.candidate, work))

    async def _answer_twice(self, row: PredictionRow, active_first: bool) -> None:
        """Both bundles answer, taking turns in going first. Times count only if the active pool did
        nothing else meanwhile."""
        work = self._work(row)
        if work is None:
            return
        self._timed += 1
        quiet = await self._throttle.quiet()
        before = self._throttle.busyness()
        first = await submit(self.active, work) if quiet and active_first else None
        now = await submit(self.candidate, _renewed(work))
        if quiet and not active_first:
            first = await submit(self.active, _renewed(work))
        alone = self._throttle.busyness() == (before[0] + 1, 0)
        if first is not None and alone and first.answer is not None and now.answer is not None:
            if first.batch_size == now.batch_size == 1:
                self._times.append(
                    (own_work_ms(first.timing, 1), own_work_ms(now.timing, 1)),
                )
        self._see(row, now)

    def _work(self, row: PredictionRow) -> Work | None:
        """The work for a payload, checked like a request; None if the payload is gone or would now
        be refused."""
        terms = Terms(priority=LOW, deadline=self.clock() + WITHIN_S, client="rehearsal")
        if row.example:
            with suppress(Refused):
                return self.validator.work(row.example, "payload", terms)
        self._skipped += 1
        return None

    def _see(self, row: PredictionRow, now: Outcome) -> None:
        if is_inconclusive(now):
            self._skipped += 1
            return
        record = row.record
        self._pairs.append(
            AnswerPair(
                weight=1 / row.sample_p if row.sample_p > 0 else 1.0,
                before=answer_of_row(row),
                now=answer_of_outcome(now),
                took_s=record.total_ms / 1e3,
                true_label=row.true_label,
                slices=slices_of(record.slices, record.mix),
            )
        )

    async def _shadow(self, shadow: Shadow, seconds: float, report: Report) -> None:
        self._throttle.give_way(True)
        workers = [asyncio.create_task(shadow.run()) for _ in range(max(1, self.candidate.serving))]
        self.engine.observer = shadow.offer
        began = self.clock()
        try:
            while (passed := self.clock() - began) < seconds:
                self._throttle.check()
                message = f"{shadow.answered} live requests, {shadow.dropped} dropped"
                report(Step("shadowing", passed / seconds, message))
                await asyncio.sleep(min(REPORT_S, max(0.0, seconds - passed)))
        finally:
            self.engine.observer = None
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _see_live(self, work: Work, before: Outcome, now: Outcome) -> None:
        tags = slices_of(work.slices, before.mix or work.mix)
        took_s = before.timing.total_ms / 1e3
        self._pairs.append(
            AnswerPair(
                1.0,
                answer_of_outcome(before),
                answer_of_outcome(now),
                took_s,
                slices=tags,
                live=True,
            )
        )


def _facts(pool: Pool) -> Facts:
    assert pool.facts is not None  # it serves, or has passed its golden check
    return pool.facts


def _fits(row: PredictionRow, facts: Facts) -> bool:
    record = row.record
    if record.error:
        return record.error.split("/")[0] in COMPARABLE
    return record.label in facts.labels


def _renewed(work: Work) -> Work:
    """The same row with another id: both pools may hold it at the same time."""
    return replace(work, id=prediction_id())


def _more(found: int, wanted: Wanted, share: float) -> str:
    """A sentence on how to get more payloads."""
    if found >= wanted.payloads:
        return f"ask for more than --payloads {wanted.payloads}"
    live = "" if wanted.shadow_share else ", or --shadow takes some of live traffic"
    return f"more are kept with a greater --sample-share (it is {share:g}) or as time goes by{live}"
