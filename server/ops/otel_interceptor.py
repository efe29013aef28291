"""Reports every call to OpenTelemetry, and links each prediction to its call.

The interceptor is outside all others, so that refused calls are counted too. A record is made long
after the bytes of its call were read. A context variable carries the call to the record, as it
follows the tasks and callbacks of the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from server.api.call_budget import MANY_MESSAGES
from server.engine import RecordSink
from server.request.caller import TRACE_KEY
from server.security.guard import kind_of
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.items import ObservedCall
from server.telemetry.record import FeatureSpec, Record

STATE_KEY = "tracestate"
# A deadline is sent as time left. So it ends later here than at the caller, by the time the request
# took to arrive; and a call past its deadline is reset there like a cancelled one.
DEADLINE_LAG_S = 0.1
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

CALL: ContextVar[ObservedCall | None] = ContextVar("call", default=None)


class OtelRecorder:
    """A recorder that reports each record to OpenTelemetry, then passes it on."""

    def __init__(self, instruments: Instruments, recorder: RecordSink) -> None:
        self._instruments = instruments
        self._recorder = recorder

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self._recorder.put(self._instruments.answered(record, CALL.get()), schema)


class OtelInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """One call is one task: a value set while the handler is looked up is visible in the
    handler."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        # Method -> (its handler, the wrapped handler).
        self._wrapped_handlers: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None  # gRPC itself answers UNIMPLEMENTED
        method = details.method
        parent, state = _trace_headers(details.invocation_metadata or ())
        streamed = MANY_MESSAGES.get()
        CALL.set(self._instruments.began(method.lstrip("/"), parent, state, streamed))
        known, wrapped = self._wrapped_handlers.get(method, (None, None))
        if known is not handler:  # a guard makes a new one for each call
            wrapped = _wrapped(handler, self._ended)
            self._wrapped_handlers[method] = (handler, wrapped)
        return wrapped

    def _ended(self, call: ObservedCall, status: str, took_s: float) -> None:
        # Records are made in the next turn of the loop; the call ends after that.
        asyncio.get_running_loop().call_soon(self._instruments.ended, call, status, took_s)


Ended = Callable[[ObservedCall, str, float], None]


def _wrapped(handler: Any, ended: Ended) -> Any:
    """The handler, wrapped to report when and how its call ended."""
    make, inner = kind_of(handler)

    async def call(request: Any, context: Any) -> Any:
        current = CALL.get()
        assert current is not None
        if current.streamed or (current.trace is not None and current.trace.sampled):
            current.peer = context.peer()
            current.http_address = getattr(context, "http_address", "")
        began_s = time.perf_counter()
        status = "UNKNOWN"  # gRPC's status for an exception
        try:
            answer = inner(request, context)
            if inspect.isasyncgen(answer):
                async for message in answer:
                    await context.write(message)
                found = None
            else:
                found = await answer
            status = _status_of(context, "OK")
            return found
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            early = left_s is None or left_s > DEADLINE_LAG_S
            status = "CANCELLED" if early else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            status = _status_of(context, "UNKNOWN")
            raise
        finally:
            ended(current, status, time.perf_counter() - began_s)

    return make(call, handler.request_deserializer, handler.response_serializer)


def _trace_headers(metadata: Any) -> tuple[str, str]:
    parent = state = ""
    for key, value in metadata:
        if key == TRACE_KEY:
            parent = str(value)
        elif key == STATE_KEY:
            state = str(value)
    return parent, state


def _status_of(context: Any, unset: str) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return NAMES.get(code, unset) if code else unset
