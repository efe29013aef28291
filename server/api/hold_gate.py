"""Holds the calls of connections that ignore RetryInfo before their request is read: a held call
costs no more than the bytes gRPC receives by itself. It wraps the methods that predict, and is idle
while no connection is early.

A call that comes early is let through when there is room for it. Otherwise it waits until the time
that RetryInfo gave its connection, and is refused unread if there is still no room, with that time
again. So priority does not help a connection that ignores RetryInfo.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc

from server.api.retry_penalty import RetryPenalty
from server.types import Fault

HELD_METHODS = ("/trefoil.v1.Inference/Predict", "/inference.GRPCInferenceService/ModelInfer")

Refuse = Callable[[Fault, Any], Awaitable[None]]  # ends the call

# Why an ordinary row with this many seconds left would be refused now, or None.
Refusal = Callable[[float | None], Fault | None]


class HoldGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, penalty: RetryPenalty, refusal: Refusal, refuse: Refuse) -> None:
        self._penalty = penalty
        self._refusal = refusal
        self._refuse = refuse
        # Method -> (its handler, the handler with the gate).
        self._gated: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        method = details.method
        if handler is None or method not in HELD_METHODS or not self._penalty.active:
            return handler
        known, gated = self._gated.get(method, (None, None))
        if known is not handler:
            gated = self._gate(handler)
            self._gated[method] = (handler, gated)
        return gated

    def _gate(self, handler: Any) -> Any:
        """The handler of call_budget.py, which reads its message itself, started later."""

        async def call(requests: Any, context: Any) -> None:
            with self._penalty.open_call(context.peer()):
                fault = await self._still_refused(context)
            if fault is not None:
                await self._refuse(fault, context)
            await handler.stream_stream(requests, context)

        return grpc.stream_stream_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )

    async def _still_refused(self, context: Any) -> Fault | None:
        """The refusal, or None if the call is not early or there is room for it, either now or when
        it is due."""
        peer = context.peer()
        if not self._penalty.early_s(peer) or self._refusal(context.time_remaining()) is None:
            return None
        asked_s = self._penalty.asked_s(peer)
        if not await self._penalty.hold(peer, context.time_remaining()):
            return None
        fault = self._refusal(context.time_remaining())
        # Its place has passed by, and it is promised no other. With a time as short as that, its
        # connection would be early for as short a time, and ask again and again.
        return fault and replace(fault, retry_after_s=max(fault.retry_after_s, asked_s))
