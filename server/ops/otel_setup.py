"""OpenTelemetry for one server: built from its flags and OpenTelemetry's own variables, updated
with the server's state once a second. When nothing is switched on it loads and does nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping

import grpc

from server.api.call_budget import CallBudget
from server.api.health import TAKES_TRAFFIC
from server.api.snapshot_messages import ServerIdentity
from server.config import ServerConfig
from server.engine import Engine, RecordSink
from server.errors import ServerError
from server.http.limits import ConnectionLimit
from server.ops.host_figures import HostFigures
from server.ops.loop_lag import LoopLag
from server.security.roles import ALLOWED
from server.telemetry.errors import ExportRefused
from server.telemetry.otel.configuration import configuration_of, named_attributes
from server.telemetry.otel.gauges import GaugeReading
from server.telemetry.otel.histogram import Attributes
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.resources import ServedStamp
from server.types import REPLICA_STATES, EngineSnapshot

SERVICE = "trefoil-server"
STATE_S = 1.0
OUTCOMES = ("answered", "failed", "refused", "bad_input", "expired", "cancelled")


class CannotExport(ServerError):
    """--prometheus or a variable of OpenTelemetry asks for something that cannot be done."""


class OtelSetup:
    """Raises CannotExport. `instruments` is None when nothing is switched on."""

    def __init__(
        self,
        config: ServerConfig,
        identity: ServerIdentity,
        environ: Mapping[str, str] = os.environ,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.instruments: Instruments | None = None
        self._engine: Engine | None = None
        self._watcher: asyncio.Task[None] | None = None
        try:
            plan = configuration_of(
                environ, config.prometheus, config.trace_share, scraped=bool(config.http)
            )
            if plan.on:
                about = about_server(config, identity, environ)
                self.instruments = Instruments(plan, about, known_methods(), self._served, wall)
        except ExportRefused as refusal:
            raise CannotExport(str(refusal)) from None

    @property
    def messages(self) -> list[str]:
        """Lines for the start: the choices and their reasons."""
        return list(self.instruments.messages) if self.instruments is not None else []

    def recorder(self, recorder: RecordSink) -> RecordSink:
        """`recorder`, wrapped to report to OpenTelemetry first."""
        if self.instruments is None:
            return recorder
        from server.ops.otel_interceptor import OtelRecorder

        return OtelRecorder(self.instruments, recorder)

    def interceptors(
        self, others: tuple[grpc.aio.ServerInterceptor, ...]
    ) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """The interceptors with this one outermost, so that calls the others refuse are counted
        too."""
        if self.instruments is None:
            return others
        from server.ops.otel_interceptor import OtelInterceptor

        return (OtelInterceptor(self.instruments), *others)

    def watch(
        self,
        engine: Engine,
        budget: CallBudget,
        lag: LoopLag,
        connections: ConnectionLimit | None = None,
        address: str = "",
        host: Callable[[], HostFigures | None] = lambda: None,
    ) -> None:
        """Report the state of this engine, its ports, its event loop and its host from now on."""
        self._engine = engine
        if self.instruments is not None:
            self.instruments.listens(address)
            self._watcher = asyncio.create_task(
                self._look(
                    self.instruments,
                    engine,
                    lambda: [*front_of(budget, lag, connections), *host_of(host())],
                )
            )

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self.instruments is not None:
            await asyncio.to_thread(self.instruments.close)

    async def _look(
        self,
        instruments: Instruments,
        engine: Engine,
        front: Callable[[], list[GaugeReading]],
    ) -> None:
        while True:
            instruments.saw([*state_of(engine.snapshot()), *front()])
            await asyncio.sleep(STATE_S)

    def _served(self) -> ServedStamp:
        facts = self._engine.facts if self._engine is not None else None
        return ServedStamp(facts.stamp, facts.stamp_name, facts.labels) if facts else ServedStamp()


def state_of(now: EngineSnapshot) -> list[GaugeReading]:
    readings = [
        GaugeReading("trefoil.ready", float(now.state in TAKES_TRAFFIC)),
        GaugeReading("trefoil.draining", float(now.state == "DRAINING")),
        GaugeReading("trefoil.queue.rows", now.queued),
        GaugeReading("trefoil.queue.limit", now.queue_limit),
        GaugeReading("trefoil.queue.seconds", now.queue_seconds),
        GaugeReading("trefoil.in_flight", now.in_flight),
        GaugeReading("trefoil.replicas.wanted", now.wanted_replicas),
        GaugeReading("trefoil.replica.restarts", sum(replica.restarts for replica in now.replicas)),
        GaugeReading("trefoil.decoder.restarts", sum(r.decoder_restarts for r in now.replicas)),
        GaugeReading("trefoil.decoder.deadlines", sum(r.decoder_deadlines for r in now.replicas)),
        GaugeReading("trefoil.decoder.lines", sum(r.decoder_lines for r in now.replicas)),
        GaugeReading("trefoil.parts.cut", now.parts.cut),
        GaugeReading("trefoil.retries", now.counters.retried),
        GaugeReading("trefoil.quarantined", now.counters.quarantined),
    ]
    states = Counter(replica.state for replica in now.replicas)
    # Each known state, also with value 0: an alert cannot fire on a series that has vanished.
    for state in dict.fromkeys((*REPLICA_STATES, *states)):
        count = states.get(state, 0)
        readings.append(GaugeReading("trefoil.replicas", count, (("trefoil.state", state),)))
    for replica in now.replicas:
        for kind, size in (("private", replica.private_bytes), ("shared", replica.shared_bytes)):
            kept = (("trefoil.replica", str(replica.index)), ("trefoil.memory.kind", kind))
            readings.append(GaugeReading("trefoil.replica.memory", size, kept))
    for outcome in OUTCOMES:
        count = getattr(now.counters, outcome)
        readings.append(GaugeReading("trefoil.rows", count, (("trefoil.outcome", outcome),)))
    for found in now.parts.formats:
        where = (("trefoil.format", found.format),)
        readings.append(GaugeReading("trefoil.parts.foreign", found.rows, where))
    for warning, count in now.parts.warnings.items():
        where = (("trefoil.warning", warning),)
        readings.append(GaugeReading("trefoil.parts.warned", count, where))
    return readings


def front_of(
    budget: CallBudget, lag: LoopLag, connections: ConnectionLimit | None = None
) -> list[GaugeReading]:
    """`connections` are those of the HTTP port; None without it."""
    readings = [GaugeReading("trefoil.front.loop.lag", lag.longest_s)]
    arrivals = budget.arrivals
    readings.append(GaugeReading("trefoil.connections.open", arrivals.open))
    readings.append(GaugeReading("trefoil.messages.arriving", arrivals.holds))
    for what in ("connections", "messages"):
        count = arrivals.refused[what]
        readings.append(GaugeReading(f"trefoil.{what}.cut", count))
    for kind in budget.shares:
        where = (("trefoil.call.kind", kind),)
        readings.append(GaugeReading("trefoil.calls.open", budget.open[kind], where))
        readings.append(GaugeReading("trefoil.calls.refused", budget.refused[kind], where))
    if connections is not None:
        readings.append(GaugeReading("trefoil.http.connections", connections.open))
        readings.append(GaugeReading("trefoil.http.connections.refused", connections.refused))
    return readings


def host_of(now: HostFigures | None) -> list[GaugeReading]:
    """The known figures of the host: a figure that cannot be read has no series."""
    if now is None:
        return []
    found: list[tuple[str, float | None, Attributes]] = [
        ("trefoil.host.cpu", now.cpu_share, ()),
        ("trefoil.host.memory.used", now.memory_used_bytes, ()),
        ("trefoil.host.memory.total", now.memory_total_bytes, ()),
        ("trefoil.host.disk.free", now.disk_free_bytes, ()),
        ("trefoil.host.disk.total", now.disk_total_bytes, ()),
    ]
    for replica in now.replicas:
        which: Attributes = (("trefoil.replica", str(replica.index)),)
        found.append(("trefoil.replica.cpu", replica.cpu_s, which))
    for gpu in now.gpus:
        which = (("trefoil.gpu", str(gpu.index)), ("trefoil.gpu.name", gpu.name))
        found += [
            ("trefoil.gpu.memory.used", gpu.memory_used_bytes, which),
            ("trefoil.gpu.memory.total", gpu.memory_total_bytes, which),
            ("trefoil.gpu.utilisation", gpu.utilisation, which),
            ("trefoil.gpu.power", gpu.power_w, which),
            ("trefoil.gpu.temperature", gpu.temperature_c, which),
        ]
    return [
        GaugeReading(name, value, attributes)
        for name, value, attributes in found
        if value is not None
    ]


def about_server(
    config: ServerConfig, identity: ServerIdentity, environ: Mapping[str, str]
) -> dict[str, str]:
    """Resource attributes; those in the environment override these."""
    about = {
        "service.name": SERVICE,
        "service.version": identity.version,
        "service.instance.id": identity.instance,
        "trefoil.server.name": identity.name,
    }
    if config.environment:
        about["deployment.environment.name"] = config.environment
    return about | named_attributes(environ)


def known_methods() -> frozenset[str]:
    return frozenset(method.lstrip("/") for method in ALLOWED)
