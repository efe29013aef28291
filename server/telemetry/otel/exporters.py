"""The OTLP exporters, configured by OpenTelemetry's environment variables.

Every exporter counts what it loses, and ends in time, whatever its receiver does. Imported only
when something is exported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from server.telemetry.otel.configuration import OtelConfiguration, QueueLimits
from server.telemetry.otel.metrics import Form, Publisher, rendering_of
from server.telemetry.otel.snapshot import Collect

FAILURES = {
    "traces": SpanExportResult.FAILURE,
    "logs": LogRecordExportResult.FAILURE,
    "metrics": MetricExportResult.FAILURE,
}
NOBODY_WAITS = QueueLimits(0, 0)  # metrics are read when they are sent


class CountedExporter:
    """One exporter of any signal. `refused`: there was no room. `failed`: the receiver did not
    accept it. For metrics both count whole exports.

    The SDK's queue drops its oldest items without counting; this class refuses before that queue is
    full.
    """

    def __init__(self, exporter: Any, signal: str, waiting: QueueLimits) -> None:
        self.signal = signal
        self.waiting = waiting
        self.refused = 0  # written by the draining thread
        self.failed = 0  # written by the exporting thread
        self._exporter = exporter
        self._given = 0
        self._taken = 0
        self._ended = False

    def admits(self) -> bool:
        if self._given - self._taken >= self.waiting.most:
            self.refused += 1
            return False
        self._given += 1
        return True

    def export(self, batch: Any, **options: Any) -> Any:
        size = 1 if self.signal == "metrics" else len(batch)
        self._taken += size
        result = self._sent(batch, options)
        if result.name != "SUCCESS":
            self.failed += size
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))

    def shutdown(self, **_: Any) -> None:
        """Idempotent. It also ends an export that is waiting for its receiver."""
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()

    def _sent(self, batch: Any, options: Mapping[str, Any]) -> Any:
        if self._ended:
            return FAILURES[self.signal]
        try:
            return self._exporter.export(batch, **options)
        except ValueError:
            if not self._ended:
                raise
            return FAILURES[self.signal]  # its channel was closed meanwhile


class _Gate:
    """Passes on only what its exporter has room for."""

    def __init__(self, watched: CountedExporter, batches: Callable[..., Any]) -> None:
        self._watched = watched
        self._batches = batches(
            watched,
            max_queue_size=watched.waiting.most,
            max_export_batch_size=watched.waiting.batch,
        )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._batches.force_flush(timeout_millis))

    def shutdown(self) -> None:
        self._batches.shutdown()


class SpanGate(_Gate, SpanProcessor):
    def __init__(self, watched: CountedExporter) -> None:
        super().__init__(watched, BatchSpanProcessor)

    def on_end(self, span: ReadableSpan) -> None:
        if self._watched.admits():
            self._batches.on_end(span)


class EventGate(_Gate, LogRecordProcessor):
    def __init__(self, watched: CountedExporter) -> None:
        super().__init__(watched, BatchLogRecordProcessor)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if self._watched.admits():
            self._batches.on_emit(log_record)


@dataclass(slots=True)
class Exports:
    """All exporters of one server."""

    watched: list[CountedExporter] = field(default_factory=list)
    spans: list[SpanGate] = field(default_factory=list)
    events: list[EventGate] = field(default_factory=list)
    publishers: list[Publisher] = field(default_factory=list)

    def start(self) -> None:
        for publisher in self.publishers:
            publisher.start()

    def lost(self) -> dict[str, int]:
        """Items that were not exported since start, by signal."""
        found: dict[str, int] = {}
        for one in self.watched:
            found[one.signal] = found.get(one.signal, 0) + one.refused + one.failed
        return found

    def close(self, timeout_s: float) -> None:
        """Send the remaining items for at most `timeout_s`, then end every thread."""
        flushes: list[Callable[[], object]] = [one.force_flush for one in self.spans]
        flushes += [one.force_flush for one in self.events]
        flushes += [one.publish for one in self.publishers]
        threads = [threading.Thread(target=flush, daemon=True) for flush in flushes]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for watched in self.watched:
            watched.shutdown()
        for spans in self.spans:
            spans.shutdown()
        for events in self.events:
            events.shutdown()
        for publisher in self.publishers:
            publisher.end(timeout_s)
        for thread in threads:
            thread.join(timeout_s)


def exports_of(configuration: OtelConfiguration, collect: Collect, version: str) -> Exports:
    """The OTLP exporters of the configured signals."""
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    made = Exports()
    if "traces" in configuration.otlp:
        made.spans.append(
            SpanGate(_watched(made, OTLPSpanExporter(), "traces", configuration.spans))
        )
    if "logs" in configuration.otlp:
        made.events.append(
            EventGate(_watched(made, OTLPLogExporter(), "logs", configuration.events))
        )
    if "metrics" in configuration.otlp:
        rendering = rendering_of(Form(configuration.delta, configuration.explicit_buckets), version)
        watched = _watched(made, OTLPMetricExporter(), "metrics")
        made.publishers.append(
            Publisher(watched, rendering, collect, configuration.metric_interval_s)
        )
    return made


def _watched(
    made: Exports, exporter: Any, signal: str, waiting: QueueLimits = NOBODY_WAITS
) -> CountedExporter:
    watched = CountedExporter(exporter, signal, waiting)
    made.watched.append(watched)
    return watched
