"""Passes calls that arrive over HTTP to the methods of the gRPC port, through the same
interceptors. So one place decides for both ports which calls are allowed, for whom and how
often."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

from server.http.refusals import CallRefusal, CallRefused, HttpRefused
from server.request.status import DETAILS_KEY, Refused, bad_input

Metadata = tuple[tuple[str, str], ...]
Write = Callable[[Any], Awaitable[None]]
Read = Callable[[], Awaitable[bytes]]


class CallDetails(NamedTuple):
    """The fields of a call that an interceptor reads before its message."""

    method: str
    invocation_metadata: Metadata


@dataclass(slots=True, eq=False)
class HttpCall:
    """The methods of a grpc.aio servicer context that servants and interceptors use.

    `caller` is named as gRPC names a peer; `uris` are those of a verified client certificate.
    `writer` takes each message of a method that streams, `answer` is the message of any other
    method. `http_address` is the HOST:PORT called.
    """

    caller: str
    metadata: Metadata
    uris: Sequence[bytes] = ()
    remaining_s: float | None = None
    writer: Write | None = None
    http_address: str = ""
    trailing: dict[str, Any] = field(default_factory=dict, init=False)
    answer: Any = field(default=None, init=False)
    refusal: CallRefusal | None = field(default=None, init=False)
    http_refused: HttpRefused | None = field(default=None, init=False)
    source: Read | None = field(default=None, init=False)
    _code: grpc.StatusCode | None = field(default=None, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def invocation_metadata(self) -> Metadata:
        return self.metadata

    def peer(self) -> str:
        return self.caller

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {"peer_uri": self.uris} if self.uris else {}

    def time_remaining(self) -> float | None:
        if self.remaining_s is None:
            return None
        return max(self.remaining_s - (time.monotonic() - self._began), 0.0)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, Any]]) -> None:
        self.trailing = dict(metadata)

    async def read(self) -> Any:
        """The call's only message, then the end. Raises Refused for a message that HTTP refuses."""
        source, self.source = self.source, None
        if source is None:
            return grpc.aio.EOF
        try:
            return await source()
        except HttpRefused as refused:
            self.http_refused = refused
            raise Refused(bad_input(refused.field, refused.reason, refused.message)) from None

    async def write(self, message: Any) -> None:
        if self.writer is None:
            self.answer = message
        else:
            await self.writer(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        self._code = code
        self.trailing |= dict(trailing_metadata)
        self.refusal = _refusal(code, details, self.trailing.get(DETAILS_KEY))
        raise grpc.aio.AbortError(details)


class Calls:
    """`services` are generic handlers; `interceptors` come outermost first, as in a gRPC server."""

    def __init__(self, services: Sequence[Any], interceptors: Sequence[Any]) -> None:
        self._services = services
        self._begin: Callable[[CallDetails], Awaitable[Any]] = self._found
        for interceptor in reversed(interceptors):
            self._begin = partial(interceptor.intercept_service, self._begin)

    async def make(self, method: str, call: HttpCall, source: Read) -> Any:
        """The answer's message, or None for a method that streams. `source` reads the request only
        once the call is allowed and has a place.

        Raises CallRefused, and HttpRefused as `source` does.
        """
        handler = await self._begin(CallDetails(method, call.metadata))
        if handler is None:
            raise CallRefused(CallRefusal("UNIMPLEMENTED", f"there is no method {method}"))
        call.source = source
        try:
            return await _run(handler, call)
        except grpc.aio.AbortError:
            if call.http_refused is not None:
                raise call.http_refused from None
            assert call.refusal is not None
            raise CallRefused(call.refusal) from None
        except Refused:
            assert call.http_refused is not None
            raise call.http_refused from None

    async def ask(self, method: str, data: bytes, call: HttpCall) -> Any:
        """As `make`, for a request without a body."""

        async def source() -> bytes:
            return data

        return await self.make(method, call, source)

    async def _found(self, details: CallDetails) -> Any:
        for service in self._services:
            handler = service.service(details)
            if handler is not None:
                return handler
        return None


async def _run(handler: Any, call: HttpCall) -> Any:
    """Run a handler of any kind: an interceptor may have replaced the method's own handler."""
    kind = "_".join(
        "stream" if streaming else "unary"
        for streaming in (handler.request_streaming, handler.response_streaming)
    )
    # A handler of a stream reads it from its context; one that only refuses reads nothing.
    request = None if handler.request_streaming else await call.read()
    found = await getattr(handler, kind)(request, call)
    return call.answer if found is None else found


def _refusal(code: grpc.StatusCode, message: str, packed: bytes | None) -> CallRefusal:
    status = status_pb2.Status.FromString(packed or b"")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
    after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return CallRefusal(code.name, message, info.metadata.get("field", ""), info.reason, after_s)
