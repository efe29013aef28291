"""The scrape endpoint: counts in the form that a scraper accepts (text, OpenMetrics with exemplars,
or protobuf with native histograms). It does not need OpenTelemetry. Imported only with --prometheus
or --http.

It serves plain HTTP without credentials: it shows counts and names of features and slices, never
payloads.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client as client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector

from server.telemetry.errors import ExportRefused
from server.telemetry.otel.configuration import split_address
from server.telemetry.otel.histogram import Attributes
from server.telemetry.otel.histogram_family import HistogramFamily
from server.telemetry.otel.metric_definitions import COUNTERS, GAUGES, HISTOGRAMS
from server.telemetry.otel.prometheus_protobuf import CONTENT_TYPE as PROTOBUF
from server.telemetry.otel.prometheus_protobuf import encoded
from server.telemetry.otel.snapshot import Collect, MetricSnapshot, by_name

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/metrics"
PROTOBUF_MEDIA = PROTOBUF.partition(";")[0]
CALLER_S = 5  # a caller that sends or reads nothing for this long is disconnected
# Simultaneous connections, each with a thread. A scrape takes milliseconds, so when there are more,
# the oldest one is blocking its place.
MOST_CALLERS = 8
ACCEPT_AGAIN_S = 0.2
SHARED = 10
MOST_TYPES = 8
BACKLOG = 64  # connections waiting to be accepted
STAMP_LABEL = "trefoil_stamp"
STAMP_DIGITS = 12  # as displayed; target_info has all 64
UNITS = {"s": "seconds"}


class Counts(Collector):
    """Reads the counts at each scrape."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        return ()  # otherwise registering would collect once

    def collect(self) -> Iterator[Metric]:
        counts = self._collect()
        if counts:
            yield _target(counts[-1])
        yield from _histograms(counts)
        yield from _counters(counts)
        yield from _gauges(counts)


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    until: float  # on the clock: until then every scraper gets this answer


class Exposition:
    """All counts, and those of this process, in the form that a scraper accepts.

    Scrapers of one form share an answer for SHARED times as long as it took to make, about 0.1 s.
    So they take at most the share 1 / SHARED of a core, however many they are and however often
    they scrape.
    """

    def __init__(self, collect: Collect, clock: Callable[[], float] = time.perf_counter) -> None:
        self.registry = client.CollectorRegistry()
        self.registry.register(Counts(collect))
        client.ProcessCollector(registry=self.registry)
        self._clock = clock
        self._answers: dict[str, _Answer] = {}  # by form
        self._making = threading.Lock()

    def text(self, accept: str, zipped: bool = False) -> tuple[bytes, str]:
        """The body for an Accept header, compressed with gzip if `zipped`, and its content type."""
        if takes_protobuf(accept):
            content_type = PROTOBUF

            def make() -> bytes:
                return encoded(self.registry.collect())
        else:
            encode, content_type = choose_encoder(accept)
            make = partial(encode, self.registry)
        if zipped:
            return self._shared(
                f"{content_type} gzip", lambda: gzip.compress(make(), 1)
            ), content_type
        return self._shared(content_type, make), content_type

    def _shared(self, form: str, make: Callable[[], bytes]) -> bytes:
        with self._making:
            known, began = self._answers.get(form), self._clock()
            if known is not None and began < known.until:
                return known.body
            body = make()
            if len(self._answers) >= MOST_TYPES:  # a scraper may ask for any version of a form
                self._answers.clear()
            ended = self._clock()
            self._answers[form] = _Answer(body, ended + SHARED * (ended - began))
            return body


class ScrapeEndpoint:
    """Raises ExportRefused when the address cannot be used."""

    def __init__(self, address: str, collect: Collect) -> None:
        host, port = split_address(address)
        try:
            self._server = _listening(host, port, only_metrics(Exposition(collect)))
        except OSError as error:
            reason = error.strerror or error
            raise ExportRefused(f"--prometheus {address}: cannot listen: {reason}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        named = f"[{host}]" if ":" in host else host or "127.0.0.1"
        self.address = f"{named}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def takes_protobuf(accept: str) -> bool:
    """Whether an Accept header names this protobuf form, and names it first."""
    best, found = 0.0, False
    for one in accept.lower().split(","):
        media, *pairs = (pair.strip() for pair in one.split(";"))
        parameters = dict(pair.partition("=")[::2] for pair in pairs)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > best and media != "*/*":
            best = quality
            found = media == PROTOBUF_MEDIA and parameters.get("encoding") == "delimited"
    return found


def only_metrics(exposition: Exposition) -> WSGIApplication:
    """404 for every other path: an address that answers every path would hide a wrong scrape
    path."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"only {PATH} is here\n".encode()]
        zipped = gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        body, content_type = exposition.text(environ.get("HTTP_ACCEPT", ""), zipped)
        headers = [("Content-Type", content_type)]
        if zipped:
            headers.append(("Content-Encoding", "gzip"))
        start("200 OK", headers)
        return [body]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """# Invariant: at most MOST_CALLERS threads serve; a further caller ends the oldest."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, *args: Any, **options: Any) -> None:
        self._callers: dict[socket.socket, None] = {}  # oldest first
        self._changed = threading.Condition()
        super().__init__(*args, **options)

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_AGAIN_S)  # without a free descriptor it would retry at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            while len(self._callers) >= MOST_CALLERS:
                with suppress(OSError):  # its caller may have disconnected just now
                    next(iter(self._callers)).shutdown(socket.SHUT_RDWR)
                self._changed.wait(CALLER_S)
            self._callers[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._callers.pop(request, None)
                self._changed.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that disconnects in the middle is not logged."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = CALLER_S

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is not logged."""


def _listening(host: str, port: int, app: WSGIApplication) -> WSGIServer:
    """Raises OSError. The host "" means every address, including IPv6 if available."""
    if not host and socket.has_dualstack_ipv6():
        host = "::"
    family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
    kind = _ServerV6 if family == socket.AF_INET6 else _Server
    return make_server(host, port, app, kind, _Handler)


def _target(count: MetricSnapshot) -> Metric:
    about = {_plain(name): value for name, value in count.about}
    return InfoMetricFamily("target", "What is scraped", value=about)


def _histograms(counts: Sequence[MetricSnapshot]) -> Iterator[Metric]:
    found = [(count.stamp, point) for count in counts for point in count.histograms]
    for name, described in HISTOGRAMS.items():
        points = [(stamp, point) for stamp, point in found if point.name == name]
        names = _label_names(point.attributes for _, point in points)
        unit = UNITS.get(described.unit, "")
        family = HistogramFamily(_plain(name), described.description, names, unit)
        for stamp, point in points:
            family.add(_label_values(names, point.attributes, stamp), point.point)
        if points:
            yield family


def _counters(counts: Sequence[MetricSnapshot]) -> Iterator[Metric]:
    found = [(count.stamp, point) for count in counts for point in count.counters]
    for name, described in COUNTERS.items():
        points = [(stamp, point) for stamp, point in found if point.name == name]
        names = _label_names(point.attributes for _, point in points)
        unit = UNITS.get(described.unit, "")
        family = CounterMetricFamily(_plain(name), described.description, labels=names, unit=unit)
        for stamp, point in points:
            family.add_metric(_label_values(names, point.attributes, stamp), point.value)
        if points:
            yield family


def _gauges(counts: Sequence[MetricSnapshot]) -> Iterator[Metric]:
    for name, readings in by_name(one for count in counts for one in count.readings).items():
        names = _label_names(reading.attributes for reading in readings)[1:]
        described = GAUGES[name]
        unit = UNITS.get(described.unit, "")
        family = GaugeMetricFamily(_plain(name), described.description, labels=names, unit=unit)
        for reading in readings:
            family.add_metric(_label_values(names, reading.attributes, ""), reading.value)
        yield family


def _label_names(attributes: Iterable[Attributes]) -> list[str]:
    """The stamp, then every attribute name of any point: a family has one set of labels."""
    names = {_plain(name): None for some in attributes for name, _ in some}
    return [STAMP_LABEL, *names]


def _label_values(names: Sequence[str], attributes: Attributes, stamp: str) -> list[str]:
    known = {_plain(name): value for name, value in attributes}
    known[STAMP_LABEL] = stamp[:STAMP_DIGITS]
    return [known.get(name, "") for name in names]


def _plain(name: str) -> str:
    return name.replace(".", "_")
