"""OpenTelemetry for one server: the request path appends to a queue, and one thread exports.

`began`, `answered` and `ended` belong to the request path: they keep a few numbers, append to a
queue, and never wait or raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from server.telemetry.errors import ExportRefused
from server.telemetry.otel.configuration import OtelConfiguration
from server.telemetry.otel.event import alert_event, sample_event
from server.telemetry.otel.gauges import GaugeReading, gauges_of
from server.telemetry.otel.items import Alone, ObservedCall, caller_trace, row_of
from server.telemetry.otel.metric_definitions import COUNTERS, DROPPED, SCHEMA_URL
from server.telemetry.otel.metric_store import CounterPoint
from server.telemetry.otel.resources import ServedStamp, StampResources
from server.telemetry.otel.snapshot import MetricSnapshot
from server.telemetry.otel.worker import ExportWorker
from server.telemetry.record import Record
from server.telemetry.rows import AlertRow, DriftRow, QualityRow

if TYPE_CHECKING:
    from server.telemetry.otel.exporters import Exports
    from server.telemetry.otel.logs import Logs
    from server.telemetry.otel.prometheus import Exposition, ScrapeEndpoint
    from server.telemetry.otel.traces import Traces

CLOSE_S = 3.0
NOTHING_SERVED = ServedStamp()

Source = Callable[[], Iterable[DriftRow | QualityRow]]


class Instruments:
    """Loads what `configuration` switches on. `about` has the resource attributes of this server,
    `methods` the known RPCs. The draining thread calls `served`; `wall` dates calls as it dates
    records. Raises ExportRefused."""

    def __init__(
        self,
        configuration: OtelConfiguration,
        about: Mapping[str, str],
        methods: Collection[str],
        served: Callable[[], ServedStamp] = lambda: NOTHING_SERVED,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.messages: list[str] = []  # the choices, with their reasons
        self._wall = wall
        self._version = about.get("service.version", "")
        self._state: Sequence[GaugeReading] = ()
        self._source: Source = tuple
        self._exports: Exports | None = None
        self._traces: Traces | None = None
        self._logs: Logs | None = None
        self._scrape: ScrapeEndpoint | None = None
        self._resources = StampResources(about, methods, self._opened)
        if configuration.otlp:
            self._load_exports(configuration)
        self._worker = ExportWorker(self._resources, self._traces, self._logs, served)
        self._worker.start()
        if self._exports is not None:
            self._exports.start()
        self._closed = False
        self.exposition: Exposition | None = None  # for another port that shows the counts
        if configuration.scraped:
            self.exposition = self._exposition()
        if configuration.prometheus:
            self._load_scrape(configuration.prometheus)

    def _load_exports(self, configuration: OtelConfiguration) -> None:
        from server.telemetry.otel.exporters import exports_of
        from server.telemetry.otel.logs import Logs
        from server.telemetry.otel.traces import Traces, sampler_of

        self._exports = exports_of(configuration, self.collect, self._version)
        self.messages.append(
            f"OTLP: {', '.join(sorted(configuration.otlp))} ({configuration.reason})"
        )
        if self._exports.spans:
            sampler, why = sampler_of(configuration.trace_share)
            self._traces = Traces(sampler, self._exports.spans, self._version)
            self.messages.append(f"traces: {why}")
        if self._exports.events:
            self._logs = Logs(self._exports.events, self._version)

    def _load_scrape(self, address: str) -> None:
        from server.telemetry.otel.prometheus import ScrapeEndpoint

        try:
            self._scrape = ScrapeEndpoint(address, self.collect)
        except ExportRefused:
            self.close(0.0)
            raise
        self.messages.append(f"metrics on http://{self._scrape.address}/metrics")

    def _exposition(self) -> Exposition:
        from server.telemetry.otel.prometheus import Exposition

        return Exposition(self.collect)

    def _opened(self, about: Mapping[str, str]) -> tuple[Any, Any]:
        if self._exports is None:
            return None, None
        from opentelemetry.sdk.resources import Resource

        resource = Resource.create(dict(about), SCHEMA_URL)
        tracer = self._traces.tracer(resource) if self._traces is not None else None
        logger = self._logs.logger(resource) if self._logs is not None else None
        return tracer, logger

    # The request path, up to and including `ended`.
    def began(
        self, method: str, trace_parent: str = "", trace_state: str = "", streamed: bool = False
    ) -> ObservedCall:
        """`method` is package.Service/Method; the other arguments are as in W3C Trace Context."""
        call = ObservedCall(method, int(self._wall() * 1e9), streamed=streamed)
        if self._traces is not None:
            call.caller = caller_trace(trace_parent, trace_state)
            call.trace = None if streamed else self._traces.begin(call.caller)
        return call

    def answered(self, record: Record, call: ObservedCall | None = None) -> Record:
        """Returns the record to keep, with the id of the trace that was made for it."""
        row = row_of(record)
        trace = None
        if call is not None and not call.streamed:
            call.rows.append(row)
            trace = call.trace
        else:
            if call is not None and self._traces is not None:
                trace = self._traces.begin(call.caller)
            self._worker.put(Alone(row, call, trace))
        if trace is not None and trace.sampled and not record.trace_id:
            return replace(record, trace_id=trace.hex)
        return record

    def ended(self, call: ObservedCall, status: str, took_s: float) -> None:
        """Call it after the last `answered` of the call. `status` is a gRPC status name."""
        call.status, call.took_s = status, took_s
        self._worker.put(call)

    # From any thread.
    def saw(self, state: Sequence[GaugeReading]) -> None:
        """Note the state of the server; call it as often as the state is read."""
        self._state = state

    def listens(self, address: str) -> None:
        """Set the address that spans give for the server."""
        if self._traces is not None:
            self._traces.address = address

    def follow(self, source: Source) -> None:
        """Set the source of drift and value. The exporter's thread calls it at every export and
        scrape, so it must be quick and thread-safe."""
        self._source = source

    def alerted(self, row: AlertRow) -> None:
        """An alert has changed its state."""
        self._worker.put(alert_event(row))

    def sampled(self, record: Record, probability: float) -> None:
        """The payload of a prediction is kept; `probability` is the sampling probability of
        payloads like it."""
        self._worker.put(sample_event(record, probability))

    def collect(self) -> list[MetricSnapshot]:
        """All metrics now; the serving stamp comes last."""
        lost = [CounterPoint(DROPPED, (("signal", name),), n) for name, n in self.lost().items()]
        sums, state = _sums_apart(self._state)
        return self._resources.counts([*sums, *lost], state, list(gauges_of(self._source())))

    def lost(self) -> dict[str, int]:
        """Items lost since start, by signal; `backlog` counts items that were dropped before they
        became a signal."""
        exported = self._exports.lost() if self._exports is not None else {}
        return {"backlog": self._worker.dropped, **exported}

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Send the remaining items for at most `timeout_s`, and end every thread. Further calls do
        nothing."""
        if self._closed:
            return
        self._closed = True
        self._worker.end()
        if self._scrape is not None:
            self._scrape.close()
        if self._exports is not None:
            self._exports.close(timeout_s)


def _sums_apart(state: Sequence[GaugeReading]) -> tuple[list[CounterPoint], list[GaugeReading]]:
    sums = [one for one in state if one.name in COUNTERS]
    rest = [one for one in state if one.name not in COUNTERS]
    return [CounterPoint(one.name, one.attributes, one.value) for one in sums], rest
