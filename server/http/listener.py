"""The HTTP port of a server: it listens, serves in the event loop of the gRPC port, and stops after
its open answers. uvicorn and httptools read and write HTTP; they start no process and handle no
signal."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial

from uvicorn.config import Config
from uvicorn.server import ServerState

from server.api.listen_address import ListenAddress, taken
from server.api.listener import Listener
from server.config import ServerConfig
from server.http.app import HttpApp
from server.http.calls import Calls
from server.http.connection import HttpConnection
from server.http.exchange import BodyLimit
from server.http.limits import HTTP_TIMES, ConnectionLimit, HttpTimes
from server.http.metrics import MetricsRoute, metrics_service
from server.http.tls import RotatingContext
from server.security.tls import TlsFiles
from server.telemetry.otel.prometheus import Exposition

FLAG = "--http"
BACKLOG = 2048
DATE_S = 1.0  # how often the Date header is refreshed


class HttpListener:
    """`listener` must have started: its services and interceptors are used here too."""

    def __init__(
        self,
        config: ServerConfig,
        listener: Listener,
        address: ListenAddress,
        files: TlsFiles | None = None,
        exposition: Exposition | None = None,
        wall: Callable[[], float] = time.time,
        times: HttpTimes = HTTP_TIMES,
    ) -> None:
        """`files` None: plaintext; `exposition` None: no metrics are counted."""
        services = list(listener.services)
        if exposition is not None:
            services.append(metrics_service())
        calls = Calls(services, listener.chain)
        metrics = MetricsRoute(calls, exposition) if exposition is not None else None
        body = BodyLimit(config.max_message_bytes, config.queue_bytes)
        app = HttpApp(
            listener.engine, calls, listener.identity, body, metrics, lambda: listener.address
        )
        self.limit = ConnectionLimit(config.max_http_connections, config.max_http_connections_peer)
        self._listen = config.http
        self._address = address
        self._files = files
        self._wall = wall
        self._times = times
        self._state = ServerState()
        self._config = Config(
            app,
            http=HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,  # the peer is the one that connects, not one named in a header
            # Declared as whole seconds, but passed to call_later, which takes any number.
            timeout_keep_alive=times.idle_s,  # type: ignore[arg-type]
        )
        self._servers: list[asyncio.Server] = []
        self._clock: asyncio.TimerHandle | None = None

    async def start(self) -> str:
        """Serve; returns the address with the port that was bound. Raises CannotListen."""
        self._config.load()
        context = RotatingContext(self._files) if self._files is not None else None
        loop = asyncio.get_running_loop()
        self._set_date(loop)
        made = partial(HttpConnection, self._config, self._state, self.limit, self._times)
        timeout_s = self._times.handshake_s if context is not None else None
        sockets = _bound(self._listen, self._address)
        for one in sockets:
            self._servers.append(
                await loop.create_server(
                    made, sock=one, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=timeout_s
                )
            )
        name = sockets[0].getsockname()
        return self._address.bound_to(name[1] if isinstance(name, tuple) else 0)

    async def stop(self, grace_s: float) -> None:
        """Accept no more connections; open answers have `grace_s` to end."""
        if self._clock is not None:
            self._clock.cancel()
        for server in self._servers:
            server.close()
        connections = [one for one in self._state.connections if isinstance(one, HttpConnection)]
        for connection in connections:
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=grace_s)
        for connection in connections:
            connection.transport.abort()
        # Its lost connection cancels each task.
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        self._address.release()

    @property
    def listening(self) -> bool:
        return any(server.is_serving() for server in self._servers)

    def _set_date(self, loop: asyncio.AbstractEventLoop) -> None:
        date = formatdate(self._wall(), usegmt=True).encode()
        self._state.default_headers = [(b"date", date)]
        self._clock = loop.call_later(DATE_S, self._set_date, loop)


def _bound(listen: str, address: ListenAddress) -> list[socket.socket]:
    """One socket for each address of the host. Raises CannotListen."""
    try:
        if address.path:
            # A socket left by a dead server is removed, as on the gRPC port.
            address.release()
            return [_unix(address.path)]
        if not address.host:
            return [_every(address.port)]
        return _of_host(address)
    except OSError as error:
        raise taken(listen, error.strerror or str(error), FLAG) from None


def _unix(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    return made


def _every(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _of_host(address: ListenAddress) -> list[socket.socket]:
    """Sockets on all addresses of a name. A port chosen for the first address is used for all."""
    made: list[socket.socket] = []
    port, fault = address.port, None
    found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM)
    for family, _, _, _, at in dict.fromkeys(found):
        try:
            made.append(socket.create_server((at[0], port), family=family))
        except OSError as error:  # IPv6 may be disabled: one address that can be bound is enough
            fault = error
            continue
        port = made[0].getsockname()[1]
    if not made:
        assert fault is not None
        raise fault
    return made
