"""The handlers of every method: they pass request bytes on unparsed, and turn a Refused into a
status with details and the serving stamp. This module does not know services by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
from google.protobuf import message, message_factory

from server.api.retry_penalty import RefusalPace, RetryPenalty
from server.ops.refusal_log import RefusalLog
from server.request.caller import host_of
from server.request.lazy_parse import message_of
from server.request.status import STAMP_KEY, Refused, abort, spoken
from server.types import Facts, Fault

Facts_ = Callable[[], Facts | None]
Handler = Callable[..., Awaitable[Any]]
IdReader = Callable[[bytes], str]
ID_FIELDS = ("request_id", "id")  # of the native protocol, and of the Open Inference Protocol

# For a refusal by a full server that gives no time to retry after.
RETRY_AFTER_S = 0.2

# The request itself is at fault, at every moment and on every server.
AT_FAULT = frozenset(("INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND", "UNIMPLEMENTED"))
# A refusal that waits in a stream keeps its request: with a larger one it leaves at once.
PACED_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a refused call ends."""

    faults: tuple[Fault, ...]
    paced: bool


class Handlers:
    def __init__(self, facts: Facts_, retry_penalty: RetryPenalty, pace: RefusalPace) -> None:
        self._facts = facts
        self.retry_penalty = retry_penalty
        self.refusal_pace = pace
        self._log = RefusalLog()

    @property
    def stamp(self) -> str:
        facts = self._facts()
        return facts.stamp if facts else ""

    def of(self, service: Any, servant: object) -> Any:
        """Generic handlers for a service descriptor; `servant` has a method for each it offers.

        A servant's method takes the request's bytes (not when the client streams) and the context.
        gRPC itself answers UNIMPLEMENTED for a method it lacks.
        """
        offered = {
            method.name: self._handler(method, getattr(servant, method.name))
            for method in service.methods
            if hasattr(servant, method.name)
        }
        return grpc.method_handlers_generic_handler(service.full_name, offered)

    def _handler(self, method: Any, served: Callable[..., Any]) -> Any:
        name, id_of = method.full_name, id_reader(method)
        if method.client_streaming and method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._both(served, name), None, _bytes)
        if method.client_streaming:
            unary = self._unary(served, name, _no_id)
            return grpc.stream_unary_rpc_method_handler(unary, None, _bytes)
        if method.server_streaming:
            stream = self._stream(served, name, id_of)
            return grpc.unary_stream_rpc_method_handler(stream, None, _bytes)
        return grpc.unary_unary_rpc_method_handler(self._unary(served, name, id_of), None, _bytes)

    def _unary(
        self, served: Callable[[Any, Any], Awaitable[message.Message]], name: str, id_of: IdReader
    ) -> Handler:
        async def call(request: Any, context: Any) -> message.Message | None:
            self._stamp(context)
            with self.retry_penalty.open_call(context.peer()):
                try:
                    return await served(request, context)
                except Refused as refusal:
                    ending = self._ending(refusal, context, name, request, id_of)
                del request
                await self._end(ending, context)
                return None

        return call

    def _stream(
        self, served: Callable[[bytes, Any], AsyncIterator[Any]], name: str, id_of: IdReader
    ) -> Handler:
        async def call(request: bytes, context: Any) -> None:
            self._stamp(context)
            try:
                # Closed at once when the caller disconnects, so that its work is dropped.
                async with aclosing(served(request, context)) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        await context.write(answer)
                return
            except Refused as refusal:
                ending = self._ending(refusal, context, name, request, id_of)
            del request
            await self._end(ending, context)

        return call

    def _both(self, served: Callable[[Any], Awaitable[None]], name: str) -> Handler:
        async def call(_requests: Any, context: Any) -> None:
            self._stamp(context)
            try:
                await served(context)
                return
            except Refused as refusal:
                ending = self._ending(refusal, context, name, None, _no_id)
            await self._end(ending, context)

        return call

    def _stamp(self, context: Any) -> None:
        context.set_trailing_metadata(((STAMP_KEY, self.stamp),))

    def _ending(
        self, refusal: Refused, context: Any, name: str, request: Any, id_of: IdReader
    ) -> _Ending:
        """`request`: its bytes, or what a stream has instead."""
        first = self.timed(refusal.faults[0], context)
        self.log(first, context, name, partial(id_of, request))
        return _Ending((first, *refusal.faults[1:]), _is_paced(first, request))

    async def _end(self, ending: _Ending, context: Any) -> None:
        """End a call. Neither the refusal nor the request may be referred to by the frames here:
        gRPC keeps the error of an abort in a cycle, with all frames that it passed, until a
        garbage collection."""
        if ending.paced:
            await self._pace(context)
        await abort(context, ending.faults, self.stamp)

    async def refuse_unread(self, fault: Fault, context: Any) -> None:
        """End a call whose request was not read, with the refusal of a full server."""
        fault = self.timed(fault, context)
        self.log(fault, context, "")
        await abort(context, (fault,), self.stamp)

    def log(
        self, fault: Fault, context: Any, method: str, request_id: Callable[[], str] = str
    ) -> None:
        """Log a refused request, also one of a stream that continues."""
        self._log.refused(spoken(fault), fault.code, method, context.peer(), request_id)

    async def hold(self, fault: Fault, context: Any, data: bytes) -> None:
        """Delay a refusal within a stream, whose messages cannot be held before they are read."""
        if fault.code == "RESOURCE_EXHAUSTED":
            await self.retry_penalty.hold(context.peer(), context.time_remaining())
            self.timed(fault, context)
        if _is_paced(fault, data):
            await self._pace(context)

    async def _pace(self, context: Any) -> None:
        await self.refusal_pace.hold(host_of(context.peer()), context.time_remaining())

    def timed(self, fault: Fault, context: Any) -> Fault:
        """A full server's refusal, with the time to retry after; this connection is held to that
        time."""
        if fault.code != "RESOURCE_EXHAUSTED":
            return fault
        timed = fault if fault.retry_after_s else replace(fault, retry_after_s=RETRY_AFTER_S)
        self.retry_penalty.refused(context.peer(), timed.retry_after_s)
        return timed


def _is_paced(fault: Fault, request: Any) -> bool:
    small = isinstance(request, bytes) and len(request) <= PACED_BYTES
    return small and fault.code in AT_FAULT


def id_reader(method: Any) -> IdReader:
    """The function that reads, for the log, the id that the caller gave a request of this
    method."""
    field = next((one for one in ID_FIELDS if one in method.input_type.fields_by_name), None)
    if field is None:
        return _no_id
    kind = message_factory.GetMessageClass(method.input_type)

    def read(request: bytes) -> str:
        try:
            return str(getattr(message_of(kind, request), field))
        except Refused:
            return ""

    return read


def _no_id(_request: Any) -> str:
    return ""


def _bytes(answer: message.Message) -> bytes:
    return answer.SerializeToString()  # type: ignore[no-any-return]
