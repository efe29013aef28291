"""Tells OpenTelemetry of every call and, while it lasts, which call a prediction belongs to.

An interceptor around all others, so that what they refuse is counted too. A record is made long
after the bytes of its call were read; a context variable carries the call there, as it follows the
tasks and callbacks of the event loop by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from server.caller import TRACE_KEY
from server.engine import Recorder
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.items import Call
from server.telemetry.record import FeatureSpec, Record

STATE_KEY = "tracestate"
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

CALL: ContextVar[Call | None] = ContextVar("call", default=None)


class Told:
    """A recorder that tells OpenTelemetry of each record, then hands it on."""

    def __init__(self, instruments: Instruments, recorder: Recorder) -> None:
        self._instruments = instruments
        self._recorder = recorder

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self._recorder.put(self._instruments.answered(record, CALL.get()), schema)


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None  # gRPC itself answers UNIMPLEMENTED
        return self._told(handler, details.method.lstrip("/"))

    def _told(self, handler: Any, method: str) -> Any:
        wrap, inner = _kind_of(handler)
        streamed = handler.request_streaming

        async def call(request: Any, context: Any) -> Any:
            parent, state = _trace_headers(context)
            told = self._instruments.began(method, parent, state, streamed)
            CALL.set(told)
            began_s = time.perf_counter()
            status = "UNKNOWN"  # what gRPC makes of an exception
            try:
                answer = inner(request, context)
                if inspect.isasyncgen(answer):
                    async for message in answer:
                        await context.write(message)
                    answer = None
                else:
                    answer = await answer
                status = _status_of(context, "OK")
                return answer
            except asyncio.CancelledError:
                left_s = context.time_remaining()
                gone = left_s is None or left_s > 0
                status = "CANCELLED" if gone else "DEADLINE_EXCEEDED"
                raise
            except grpc.aio.AbortError:
                status = _status_of(context, "UNKNOWN")
                raise
            finally:
                took_s = time.perf_counter() - began_s
                # Records are made in the next turn of the loop; the call ends after them.
                loop = asyncio.get_running_loop()
                loop.call_soon(self._instruments.ended, told, status, took_s)

        return wrap(call, handler.request_deserializer, handler.response_serializer)


def _kind_of(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How to make such a handler, and what this one does."""
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _trace_headers(context: Any) -> tuple[str, str]:
    parent = state = ""
    for key, value in context.invocation_metadata() or ():
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
