"""One request and its answer: the head, the body within its limits, and the response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.http.calls import HttpCall, Metadata, Write
from server.http.connection import HttpConnection
from server.http.refusals import CallerGone, HttpRefused
from server.request.caller import CLIENT_KEY, TRACE_KEY
from server.request.value_limit import MOST_VALUES, has_too_many_values

# Only these headers of a request become metadata of the call.
_METADATA = tuple(
    (name.encode(), name)
    for name in ("authorization", "user-agent", CLIENT_KEY, TRACE_KEY, "tracestate")
)
DEADLINE = b"trefoil-deadline-ms"

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[Header] = ()


@dataclass(slots=True)
class BodyLimit:
    """`each`: bytes of one body; `in_all`: bytes of all bodies held."""

    each: int
    in_all: int
    held: int = 0

    def take(self, size: int) -> None:
        if self.held + size > self.in_all:
            text = f"bodies of {self.held} bytes are held; the limit is {self.in_all} in all"
            raise HttpRefused(503, "TOO_MANY_BYTES", text, closing=True)
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size


@dataclass(slots=True)
class Exchange:
    scope: Any
    receive: Receive
    send: Send
    connection: HttpConnection
    limit: BodyLimit
    headers: dict[bytes, bytes] = field(init=False)
    started: bool = field(default=False, init=False)
    _held: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.headers = dict(self.scope["headers"])

    def call(self, write: Write | None = None) -> HttpCall:
        """The call of this request. Raises HttpRefused for an invalid deadline."""
        headers = self.headers
        metadata: Metadata = tuple(
            (name, headers[raw].decode("latin-1")) for raw, name in _METADATA if raw in headers
        )
        remaining_s = _deadline_s(headers[DEADLINE]) if DEADLINE in headers else None
        connection = self.connection
        server = self.scope["server"]
        address = f"{server[0]}:{server[1]}" if server and server[1] else "unix:"
        return HttpCall(connection.peer, metadata, connection.uris, remaining_s, write, address)

    async def body(self) -> bytes:
        """The whole body. Raises HttpRefused before reading if the declared length is too large,
        and as soon as the body becomes too large."""
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.lower() not in (b"identity", b""):
            text = "bodies are taken as they are: send it without Content-Encoding"
            raise HttpRefused(415, "CONTENT_ENCODING", text, closing=True)
        if int(self.headers.get(b"content-length", b"0")) > self.limit.each:
            raise self._too_large()
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._piece()
            data, more = message.get("body", b""), message.get("more_body", False)
            size += len(data)
            if size > self.limit.each:
                raise self._too_large()
            self.limit.take(len(data))
            self._held += len(data)
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Release the memory of the body."""
        self.limit.give_back(self._held)
        self._held = 0

    async def answer(self, response: Response, closing: bool = False) -> None:
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", b"%d" % len(response.body)),
            *response.headers,
        ]
        if closing:
            headers.append((b"connection", b"close"))
        self.started = True
        await self.send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        await self.send({"type": "http.response.body", "body": response.body})

    async def begin_stream(self, content_type: bytes, headers: Sequence[Header]) -> None:
        self.started = True
        head = [(b"content-type", content_type), (b"cache-control", b"no-store"), *headers]
        await self.send({"type": "http.response.start", "status": 200, "headers": head})

    async def write(self, data: bytes, more: bool = True) -> None:
        """Write the next piece of a stream. The connection is given up if its reader takes nothing
        in time."""
        message = {"type": "http.response.body", "body": data, "more_body": more}
        try:
            async with asyncio.timeout(self.connection.times.write_s):
                await self.send(message)
        except TimeoutError:
            self.connection.transport.abort()
            raise CallerGone from None

    async def discard(self) -> None:
        """Read on for a moment and discard the bytes: a connection that is closed with unread bytes
        is reset, and its peer may never see the answer."""
        if b"expect" in self.headers:  # the client sends the body only after an answer
            return
        try:
            async with asyncio.timeout(self.connection.times.discard_s):
                while (await self.receive()).get("more_body", False):
                    pass
        except TimeoutError:
            return

    async def _piece(self) -> Any:
        idle_s = self.connection.times.body_idle_s
        try:
            async with asyncio.timeout(idle_s):
                message = await self.receive()
        except TimeoutError:
            text = f"nothing of the body arrived for {idle_s:g} s"
            raise HttpRefused(408, "BODY_IDLE", text, closing=True) from None
        if message["type"] == "http.disconnect":
            raise CallerGone
        return message

    def _too_large(self) -> HttpRefused:
        text = f"the limit is {self.limit.each} bytes for a body; --max-message-mb raises it"
        return HttpRefused(413, "BODY_TOO_LARGE", text, closing=True)


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def json_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, in UTF-8 as RFC 8259 asks. Raises HttpRefused."""
    try:
        text = str(body, "utf-8-sig")
        if has_too_many_values(text):
            why = f"the body has more than {MOST_VALUES:,} values; send fewer"
            raise HttpRefused(400, "TOO_MANY_VALUES", why)
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"the body is not JSON: {error}"
        raise HttpRefused(400, "JSON_MALFORMED", why[:200]) from None
    if not isinstance(value, dict):
        raise HttpRefused(400, "JSON_MALFORMED", "the body must be a JSON object")
    return value


def _deadline_s(text: bytes) -> float:
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = 0.0
    if not 0.0 < milliseconds < float("inf"):
        name = DEADLINE.decode()
        raise HttpRefused(400, "DEADLINE_MALFORMED", f"{name} must be above 0", name)
    return milliseconds / 1000
