"""All metrics at one moment, as plain data for the scrape endpoint and the exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.histogram import Attributes
from server.telemetry.otel.metric_store import CounterPoint, HistogramPoint


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """The metrics of one resource, which `about` describes: this server serving one stamp."""

    about: Attributes
    stamp: str
    start_unix_ns: int
    histograms: Sequence[HistogramPoint]
    counters: Sequence[CounterPoint]
    readings: Sequence[GaugeReading]


class NamedPoint(Protocol):
    @property
    def name(self) -> str: ...


Collect = Callable[[], Sequence[MetricSnapshot]]
N = TypeVar("N", bound=NamedPoint)


def by_name(points: Iterable[N]) -> dict[str, list[N]]:
    """The points of each metric, in the order in which the metrics first appear."""
    found: dict[str, list[N]] = {}
    for point in points:
        found.setdefault(point.name, []).append(point)
    return found
