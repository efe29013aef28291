"""Exporters that leave spans, events and metric points as rows for the one writer of a database.

They only make tuples and put them into a bounded queue; what does not fit is a FAILURE, at once.
No lock is taken and no database is touched here. Imported only when a sink is given.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

# Ids as hex, times in unix nanoseconds, attributes as a JSON object.
TABLES = (
    "CREATE TABLE IF NOT EXISTS otel_span (trace_id TEXT NOT NULL, span_id TEXT NOT NULL, "
    "parent_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, start_ns INTEGER NOT NULL, "
    "end_ns INTEGER NOT NULL, status TEXT NOT NULL, attributes TEXT NOT NULL, "
    "PRIMARY KEY (trace_id, span_id))",
    "CREATE TABLE IF NOT EXISTS otel_event (at_ns INTEGER NOT NULL, name TEXT NOT NULL, "
    "severity TEXT NOT NULL, body TEXT NOT NULL, trace_id TEXT NOT NULL, span_id TEXT NOT NULL, "
    "attributes TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS otel_event_trace ON otel_event (trace_id)",
    "CREATE TABLE IF NOT EXISTS otel_point (start_ns INTEGER NOT NULL, at_ns INTEGER NOT NULL, "
    "stamp TEXT NOT NULL, name TEXT NOT NULL, attributes TEXT NOT NULL, value REAL, count INTEGER, "
    "sum REAL, buckets TEXT)",
    "CREATE INDEX IF NOT EXISTS otel_point_name ON otel_point (name, at_ns)",
)
INSERT_SPAN = "INSERT OR REPLACE INTO otel_span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_EVENT = "INSERT INTO otel_event VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_POINT = "INSERT INTO otel_point VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """For `executemany(insert, rows)` in one transaction. The writer sets `written`, where there
    is one, when everything put before it is in the database."""

    insert: str
    rows: Sequence[tuple[Cell, ...]]
    written: threading.Event | None = None


class Sink(Protocol):
    """A bounded queue.Queue, or what behaves like one: raises queue.Full instead of waiting."""

    def put_nowait(self, item: Batch, /) -> None: ...


class _Outlet:
    """What the three exporters share: a sink until they are shut down."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open = True

    def put(self, insert: str, rows: Sequence[tuple[Cell, ...]]) -> bool:
        if not self._open:
            return False
        try:
            self._sink.put_nowait(Batch(insert, rows))
        except queue.Full:
            return False
        return True

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was put is in the database now."""
        written = threading.Event()
        try:
            self._sink.put_nowait(Batch("", (), written))
        except queue.Full:
            return False
        return written.wait(timeout_s)

    def close(self) -> None:
        self._open = False


class SqliteSpanExporter(SpanExporter):
    def __init__(self, sink: Sink) -> None:
        self._outlet = _Outlet(sink)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        done = self._outlet.put(INSERT_SPAN, [_span_row(span) for span in spans])
        return SpanExportResult.SUCCESS if done else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._outlet.flush(timeout_millis / 1e3)

    def shutdown(self) -> None:
        self._outlet.close()


class SqliteEventExporter(LogRecordExporter):
    def __init__(self, sink: Sink) -> None:
        self._outlet = _Outlet(sink)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        done = self._outlet.put(INSERT_EVENT, [_event_row(record) for record in batch])
        return LogRecordExportResult.SUCCESS if done else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._outlet.flush(timeout_millis / 1e3)

    def shutdown(self) -> None:
        self._outlet.close()


class SqliteMetricExporter(MetricExporter):
    """Wants deltas: rows of different times then simply add up."""

    def __init__(self, sink: Sink) -> None:
        delta = AggregationTemporality.DELTA
        super().__init__(
            preferred_temporality={Counter: delta, ObservableCounter: delta, Histogram: delta}
        )
        self._outlet = _Outlet(sink)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> MetricExportResult:
        rows = list(_point_rows(metrics_data))
        done = self._outlet.put(INSERT_POINT, rows)
        return MetricExportResult.SUCCESS if done else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._outlet.flush(timeout_millis / 1e3)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self._outlet.close()


def _span_row(span: ReadableSpan) -> tuple[Cell, ...]:
    context = span.context
    assert context is not None
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent else "",
        span.name,
        span.kind.name,
        span.start_time,
        span.end_time,
        span.status.status_code.name,
        _json(span.attributes),
    )


def _event_row(readable: ReadableLogRecord) -> tuple[Cell, ...]:
    record = readable.log_record
    return (
        record.timestamp or record.observed_timestamp,
        record.event_name or "",
        record.severity_text or "",
        str(record.body or ""),
        f"{record.trace_id:032x}" if record.trace_id else "",
        f"{record.span_id:016x}" if record.span_id else "",
        _json(record.attributes),
    )


def _point_rows(data: MetricsData) -> Iterator[tuple[Cell, ...]]:
    for of_resource in data.resource_metrics:
        stamp = str(of_resource.resource.attributes.get("trefoil.stamp", ""))
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    yield (
                        point.start_time_unix_nano,
                        point.time_unix_nano,
                        stamp,
                        metric.name,
                        _json(point.attributes),
                        *_values(point),
                    )


def _values(point: Any) -> tuple[float | None, int | None, float | None, str | None]:
    """(value, count, sum, buckets): the first of a number, the others of a histogram."""
    if isinstance(point, NumberDataPoint):
        return (point.value, None, None, None)
    buckets: dict[str, object]
    if isinstance(point, ExponentialHistogramDataPoint):
        positive = point.positive
        buckets = {
            "scale": point.scale,
            "zeros": point.zero_count,
            "offset": positive.offset,
            "counts": list(positive.bucket_counts),
        }
    else:
        assert isinstance(point, HistogramDataPoint)
        bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
        buckets = {"bounds": bounds, "counts": counts}
    return (None, point.count, point.sum, _json(buckets))


def _json(values: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(values or {}), separators=(",", ":"))
