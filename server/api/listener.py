"""The one port: every service of this server on grpc.aio servers that share it, with its limits."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from proto import admin_pb2, inference_pb2, observe_pb2
from server import host
from server.api import open_inference_messages
from server.api.admin import Admin
from server.api.arrivals import LONGEST_ARRIVAL_S, Arrivals
from server.api.call_budget import CallBudget, arrival_limits, shares_of
from server.api.handlers import Handlers
from server.api.health import HealthService
from server.api.hold_gate import HoldGate
from server.api.inference import Inference, RequestRows
from server.api.listen_address import ListenAddress, check_free, listen_address, taken
from server.api.model_statistics import ModelStatistics
from server.api.observe import Observe
from server.api.open_inference import OpenInference
from server.api.reflection import reflection_handlers
from server.api.retry_penalty import RefusalPace, RetryPenalty
from server.api.snapshot_messages import ServerIdentity, Snapshots
from server.config import ServerConfig
from server.deploy.deployment import Deployment
from server.engine import Engine
from server.ops import host_lanes
from server.ops.host_figures import HostFigures
from server.ops.leaving import connection_age_s
from server.ops.own_sockets import OwnSockets
from server.rehearsal.service import RehearsalService
from server.request.uploads import UploadLimits, UploadStore
from server.request.validation import Validator, prediction_id
from server.telemetry_port import NullTelemetry, TelemetryPort
from server.types import Fault

logger = logging.getLogger(__name__)

# Above what this project's clients send; gRPC holds metadata before a call can be refused.
METADATA_BYTES = 8 << 10
# A client that pings more often than this, three times, is disconnected. The documented limit is
# every 10 s, for clients behind NAT; a ping after a late one comes sooner than that.
PING_FLOOR_MS = 5_000
PINGS_FORGIVEN = 2
# Peers that vanished without closing are detected within these times.
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
# A connection without calls is closed after this time; a client opens another when it makes a call.
CONNECTION_IDLE_MS = 600_000
# Calls on a connection that has reached its maximum age continue for this long: the longest
# deadline of a row (60 s), doubled. Watch streams end with UNAVAILABLE, and clients resume them at
# their cursor.
CONNECTION_GRACE_MS = 120_000
# From the connection to the end of the TLS and HTTP/2 handshakes.
HANDSHAKE_MS = 10_000
# Descriptors reserved for other uses than connections: files of telemetry and bundles, replicas,
# the scrape endpoint. A server of two replicas has 40 open.
OWN_DESCRIPTORS = 256
FEWEST_CONNECTIONS = 16
# One bit for each grpc_compression_algorithm: none, deflate, gzip.
UNCOMPRESSED, ANY_COMPRESSION = 0b001, 0b111
# Of a message that no handler has asked for, only this much is received; the rest follows when a
# handler asks. With gRPC's defaults (64 KiB and, by its estimate of the bandwidth, up to some MiB),
# a refused request would cost the memory and the copies of a served one.
UNASKED_BYTES = 16 << 10
# The places of call_budget.py limit calls, with a reason and a time to retry. This limit is gRPC's
# own, gives neither, and also counts calls that are being refused.
MOST_CALLS = 32768


@dataclass(slots=True)
class Listener:
    """One for each server: `start` binds and serves, `stop` gives open calls some time to
    finish."""

    engine: Engine
    config: ServerConfig
    identity: ServerIdentity
    leave: Callable[[], None]
    interceptors: tuple[grpc.aio.ServerInterceptor, ...] = ()
    # Makes those of one gRPC server; None: plaintext.
    credentials: Callable[[], grpc.ServerCredentials] | None = None
    deployment: Deployment | None = None  # None: what is served cannot be changed
    telemetry: TelemetryPort = field(default_factory=NullTelemetry)
    host: Callable[[], HostFigures | None] = lambda: None  # figures of the machine, as last read
    wall: Callable[[], float] = time.time  # the clock that dates rows and events
    longest_arrival_s: float = LONGEST_ARRIVAL_S
    pace: RefusalPace = field(default_factory=RefusalPace)
    budget: CallBudget = field(init=False)
    _handlers: Handlers = field(init=False)
    _gate: HoldGate = field(init=False)
    address: str = field(default="", init=False)  # set once the port is bound
    # Generic handlers, set once it has started.
    services: Sequence[Any] = field(default=(), init=False)
    _servers: list[grpc.aio.Server] = field(default_factory=list, init=False)
    _claim: socket.socket | None = field(default=None, init=False)
    _address: ListenAddress | None = field(default=None, init=False)
    _counting: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        arrivals = Arrivals(arrival_limits(self.config), longest_s=self.longest_arrival_s)
        self.budget = CallBudget(shares_of(self.config), self._stamp, arrivals, self.pace)
        self._handlers = handlers = Handlers(lambda: self.engine.facts, RetryPenalty(), self.pace)
        refusal = self.engine.refusal_now
        self._gate = HoldGate(handlers.retry_penalty, refusal, self._refuse_unread)

    async def _refuse_unread(self, fault: Fault, context: Any) -> None:
        self.engine.count_refused(fault)
        await self._handlers.refuse_unread(fault, context)

    async def start(self) -> str:
        """Serve; returns the address with the port that was bound. Raises CannotListen."""
        address = checked_address(self.config, self.credentials is not None)
        count, reason = (1, "") if address.path else host_lanes.lanes()
        if reason:
            logger.info("many calls of one host delay those of others: %s", reason)
        self.services = self._services()
        servers = self._grpc_servers(address, count)
        try:
            if count > 1 and address.port:
                self._claim = host_lanes.claim(address.target())
            port = address.port
            for server in servers:
                port = self._bind(server, replace(address, port=port).target())
            if count > 1:
                host_lanes.deal(port, count)
        except (RuntimeError, OSError):
            self._let_go()
            raise taken(self.config.listen, "taken since it was looked at") from None
        for server in servers:
            await server.start()
        self._servers, self._address = servers, address
        arrivals = self.budget.arrivals
        if not address.path:
            arrivals.sockets = OwnSockets(port)
        self._counting = asyncio.create_task(arrivals.run())
        self.address = address.bound_to(port)
        return self.address

    def _grpc_servers(self, address: ListenAddress, count: int) -> list[grpc.aio.Server]:
        """Servers with all services, for the same port."""
        most = connections(self.config)
        arrivals = self.budget.arrivals
        arrivals.limits = replace(arrivals.limits, connections_in_all=most)
        age_s, _ = connection_age_s(self.config.connection_age_s, address.local)
        options = [*_options(self.config, most), *_aging(age_s)]
        options.append(("grpc.so_reuseport", int(count > 1)))
        servers = []
        for _ in range(count):
            server = grpc.aio.server(
                options=options, interceptors=self.chain, maximum_concurrent_rpcs=MOST_CALLS
            )
            for handler in (*self.services, *reflection_handlers()):
                server.add_generic_rpc_handlers((handler,))
            servers.append(server)
        return servers

    @property
    def chain(self) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """The interceptors that every call passes, the outermost first."""
        return (*self.interceptors, self._gate, self.budget)

    def _stamp(self) -> str:
        facts = self.engine.facts
        return facts.stamp if facts is not None else ""

    async def stop(self, grace_s: float) -> None:
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        if self._counting is not None:
            self._counting.cancel()
        self._let_go()
        if self._address is not None:
            self._address.release()

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.close()

    def _bind(self, server: grpc.aio.Server, target: str) -> int:
        if self.credentials is None:
            port: int = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, self.credentials())
        return port

    def _services(self) -> list[Any]:
        """All services on the port."""
        engine, config = self.engine, self.config
        uploads = UploadStore(upload_limits(config))
        handlers = self._handlers
        validator = Validator(
            config,
            uploads,
            new_id=lambda: prediction_id(int(self.wall() * 1000)),
            facts=lambda: engine.facts,
        )
        statistics = ModelStatistics()
        rows = RequestRows(engine, validator, statistics)
        telemetry = self.telemetry
        inference = Inference(engine, validator, rows, uploads, handlers, self.identity, telemetry)
        snapshots = Snapshots(engine, self.identity, statistics, telemetry, self.host)
        observe = Observe(engine, snapshots, telemetry, self.wall)
        open_inference = OpenInference(config, validator, rows, handlers, self.identity.version)
        admin = Admin(
            engine, self.deployment, config.drain_s, self.leave, self._rehearsal_service(validator)
        )
        native = inference_pb2.DESCRIPTOR.services_by_name["Inference"]
        return [
            handlers.of(native, inference),
            handlers.of(observe_pb2.DESCRIPTOR.services_by_name["Observe"], observe),
            handlers.of(admin_pb2.DESCRIPTOR.services_by_name["Admin"], admin),
            handlers.of(health_pb2.DESCRIPTOR.services_by_name["Health"], HealthService(engine)),
            handlers.of(open_inference_messages.SERVICE, open_inference),
        ]

    def _rehearsal_service(self, validator: Validator) -> RehearsalService | None:
        if self.deployment is None:
            return None
        return RehearsalService(
            self.engine, self.deployment, self.telemetry, validator, self.config.sample_share
        )


def checked_address(config: ServerConfig, encrypted: bool) -> ListenAddress:
    """The address to listen on. Raises CannotListen if it cannot be used."""
    return checked(config.listen, config.insecure or encrypted)


def checked(listen: str, anywhere: bool, flag: str = "--listen") -> ListenAddress:
    """As `checked_address`, for any flag that takes an address."""
    address = listen_address(listen, anywhere, flag)
    check_free(listen, address, flag)
    return address


def connections(config: ServerConfig) -> int:
    """The number of connections: as configured, but at most as many as this process has descriptors
    for."""
    room = host.descriptors(config.max_connections + OWN_DESCRIPTORS) - OWN_DESCRIPTORS
    most = min(config.max_connections, max(room, FEWEST_CONNECTIONS))
    if most < config.max_connections:
        text = "%d connections instead of %d: this process may have %d descriptors (ulimit -n)"
        logger.warning(text, most, config.max_connections, room + OWN_DESCRIPTORS)
    return most


def upload_limits(config: ServerConfig) -> UploadLimits:
    return UploadLimits(
        each_bytes=config.upload_bytes,
        peer_bytes=config.upload_peer_bytes,
        peer_count=config.upload_peer_count,
        total_bytes=config.upload_total_bytes,
        ttl_s=config.upload_ttl_s,
    )


def _options(config: ServerConfig, most_connections: int) -> list[tuple[str, int]]:
    return [
        # This also limits the size of a decompressed message.
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # Without this, a small message could decompress to a large one in memory that is not
        # counted.
        (
            "grpc.compression_enabled_algorithms_bitset",
            ANY_COMPRESSION if config.accept_gzip else UNCOMPRESSED,
        ),
        # Of each gRPC server; arrivals.py limits those of all together, once a second.
        ("grpc.max_allowed_incoming_connections", most_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_metadata_size", METADATA_BYTES),
        # Equal to the limit before: between the two, gRPC would refuse some calls at random.
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_concurrent_streams", config.max_streams),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_FLOOR_MS),
        ("grpc.http2.max_ping_strikes", PINGS_FORGIVEN),
        ("grpc.http2.lookahead_bytes", UNASKED_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # Otherwise pings without a call are allowed only every two hours, and a client behind NAT
        # is disconnected.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
        # Calls that no handler has yet: by default, above 1,000, gRPC cancels some of them at
        # random.
        ("grpc.server.max_pending_requests", MOST_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MOST_CALLS),
    ]


def _aging(age_s: float) -> list[tuple[str, int]]:
    """Options for the maximum age. gRPC varies the age by a tenth, so that connections opened
    together do not end together."""
    if not age_s:
        return []
    return [
        ("grpc.max_connection_age_ms", int(age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
    ]
