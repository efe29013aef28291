"""A histogram family in the form of Prometheus' library, with the exponential buckets added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Exemplar

from server.telemetry.otel.histogram import HistogramExemplar, Point


@dataclass(frozen=True, slots=True)
class Bucket:
    """A classic bucket: how many values are at most `high`, and the latest exemplar above the
    previous bucket."""

    high: float
    count: int
    exemplar: Exemplar | None


@dataclass(frozen=True, slots=True)
class LabelledPoint:
    labels: Mapping[str, str]
    buckets: Sequence[Bucket]
    point: Point


class HistogramFamily(HistogramMetricFamily):
    """Its samples are the classic buckets, for the text formats; `points` has the exponential
    ones."""

    def __init__(self, name: str, about: str, labels: Sequence[str], unit: str) -> None:
        super().__init__(name, about, labels=labels, unit=unit)
        self._label_names = labels
        self.points: list[LabelledPoint] = []

    def add(self, values: Sequence[str], point: Point) -> None:
        """`values` are those of the labels, in order."""
        labels = dict(zip(self._label_names, values, strict=True))
        buckets = list(_buckets(point))
        self.points.append(LabelledPoint(labels, buckets, point))
        self.add_metric(values, [_as_text(one) for one in buckets], point.sum)


def _as_text(bucket: Bucket) -> tuple[str, float] | tuple[str, float, Exemplar]:
    name = "+Inf" if bucket.high == float("inf") else str(bucket.high)
    if bucket.exemplar is None:
        return name, bucket.count
    return name, bucket.count, bucket.exemplar


def _buckets(point: Point) -> Iterable[Bucket]:
    """Cumulative buckets, as the format requires."""
    total, low = 0, -1.0
    for high, count in zip((*point.bounds, float("inf")), point.bounded, strict=True):
        total += count
        yield Bucket(high, total, _latest(point.exemplars, low, high))
        low = high


def _latest(exemplars: Sequence[HistogramExemplar], low: float, high: float) -> Exemplar | None:
    inside = [one for one in exemplars if low < one.value <= high]
    if not inside:
        return None
    last = max(inside, key=lambda one: one.unix_ns)
    labels = {"trace_id": f"{last.trace_id:032x}", "span_id": f"{last.span_id:016x}"}
    return Exemplar(labels, last.value, last.unix_ns / 1e9)
