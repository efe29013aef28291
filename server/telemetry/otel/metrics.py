"""Counts as the SDK's metric data, and the thread that sends them.

It does not use the SDK's instruments (histogram.py explains why); it uses its data model, exporters
and environment variables unchanged. Imported only when metrics are sent somewhere.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from server.telemetry.otel.histogram import SCALE, Attributes, Point, trimmed
from server.telemetry.otel.metric_definitions import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    SCHEMA_URL,
    MetricDefinition,
)
from server.telemetry.otel.snapshot import Collect, MetricSnapshot, by_name

SCOPE = "trefoil.server"
NO_BUCKETS = Buckets(0, ())
NOTHING = Point(0, 0.0, 0.0, 0.0, 0, (), (), (), ())

Key = tuple[str, str, Attributes]  # stamp, metric, attributes


@dataclass(frozen=True, slots=True)
class Form:
    """The form that the receiver requires."""

    delta: bool = False
    explicit_buckets: bool = False


class Rendering:
    """Turns counts into metric data for one receiver, and remembers what was last sent."""

    def __init__(self, form: Form, version: str, clock_ns: Callable[[], int]) -> None:
        self._form = form
        self._scope = InstrumentationScope(SCOPE, version, SCHEMA_URL)
        self._clock_ns = clock_ns
        self._resources: dict[Attributes, Resource] = {}
        self._points: dict[Key, Point] = {}
        self._sums: dict[Key, float] = {}
        self._sent_unix_ns: dict[str, int] = {}  # stamp -> time of the last export
        wanted = AggregationTemporality
        self._temporality = wanted.DELTA if form.delta else wanted.CUMULATIVE

    def data(self, counts: Sequence[MetricSnapshot]) -> MetricsData:
        now_ns = self._clock_ns()
        found = MetricsData([self._of_resource(count, now_ns) for count in counts])
        self._sent_unix_ns = {count.stamp: now_ns for count in counts}
        self._forget({count.stamp for count in counts})
        return found

    def _of_resource(self, count: MetricSnapshot, now_ns: int) -> ResourceMetrics:
        resource = self._resources.get(count.about)
        if resource is None:
            resource = self._resources[count.about] = Resource.create(dict(count.about), SCHEMA_URL)
        metrics = [*self._histograms(count, now_ns), *self._sums_of(count, now_ns)]
        metrics += self._gauges(count, now_ns)
        scope = ScopeMetrics(self._scope, metrics, SCHEMA_URL)
        return ResourceMetrics(resource, [scope], SCHEMA_URL)

    def _start_ns(self, count: MetricSnapshot) -> int:
        if not self._form.delta:
            return count.start_unix_ns
        return self._sent_unix_ns.get(count.stamp, count.start_unix_ns)

    def _histograms(self, count: MetricSnapshot, now_ns: int) -> Iterable[Metric]:
        start_ns = self._start_ns(count)
        for name, points in by_name(count.histograms).items():
            news = [self._news(count.stamp, *point) for point in points]
            pairs = [(p.attributes, new) for p, new in zip(points, news, strict=True) if new.n]
            if not pairs:
                continue
            data: Histogram | ExponentialHistogram
            if self._form.explicit_buckets:
                explicit = [_explicit(at, new, start_ns, now_ns) for at, new in pairs]
                data = Histogram(explicit, self._temporality)
            else:
                exponential = [_exponential(at, new, start_ns, now_ns) for at, new in pairs]
                data = ExponentialHistogram(exponential, self._temporality)
            yield _metric(name, HISTOGRAMS[name], data)

    def _news(self, stamp: str, name: str, attributes: Attributes, point: Point) -> Point:
        """The point to send: exemplars are sent once; a delta starts at the previous export."""
        key = (stamp, name, attributes)
        before = self._points.get(key, NOTHING)
        self._points[key] = point
        exemplars = [one for one in point.exemplars if one not in before.exemplars]
        if not self._form.delta or before is NOTHING:
            return point._replace(exemplars=exemplars)
        return Point(
            point.n - before.n,
            point.sum - before.sum,
            math.nan,  # unknown for one interval
            math.nan,
            point.zeros - before.zeros,
            [now - then for now, then in zip(point.counts, before.counts, strict=True)],
            point.bounds,
            [now - then for now, then in zip(point.bounded, before.bounded, strict=True)],
            exemplars,
        )

    def _sums_of(self, count: MetricSnapshot, now_ns: int) -> Iterable[Metric]:
        start_ns = self._start_ns(count)
        for name, points in by_name(count.counters).items():
            found = []
            for point in points:
                key = (count.stamp, name, point.attributes)
                before = self._sums.get(key, 0) if self._form.delta else 0
                self._sums[key] = point.value
                value = point.value - before
                found.append(NumberDataPoint(dict(point.attributes), start_ns, now_ns, value))
            yield _metric(name, COUNTERS[name], Sum(found, self._temporality, is_monotonic=True))

    def _gauges(self, count: MetricSnapshot, now_ns: int) -> Iterable[Metric]:
        for name, readings in by_name(count.readings).items():
            found = [
                NumberDataPoint(dict(reading.attributes), 0, now_ns, reading.value)
                for reading in readings
            ]
            yield _metric(name, GAUGES[name], Gauge(found))

    def _forget(self, stamps: set[str]) -> None:
        """Forget what was sent for stamps that are no longer counted."""
        self._points = {key: one for key, one in self._points.items() if key[0] in stamps}
        self._sums = {key: one for key, one in self._sums.items() if key[0] in stamps}


@dataclass(eq=False)
class Publisher:
    """Sends the metrics every `interval_s` from a separate thread, and once more at the end."""

    exporter: Any
    rendering: Rendering
    collect: Collect
    interval_s: float

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._one = threading.Lock()  # an exporter is never called twice at once
        self._thread = threading.Thread(target=self._run, name="otel-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self) -> None:
        with self._one:
            self.exporter.export(self.rendering.data(self.collect()))

    def end(self, timeout_s: float) -> None:
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ended.wait(self.interval_s):
            self.publish()


def rendering_of(form: Form, version: str) -> Rendering:
    return Rendering(form, version, time.time_ns)


def _exponential(
    attributes: Attributes, point: Point, start_ns: int, now_ns: int
) -> ExponentialHistogramDataPoint:
    offset, counts = trimmed(point.counts)
    return ExponentialHistogramDataPoint(
        scale=SCALE,
        zero_count=point.zeros,
        positive=Buckets(offset, counts),
        negative=NO_BUCKETS,
        flags=0,
        **_common(attributes, point, start_ns, now_ns),
    )


def _explicit(
    attributes: Attributes, point: Point, start_ns: int, now_ns: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        bucket_counts=point.bounded,
        explicit_bounds=point.bounds,
        **_common(attributes, point, start_ns, now_ns),
    )


def _common(attributes: Attributes, point: Point, start_ns: int, now_ns: int) -> dict[str, Any]:
    """The fields of both forms. Fields that are None are not sent."""
    exemplars = [
        Exemplar({}, one.value, one.unix_ns, one.span_id, one.trace_id) for one in point.exemplars
    ]
    return {
        "attributes": dict(attributes),
        "start_time_unix_nano": start_ns,
        "time_unix_nano": now_ns,
        "count": point.n,
        "sum": point.sum,
        "min": None if math.isnan(point.min) else point.min,
        "max": None if math.isnan(point.max) else point.max,
        "exemplars": exemplars,
    }


def _metric(name: str, described: MetricDefinition, data: Any) -> Metric:
    return Metric(name, described.description, described.unit, data)
