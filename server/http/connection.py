"""One connection of the HTTP port, with the limits that uvicorn lacks: the number of connections,
the time and size of a request's head. When a caller disconnects, its work is cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import quote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from server.http.limits import ConnectionLimit, HttpTimes

HEAD_BYTES = 32 << 10  # request line and headers

logger = logging.getLogger(__name__)
# Errors in requests concern their senders only; this server's own faults are logged.
logger.setLevel(logging.ERROR)


class HttpConnection(HttpToolsProtocol):
    """`peer` is named as gRPC names a peer; `uris` are those of a verified client certificate."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        limit: ConnectionLimit,
        times: HttpTimes,
    ) -> None:
        super().__init__(config, server_state, {"connection": self})
        self.times = times
        self.logger = logger
        self.access_log = False
        self.peer = ""
        self.uris: tuple[bytes, ...] = ()
        self.lost = False
        self._limit = limit
        self._host: str | None = None  # None: not counted
        self._task: asyncio.Task[Any] | None = None
        self._in_head = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Note the current task: it is cancelled when the caller disconnects."""
        self._task = asyncio.current_task()

    def end(self) -> None:
        self._task = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = _peer_of(transport)
        self.uris = _uris_of(transport)
        host = self.client[0] if self.client else "unix"
        full = self._limit.enter(host)
        if full:
            self._refuse(503, f"the limit is {full}")
            return
        self._host = host
        # A client may open a connection before its first request.
        self._timer = self.loop.call_later(self.times.idle_s, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        self._stop_timer()
        if self._host is not None:
            self._limit.leave(self._host)
            self._host = None
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._in_head:
            return
        if not self._head_bytes:
            self._stop_timer()
            self._timer = self.loop.call_later(self.times.head_s, self._late)
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431, f"the limit is {HEAD_BYTES} bytes for request line and headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.times.linger_s, self.transport.abort)

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            within_s = self.times.head_s
            self._refuse(408, f"the head of a request must arrive within {within_s:g} s")

    def _refuse(self, status: int, text: str) -> None:
        if self.transport.is_closing():
            return
        body = f"{text}\n".encode()
        head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], head, length, body)))
        self.transport.close()
        self.loop.call_later(self.times.linger_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _peer_of(transport: asyncio.Transport) -> str:
    """The peer as `ipv4:10.0.0.7:4711`, `ipv6:%5B::1%5D:4711` or `unix:`."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    if ":" not in host:
        return f"ipv4:{host}:{port}"
    mapped = host.removeprefix("::ffff:")
    return f"ipv4:{mapped}:{port}" if "." in mapped else f"ipv6:{quote(f'[{host}]', ':')}:{port}"


def _uris_of(transport: asyncio.Transport) -> tuple[bytes, ...]:
    """The URIs of the certificate that the handshake verified; empty without one."""
    ssl_object = transport.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert() if ssl_object is not None else None
    names = certificate.get("subjectAltName", ()) if certificate else ()
    return tuple(name.encode() for kind, name in names if kind == "URI")
