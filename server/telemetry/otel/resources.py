"""A place for each counted stamp, and one for the server itself. Each has a metric store, and the
resource of its spans and events. The stamp is part of the resource, so nothing is recorded under
the wrong stamp."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.histogram import Attributes
from server.telemetry.otel.metric_store import CounterPoint, MetricStore
from server.telemetry.otel.snapshot import MetricSnapshot

MOST_STAMPS = 4  # stamps counted at once while deploys follow each other


@dataclass(frozen=True, slots=True)
class ServedStamp:
    """What the server serves now; `stamp` is empty before anything is served."""

    stamp: str = ""
    name: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    about: Attributes
    stamp: str
    start_unix_ns: int
    model: str  # the stamp's name; "" if unknown
    store: MetricStore
    tracer: Any  # None while traces are off
    logger: Any  # None while logs are off


# From the attributes of a resource to its tracer and its logger.
Openers = Callable[[Mapping[str, str]], tuple[Any, Any]]


@dataclass(eq=False)
class StampResources:
    about: Mapping[str, str]
    methods: Collection[str]
    openers: Openers

    def __post_init__(self) -> None:
        self.still = threading.Lock()  # guards _places and every metric store in it
        self.served = ServedStamp()
        self._own: Place | None = None  # created when it is first needed
        self._places: dict[str, Place] = {}  # most recently used last

    def place(self, stamp: str) -> Place:
        """The place of a stamp; "" is the server's own. Hold `still`."""
        if not stamp:
            self._own = self._own or self._open("")
            return self._own
        place = self._places.pop(stamp, None) or self._open(stamp)
        self._places[stamp] = place
        if len(self._places) > MOST_STAMPS:
            del self._places[next(iter(self._places))]
        return place

    def counts(
        self,
        sums: Sequence[CounterPoint],
        state: Sequence[GaugeReading],
        judged: Sequence[GaugeReading],
    ) -> list[MetricSnapshot]:
        """All counts. `sums` and `state` belong to the server, `judged` to the serving stamp, which
        comes last."""
        with self.still:
            mine, now = self.place(""), self.place(self.served.stamp)
            if now is mine:
                judged, state = (), [*state, *judged]
            own = _count(mine, sums, state)
            rest = [_count(place, (), judged if place is now else ())
                    for place in self._places.values()]  # fmt: skip
            return [own, *rest]

    def _open(self, stamp: str) -> Place:
        served = self.served if stamp == self.served.stamp else ServedStamp(stamp)
        about = dict(self.about)
        if stamp:
            about["trefoil.stamp"] = stamp
        if served.name:
            about["trefoil.stamp.name"] = served.name
        tracer, logger = self.openers(about)
        return Place(
            about=tuple(sorted(about.items())),
            stamp=stamp,
            start_unix_ns=time.time_ns(),
            model=served.name,
            store=MetricStore(self.methods, served.labels, served.name, begins_at_zero=bool(stamp)),
            tracer=tracer,
            logger=logger,
        )


def _count(
    place: Place, sums: Sequence[CounterPoint], readings: Sequence[GaugeReading]
) -> MetricSnapshot:
    return MetricSnapshot(
        about=place.about,
        stamp=place.stamp,
        start_unix_ns=place.start_unix_ns,
        histograms=list(place.store.histograms()),
        counters=[*place.store.counters(), *sums],
        readings=readings,
    )
