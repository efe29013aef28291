"""Calls that arrive over HTTP, made to the methods of the gRPC port through the same interceptors:
what may be called, by whom and how often is decided once, for both doors."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

from server.request.status import DETAILS_KEY, STAMP_KEY

Metadata = tuple[tuple[str, str], ...]
Write = Callable[[Any], Awaitable[None]]


class CallDetails(NamedTuple):
    """What an interceptor reads of a call before its message."""

    method: str
    invocation_metadata: Metadata


@dataclass(frozen=True, slots=True)
class CallRefusal:
    """A refused call as its status says it. `message` has field, text and reason in one line."""

    code: str  # gRPC status name
    message: str
    field: str = ""
    reason: str = ""
    retry_after_s: float = 0.0


class CallRefused(Exception):
    def __init__(self, refusal: CallRefusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class HttpCall:
    """What a servant and an interceptor ask of a grpc.aio servicer context."""

    __slots__ = ("_code", "_ends", "_peer", "_uris", "_write", "metadata", "refusal", "trailing")

    def __init__(
        self,
        peer: str,
        metadata: Metadata,
        uris: Sequence[bytes] = (),
        remaining_s: float | None = None,
        write: Write | None = None,
    ) -> None:
        """`peer` as gRPC names one; `uris` are those of a verified client certificate."""
        self.metadata = metadata
        self.trailing: dict[str, Any] = {}
        self.refusal: CallRefusal | None = None
        self._code: grpc.StatusCode | None = None
        self._ends = None if remaining_s is None else time.monotonic() + remaining_s
        self._peer = peer
        self._uris = uris
        self._write = write

    @property
    def stamp(self) -> str:
        return str(self.trailing.get(STAMP_KEY, ""))

    def invocation_metadata(self) -> Metadata:
        return self.metadata

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {"peer_uri": self._uris} if self._uris else {}

    def time_remaining(self) -> float | None:
        return None if self._ends is None else max(self._ends - time.monotonic(), 0.0)

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, Any]]) -> None:
        self.trailing = dict(metadata)

    async def write(self, message: Any) -> None:
        assert self._write is not None, "only a method that streams writes"
        await self._write(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        self._code = code
        self.trailing |= dict(trailing_metadata)
        self.refusal = _refusal(code, details, self.trailing.get(DETAILS_KEY))
        raise grpc.aio.AbortError(details)


class Calls:
    """`services` are generic handlers, `interceptors` the outermost first, as a server has them."""

    def __init__(self, services: Sequence[Any], interceptors: Sequence[Any]) -> None:
        self._services = services
        self._begin: Callable[[CallDetails], Awaitable[Any]] = self._found
        for interceptor in reversed(interceptors):
            self._begin = partial(interceptor.intercept_service, self._begin)

    async def admitted(self, method: str, call: HttpCall) -> Any:
        """The handler of a method, when this call may be made and there is a place for it: so much
        is known before its body is read. Raises CallRefused."""
        handler = await self._begin(CallDetails(method, call.metadata))
        if handler is None:
            raise CallRefused(CallRefusal("UNIMPLEMENTED", f"there is no method {method}"))
        if handler.request_streaming:  # one that refuses without reading a message
            await self.answer(handler, b"", call)
        return handler

    async def answer(self, handler: Any, data: bytes, call: HttpCall) -> Any:
        """The answer's message, or None of a method that writes a stream. Raises CallRefused."""
        kind = "_".join(
            "stream" if streaming else "unary"
            for streaming in (handler.request_streaming, handler.response_streaming)
        )
        try:
            return await getattr(handler, kind)(data, call)
        except grpc.aio.AbortError:
            assert call.refusal is not None
            raise CallRefused(call.refusal) from None

    async def unary(self, method: str, data: bytes, call: HttpCall) -> Any:
        """Both steps, for a call without a body. Raises CallRefused."""
        return await self.answer(await self.admitted(method, call), data, call)

    async def _found(self, details: CallDetails) -> Any:
        for service in self._services:
            handler = service.service(details)
            if handler is not None:
                return handler
        return None


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
