"""The facade of telemetry: put records in, query the history.

`put` is on the request path. Every change goes to the one telemetry thread and waits for it; every
read opens the database itself. Any thread may call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from server.telemetry.alerts.book import Transition
from server.telemetry.alerts.command import AlertCommand
from server.telemetry.change_feed import ChangeFeed, FeedBatch
from server.telemetry.drift import reference
from server.telemetry.evaluation import quality_row
from server.telemetry.findings import Finding
from server.telemetry.quality import objective
from server.telemetry.quality.count_arrays import unpacked
from server.telemetry.record import BundleFiles, FeatureSpec, Record
from server.telemetry.recorder import Recorder
from server.telemetry.rows import (
    AlertRow,
    AnnotationRow,
    DeployRow,
    DriftRow,
    PredictionRow,
    QualityRow,
    Row,
    SilenceRow,
    TelemetryHealth,
)
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.feedback import FeedbackItem, FeedbackResult
from server.telemetry.stamps.stamp_state import StampState
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.reader import Reader
from server.telemetry.store.worst_slices import SliceSearch, SliceSearchResult, search
from server.telemetry.writer import TelemetryWriter

CLOSE_S = 10.0


class Telemetry:
    """`clock` is unix seconds and may run faster than `monotonic`, by which work is paced.

    The telemetry thread calls `alerted` for every step of an alert, and `sampled` for every payload
    kept; both must return quickly.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        alerted: Callable[[AlertRow], None] = lambda row: None,
        sampled: Callable[[Record, float], None] = lambda record, probability: None,
    ) -> None:
        """Raises ValueError when the alert command cannot be run, BadBaseline for an invalid
        baseline, and OSError or sqlite3.Error when not even a temporary folder can be written."""
        self._clock = clock
        self._alerted = alerted
        self._command = None
        if settings.on_alert:
            self._command = AlertCommand(
                settings.on_alert, about=settings.about, runbooks=settings.runbooks
            )
        self._changes = ChangeFeed()
        self._writer = TelemetryWriter(
            settings, self._changes, clock, monotonic, self._step, sampled
        )
        self._reader = Reader(lambda: self._writer.store.path, settings.payload_keys)
        self._recorder = Recorder(self._writer.write, self._writer.idle)
        self._recorder.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Writes what is queued and ends every thread. Further calls do nothing."""
        if not self._recorder.alive:
            return
        if self._recorder.close(timeout_s):
            self._writer.close()
        if self._command is not None:
            self._command.close()

    def put(self, record: Record, schema: tuple[FeatureSpec, ...] = ()) -> None:
        """Never waits, never raises. `schema` names the features of a stamp not adopted yet."""
        self._recorder.put(record, schema)

    def adopt(self, bundle: BundleFiles) -> None:
        """A bundle is about to serve. Raises ReferenceRefused or ObjectiveRefused when its files do
        not fit what it sends; then nothing has changed."""
        check(bundle)
        self._recorder.call(lambda: self._writer.adopt(bundle))

    def deployed(self, row: DeployRow) -> None:
        """Record a deploy. Does not wait."""
        self._recorder.post(lambda: self._writer.alerts.deployed(row, self._clock()))

    def report(self, findings: Iterable[Finding]) -> None:
        """Report what the server found about itself: readiness, latency, skew. Does not wait."""
        taken = list(findings)
        self._recorder.post(lambda: self._writer.report(taken))

    def feedback(self, items: Sequence[FeedbackItem]) -> list[FeedbackResult]:
        """One result for each item, in order. Raises StoreBusy, and sqlite3.Error when nothing can
        be written: then no item was stored."""
        taken = list(items)
        return self._recorder.call(lambda: self._writer.take_feedback(taken))

    def acknowledge(
        self, alert_id: str, actor: str, note: str = "", undo: bool = False
    ) -> AlertRow:
        """Raises UnknownAlert."""
        asked = (alert_id, actor, note, undo)
        return self._recorder.call(lambda: self._writer.alerts.acknowledge(*asked, self._clock()))

    def silence(self, matcher: str, until: float, actor: str, reason: str) -> SilenceRow:
        """Raises BadFilter, and ValueError when the silence would not end."""
        asked = (matcher, until, actor, reason)
        return self._recorder.call(lambda: self._writer.alerts.silence(*asked, self._clock()))

    def end_silence(self, silence_id: str) -> SilenceRow:
        """Raises UnknownAlert."""
        alerts = self._writer.alerts
        return self._recorder.call(lambda: alerts.end_silence(silence_id, self._clock()))

    def annotate(self, row: AnnotationRow) -> AnnotationRow:
        """Keep a note, or with `removed` delete the one with that id. Raises UnknownAlert and
        TooMany."""
        return self._recorder.call(lambda: self._writer.annotate(row))

    def changes(self, after: int = 0) -> FeedBatch:
        """The changes since a cursor; from 0 everything that is true now."""
        return self._changes.after(after)

    def standing(self) -> list[DriftRow | QualityRow]:
        """The latest drift and quality of every feature and slice, for metrics."""
        return self._changes.standing()

    def alerts(self) -> list[AlertRow]:
        """Open alerts first, worst first."""
        return self._recorder.call(self._writer.alerts.book.rows)

    def history(self, span: TimeSpan, kinds: Sequence[str] = ()) -> Iterator[Row]:
        """Stored rows of a span. Kinds are those of proto/observe.proto; predictions are capped."""
        yield from self._reader.history(span, kinds)
        if not kinds or "quality" in kinds:
            yield from self.qualities(span)
        if "prediction" in kinds:
            yield from self._reader.samples(span=span, limit=1000)

    def qualities(self, span: TimeSpan) -> list[QualityRow]:
        """Hourly quality, as far as it is stored; each hour measured with its own stamp's
        yardstick."""
        return self._recorder.call(lambda: self._qualities(span))

    def samples(
        self, line: str = "", span: TimeSpan | None = None, limit: int = 100, payload: bool = False
    ) -> list[PredictionRow]:
        """Samples, newest first. Raises BadFilter."""
        return self._reader.samples(line, span, limit, payload)

    def by_id(self, ids: Sequence[str], payload: bool = False) -> list[PredictionRow]:
        return self._reader.by_id(ids, payload)

    def worst_slices(self, wanted: SliceSearch, stamp: str = "") -> SliceSearchResult:
        """The worst slices of a stamp, or of the one with the latest traffic. Raises ValueError for
        an unknown measure. Takes seconds over hundreds of thousands of rows."""
        state = self._state_of(stamp)
        if state is None:
            return SliceSearchResult([], 0, False)
        return search(
            self._writer.store.path, state.bundle.stamp, state.bundle.schema, state.stick, wanted
        )

    def health(self) -> TelemetryHealth:
        recorder, journal = self._recorder, self._writer.journal
        trouble = self._writer.trouble
        if not recorder.alive:
            trouble = "the telemetry thread has ended"
        return TelemetryHealth(
            state=f"degraded: {trouble}" if trouble else "ok",
            recorded=journal.counters.written,
            dropped=recorder.dropped + recorder.lost + journal.counters.lost,
            payloads_kept=journal.counters.payloads_kept,
            payloads_dropped=recorder.payloads_dropped,
            queued=recorder.queued + journal.waiting,
            bytes=self._writer.bytes,
            notes=self._notes(),
        )

    def _notes(self) -> dict[str, str]:
        found = self._writer.notes()
        if self._recorder.payloads_dropped:
            found["payloads"] = f"{self._recorder.payloads_dropped} not kept: too many waited"
        if self._command is not None and (trouble := self._command.trouble):
            found["on-alert"] = trouble
        return found

    def _step(self, transition: Transition) -> None:
        self._alerted(transition.alert)
        if transition.page and self._command is not None:
            self._command.page(transition)

    def _state_of(self, stamp: str) -> StampState | None:
        states = self._writer.states
        if stamp:
            return self._recorder.call(lambda: states.find(stamp))
        return max(list(states.values()), key=lambda state: state.last_at, default=None)

    def _qualities(self, span: TimeSpan) -> list[QualityRow]:
        self._writer.flush()
        found = []
        for stamp, hour, name, sums in self._writer.store.sums.qualities(span.since, span.until):
            state = self._writer.states.find(stamp)
            if state is not None:
                found.append(quality_row(state, name, hour, unpacked(sums, state.stick)))
        return found


def check(bundle: BundleFiles) -> None:
    """Raises ReferenceRefused or ObjectiveRefused when a bundle's files do not fit its features and
    labels; the server calls it before a bundle serves."""
    if bundle.reference:
        reference.parse(bundle.reference, bundle.schema)
    if bundle.objective:
        objective.parse(bundle.objective, bundle.labels)
