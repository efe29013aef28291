"""The work of the telemetry thread: count, store, evaluate, notify. All of it runs on that thread.

`write` takes batches as they arrive; `idle` does what is due: rows and sums to the store, ticks of
the drift detector, retention. The order of the steps in `idle` matters.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from server.telemetry.alerts.book import Transition
from server.telemetry.alerts.service import AlertService
from server.telemetry.annotations import Annotations
from server.telemetry.change_feed import ChangeFeed
from server.telemetry.cut_share import CutShare
from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.profile import Ints
from server.telemetry.drift.windows import HOUR_S
from server.telemetry.evaluation import Evaluation
from server.telemetry.findings import Finding
from server.telemetry.quality.estimates import QualityCounts, Yardstick
from server.telemetry.record import BundleFiles, FeatureSpec, Record
from server.telemetry.recorder import Queued
from server.telemetry.recovery import FEEDBACK, recount
from server.telemetry.rows import AnnotationRow, PredictionRow
from server.telemetry.sampler import Sampler
from server.telemetry.settings import TelemetrySettings
from server.telemetry.slices.names import OTHER
from server.telemetry.slo_burn import KEY, SloBurn
from server.telemetry.stamps.baselines import Baselines, choice_of
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.feedback import Answered, Feedback, FeedbackItem, FeedbackResult
from server.telemetry.stamps.learned_reference import learn, learn_slices
from server.telemetry.stamps.registry import StampRegistry
from server.telemetry.stamps.stamp_state import PastCounts, StampState
from server.telemetry.store.database import open_database, set_aside
from server.telemetry.store.retention import DAY_S, ClockSteps, Retention
from server.telemetry.store.store import Store
from server.telemetry.store.write_journal import Journal, JournalEntry

logger = logging.getLogger(__name__)

DISTRUST_S = 86400.0  # for this long after a step of the clock, no row expires because of its age
BURN_EVERY_S = 5.0  # time between checks of the latency objective
SHOWN_PREDICTIONS = 10  # predictions in the change feed for each `feed_interval_s`
Clock = Callable[[], float]


@dataclass(eq=False)
class TelemetryWriter:
    """`clock` is unix seconds, `monotonic` paces the work. `stepped` is called for every step of an
    alert, `sampled` for every payload that is kept."""

    settings: TelemetrySettings
    changes: ChangeFeed
    clock: Clock
    monotonic: Clock
    stepped: Callable[[Transition], None]
    sampled: Callable[[Record, float], None]

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.settings.sample_share, self.settings.sample_bytes)
        self.alerts = AlertService(lambda: self.store, self._attempt, self.changes, self.stepped)
        self.annotations = Annotations(lambda: self.store, self._attempt, self.changes)
        self.burn = SloBurn(self.settings.slo_ms)
        self.cut = CutShare()
        self._next_burn = -math.inf
        self._shown = 0
        self._steps = ClockSteps(self.settings.speed)
        self._distrusted_until = -math.inf  # on the monotonic clock
        self._baseline = choice_of(self.settings.baseline)
        self._begin()
        self.alerts.restore(self.clock())
        self.annotations.restore()

    def _begin(self) -> None:
        now = self.clock()
        opened = open_database(self.settings.folder, now)
        self.opening_trouble = opened.trouble
        self.store = Store(opened)
        past = PastCounts(self._past, lambda stamp, hour: self.counting.past_embedding(stamp, hour))
        self.states = StampRegistry(self.store, past, self.settings.tick_s)
        self.counting = Counting(self.store, self.states)
        self.journal = Journal(self.store, self.monotonic, self.settings.payload_keys)
        self.feedback = Feedback(self.store, self._measured)
        self._baselines = Baselines(self._baseline, self.store, self.counting)
        self.evaluation = Evaluation(self.states, self.counting, self._baselines, self.cut)
        self._retention = Retention(self.store, self.settings.limits)
        with self.store.transaction():
            again = recount(self.store, self.states, self.counting, self.feedback, now)
            self.counting.settle(now)
        # Otherwise sums stored before the next row arrives would be counted again at the next
        # start.
        self.journal.last_rows = {day: self.store.last_row(day) for day in self.store.days()}
        self.states.restore(now)
        if again:
            logger.info("telemetry: %d predictions counted again", again)
        self.bytes = self.store.bytes()
        mono = self.monotonic()
        self._next_flush = mono + self.settings.flush_s
        self._next_sweep = mono + min(60.0, self.settings.sweep_s)
        self._next_size = mono
        self._next_feed = mono
        self._last_tick = int(now // self.settings.tick_s)

    def write(self, batch: list[Queued]) -> None:
        now = self.clock()
        for record, schema in batch:
            if record.stamp not in self.states:
                self._safely(partial(self._meet, record.stamp, schema, now))
        records = [record for record, _ in batch]
        self.counting.add(records, now)
        self.burn.add(records, now)
        self.cut.add(records, now)
        self.journal.add([self._entry(record) for record in records])
        self._safely(self.journal.write)

    def idle(self) -> None:
        mono, now = self.monotonic(), self.clock()
        if moved := self._steps.step(now, mono):
            logger.warning("telemetry: the clock was set by %+.1f h", moved / HOUR_S)
            self._distrusted_until = mono + DISTRUST_S
        self._safely(self.journal.write)
        if mono >= self._next_feed:
            self._next_feed = mono + self.settings.feed_interval_s
            if not self.store.there:
                self._restart_store("was removed or replaced while in use", aside=False)
            self.counting.settle(now)
            self.changes.note(self.counting.fresh_latency())
            self._shown = 0
        if mono >= self._next_burn:
            self._next_burn = mono + BURN_EVERY_S
            self._judge_burn(now)
        tick = int(now // self.settings.tick_s)
        if tick != self._last_tick:
            self._last_tick = tick
            self.tick(now)
        if mono >= self._next_flush:
            self._next_flush = mono + self.settings.flush_s
            self.flush()
        if mono >= self._next_size:
            self._next_size = mono + self.settings.size_s
            self._safely(self._fit)
        if mono >= self._next_sweep:
            self._next_sweep = mono + self.settings.sweep_s
            self._safely(self._sweep)

    def close(self) -> None:
        self._safely(self.journal.last_try)
        self.flush()
        self._safely(self._checkpoint)
        self.store.close()

    def tick(self, now: float) -> None:
        """Evaluate everything once; tests call it with their own clock."""
        self.counting.settle(now)
        self.evaluation.tick(now)
        self.alerts.retire({state.bundle.stamp for state in self.evaluation.serving(now)}, now)
        self.report([*self.evaluation.findings, self._own_finding()])
        self.changes.note(self.evaluation.rows)
        self.changes.note(self.evaluation.sums(now))
        kept = self.evaluation.worth_keeping(now)
        self._attempt(lambda: self.store.judgements.put_drift(kept))

    def _judge_burn(self, now: float) -> None:
        """Check the burn rate, more often than a tick, as a person waits for it. A quiet result is
        reported only to an open alert."""
        finding = self.burn.finding(now)
        open_ = any(r.key == KEY and r.state != "resolved" for r in self.alerts.book.rows())
        if finding.severity or open_:
            self.report([finding])

    def report(self, findings: Iterable[Finding]) -> None:
        """Take findings from any source, including the server's own (readiness, skew, latency)."""
        self.alerts.report(findings, self.clock())

    def flush(self) -> None:
        """Store all sums and their progress in one transaction."""
        self.counting.settle(self.clock())
        if self.journal.waiting:
            return  # sums of rows that are not stored yet would be counted twice after a restart

        def work() -> None:
            self.counting.flush()
            counted = {**self.journal.last_rows, FEEDBACK: self.feedback.last_id()}
            self.store.set_counted(counted)

        if self._attempt(work):
            self.journal.well()  # sums were really written: on a quiet server no row would show it
            self.counting.written(self.clock())
            self.bytes = self.store.bytes()
        self.alerts.keep()
        self.annotations.keep()

    def learn(self) -> None:
        """Learn references for stamps and slices without one, once there is enough traffic."""
        now = self.clock()
        self.counting.settle(now)
        for state in list(self.states.values()):
            if state.reference.learning and state.bundle.schema:
                learnt = learn(state, self.store, now)
                if learnt is not None:
                    self.adopt(replace(state.bundle, reference=learnt))
                    logger.info("telemetry: learned a reference for %s", state.bundle.stamp[:12])
            elif (slices := learn_slices(state, self.store, self.counting, now)) is not None:
                state.learnt = slices
                self._baselines.forget(state.bundle.stamp)

    def _sweep(self) -> None:
        self.bytes = self.store.bytes()
        self.learn()
        gone = self._retention.sweep(self.clock(), not self._distrusted)
        if gone:
            logger.info("telemetry: removed %s", ", ".join(gone))
        self._checkpoint()

    def _fit(self) -> None:
        if gone := self._retention.fit(self.clock()):
            self.bytes = self.store.bytes()
            logger.debug("telemetry: the size limit removed %s", ", ".join(gone))

    def _checkpoint(self) -> None:
        self.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def adopt(self, bundle: BundleFiles) -> None:
        """Take over a bundle. Raises ReferenceRefused or ObjectiveRefused."""
        bundle = self.states.with_learnt(bundle)
        known = self.states.find(bundle.stamp)
        if known is not None and known.bundle != bundle:
            self.flush()
            self.counting.forget(bundle.stamp)
            self._baselines.forget(bundle.stamp)
        self._show_features(self.states.adopt(bundle, self.clock()))

    def take_feedback(self, items: list[FeedbackItem]) -> list[FeedbackResult]:
        # The second attempt follows a first one that only set rows aside.
        if not self.journal.write() and not self.journal.write():
            # Its predictions may be among the waiting rows, so they must not be reported as
            # unknown.
            raise sqlite3.OperationalError(self.journal.trouble or "predictions wait to be written")
        return self.feedback.take(items, self.clock())

    def annotate(self, row: AnnotationRow) -> AnnotationRow:
        if row.removed:
            return self.annotations.remove(row.id, row.actor)
        row = replace(row, made_unix_ms=int(self.clock() * 1000))
        oldest_s = self.clock() - self.settings.limits.history_days * DAY_S
        return self.annotations.add(row, int(oldest_s * 1000))

    def notes(self) -> dict[str, str]:
        """Further facts about telemetry itself, by subject."""
        found = {}
        if self.counting.malformed:
            found["malformed"] = f"{self.counting.malformed} records with features of no schema"
        if self._distrusted:
            found["clock"] = "the clock was set: no row expires by age for a day"
        turned_away = sum(state.slices.turned_away for state in list(self.states.values()))
        if turned_away:
            found["slices"] = f"{turned_away} tag values counted as {OTHER}"
        return found

    @property
    def _distrusted(self) -> bool:
        return self.monotonic() < self._distrusted_until

    def _entry(self, record: Record) -> JournalEntry:
        choice = self._sampler.choose(record, self.alerts.concerns(record))
        if choice.keep:
            self.sampled(record, choice.probability)
        if (choice.keep or record.error) and self._shown < SHOWN_PREDICTIONS:
            self._shown += 1
            # Without the payload: the feed keeps hundreds of rows until newer ones replace them.
            shown = replace(record, payload=b"")
            self.changes.note([PredictionRow(shown, choice.keep, choice.probability)])
        return JournalEntry(record, choice)

    def _meet(self, stamp: str, schema: tuple[FeatureSpec, ...], now: float) -> None:
        self._show_features(self.states.meet(stamp, schema, now))

    def _own_finding(self) -> Finding:
        if not (trouble := self.trouble):
            return Finding("telemetry/store", "telemetry", "", "")
        return Finding("telemetry/store", "telemetry", "high", f"telemetry degraded: {trouble}")

    @property
    def trouble(self) -> str:
        """Why rows are not stored, or not in the configured folder; "" if they are."""
        return self.journal.trouble or self.opening_trouble

    def _attempt(self, work: Callable[[], object]) -> bool:
        """Run work on the store in a transaction; False if the store refused it."""

        def whole() -> None:
            with self.store.transaction():
                work()

        return self._safely(whole)

    def _safely(self, work: Callable[[], object]) -> bool:
        """True if it worked. With a full or locked disk it is tried again later; a damaged file is
        set aside and a new one created."""
        try:
            work()
        except sqlite3.OperationalError as fault:
            self.journal.refused(fault)
            return False
        except sqlite3.DatabaseError as fault:
            self._restart_store(f"was damaged: {fault}")
            return False
        return True

    def _restart_store(self, why: str, aside: bool = True) -> None:
        logger.error("telemetry: started a new file; the old one %s", why)
        bundles = [state.bundle for state in self.states.values()]
        lost = self.journal.counters
        self.store.close()
        if aside:
            with suppress(OSError):  # opening it then fails too, and a temporary one is used
                set_aside(self.settings.folder, self.clock(), why)
        self._begin()
        self.journal.counters = lost
        self.opening_trouble = self.opening_trouble or f"started a new file; the old one {why}"
        for bundle in bundles:
            self.states.adopt(bundle, self.clock())

    def _show_features(self, state: StampState) -> None:
        self.changes.note(state.feature_rows())

    def _past(self, stamp: str, layout: BinLayout, hour: int) -> dict[str, Ints]:
        return self.counting.past(stamp, layout, hour)

    def _measured(self, answered: Answered) -> tuple[Yardstick, list[QualityCounts]]:
        state = self.states.find(answered.stamp) or self.states.meet(
            answered.stamp, (), answered.at
        )
        hour = int(answered.at // HOUR_S) * HOUR_S
        names = ["", *state.slices.known(json.loads(answered.slices))]
        return state.stick, [
            self.counting.quality.change((answered.stamp, hour, name)) for name in names
        ]
