"""Limits how many calls may be open at the same time: in total and for each host, by kind of call.

Each kind of call has its own places. So no load of predictions can take the places of health,
Observe and Admin, and no flood of watchers those of predictions. A call takes a place in the total
when its head arrives, before its message, and a place of its host when its handler begins.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from server.api.arrivals import ArrivalLimits, Arrivals, CountedContext
from server.api.retry_penalty import RefusalPace
from server.config import ServerConfig
from server.request.caller import host_of
from server.request.status import Refused, abort
from server.security.guard import kind_of
from server.types import Fault

RETRY_AFTER_S = 1.0

# Whether the caller of this task sends more than one message: gRPC sees every method here as a
# stream.
MANY_MESSAGES: ContextVar[bool] = ContextVar("many_messages", default=False)

PREDICT, STREAM, HEALTH, OBSERVE, ADMIN = "predict", "stream", "health", "observe", "admin"
WATCH, HEALTH_WATCH = "watch", "health-watch"

# The kind of a call, by service unless the method is listed; inference of both protocols is
# PREDICT.
_SERVICES = {
    "grpc.health.v1.Health": HEALTH,
    "trefoil.v1.Observe": OBSERVE,
    "grpc.reflection.v1.ServerReflection": OBSERVE,
    "grpc.reflection.v1alpha.ServerReflection": OBSERVE,
    "trefoil.v1.Admin": ADMIN,
    "trefoil.http.Metrics": OBSERVE,
}
_METHODS = {
    **{f"/trefoil.v1.Inference/{name}": STREAM for name in ("PredictStream", "Generate", "Upload")},
    **{f"/inference.GRPCInferenceService/{name}": HEALTH for name in ("ServerLive", "ServerReady")},
    "/inference.GRPCInferenceService/ModelReady": HEALTH,
    "/inference.GRPCInferenceService/ModelStreamInfer": STREAM,
    "/grpc.health.v1.Health/Watch": HEALTH_WATCH,
    "/trefoil.v1.Observe/Watch": WATCH,
}


@dataclass(frozen=True, slots=True)
class CallShare:
    """The places of one kind of call. `flag` is the flag that raises them, "" if there is none."""

    in_all: int
    of_host: int
    flag: str = ""


Shares = Mapping[str, CallShare]


def shares_of(config: ServerConfig) -> Shares:
    return {
        PREDICT: CallShare(config.max_calls, config.max_calls_peer, "--max-calls"),
        STREAM: CallShare(config.max_calls // 2, config.max_calls_peer // 4 or 1, "--max-calls"),
        HEALTH: CallShare(512, 256),
        HEALTH_WATCH: CallShare(config.max_watchers, config.max_watchers_peer, "--max-watchers"),
        OBSERVE: CallShare(256, 32),
        WATCH: CallShare(config.max_watchers, config.max_watchers_peer, "--max-watchers"),
        ADMIN: CallShare(64, 32),
    }


def arrival_limits(config: ServerConfig) -> ArrivalLimits:
    return ArrivalLimits(
        bytes_in_all=config.arriving_bytes,
        bytes_of_host=config.arriving_peer_bytes,
        connections_in_all=config.max_connections,
        connections_of_host=config.max_connections_peer,
        message_bytes=config.max_message_bytes,
    )


def kind_of_call(method: str) -> str:
    service = method.strip("/").partition("/")[0]
    return _METHODS.get(method) or _SERVICES.get(service, PREDICT)


class CallBudget(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The innermost interceptor, so that only permitted calls take places.

    gRPC sees every method as two streams. So it does not read a message by itself, and a guard
    outside this interceptor checks the caller before any message has arrived.

    # Invariant: `open[kind]` is the number of calls whose task has not ended and that are not being
    refused, `hosts[kind, host]` the number of running handlers; neither ever exceeds its share.
    """

    def __init__(
        self, shares: Shares, stamp: Callable[[], str], arrivals: Arrivals, pace: RefusalPace
    ) -> None:
        self.shares = shares
        self.arrivals = arrivals
        self._stamp = stamp
        self._pace = pace
        self.open: Counter[str] = Counter()
        self.hosts: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[str] = Counter()
        # Method -> (its handler, the handler that counts).
        self._counted: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None  # gRPC itself answers UNIMPLEMENTED
        method = details.method
        kind = kind_of_call(method)
        share = self.shares[kind]
        if self.open[kind] >= share.in_all:
            return self._refusing(kind, f"{share.in_all} calls in all", share)
        self._take_place(kind, method)
        MANY_MESSAGES.set(handler.request_streaming)
        known, counted = self._counted.get(method, (None, None))
        if known is not handler:
            counted = self._counting(handler, kind)
            self._counted[method] = (handler, counted)
        return counted

    def _take_place(self, kind: str, method: str) -> None:
        """Hold a place until the task of this call ends, in whatever way."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(method)  # server/ops/loop_lag.py reports it
        self.open[kind] += 1
        task.add_done_callback(lambda _: self.open.subtract((kind,)))

    @contextmanager
    def _without_place(self, kind: str) -> Iterator[None]:
        """Give the place in the total to others while a refusal waits."""
        self.open[kind] -= 1
        try:
            yield
        finally:
            self.open[kind] += 1

    def _counting(self, handler: Any, kind: str) -> Any:
        _, inner = kind_of(handler)
        share = self.shares[kind]
        arrivals, streaming = self.arrivals, handler.request_streaming

        async def call(_requests: Any, context: Any) -> None:
            host = host_of(context.peer())
            if self.hosts[kind, host] >= share.of_host:
                with self._without_place(kind):
                    await self._refuse(kind, f"{share.of_host} calls of one host", share, context)
            with self._of_host(kind, host):
                if streaming:
                    answer = inner(arrivals.all(context), CountedContext(context, arrivals))
                else:
                    try:
                        # No reference is kept while it is answered, as the message may be large.
                        answer = inner(await arrivals.one(context), context)
                    except Refused as refusal:
                        await abort(context, refusal.faults[:1], self._stamp())
                if inspect.isasyncgen(answer):
                    async for message in answer:
                        await context.write(message)
                elif (message := await answer) is not None:
                    await context.write(message)

        return grpc.stream_stream_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )

    @contextmanager
    def _of_host(self, kind: str, host: str) -> Iterator[None]:
        self.hosts[kind, host] += 1
        try:
            yield
        finally:
            self.hosts[kind, host] -= 1
            if not self.hosts[kind, host]:
                del self.hosts[kind, host]

    def _refusing(self, kind: str, limit: str, share: CallShare) -> Any:
        """A handler that reads no message: even a stream may be refused before one has arrived."""

        async def call(_requests: Any, context: Any) -> None:
            await self._refuse(kind, limit, share, context)

        return grpc.stream_stream_rpc_method_handler(call)

    async def _refuse(self, kind: str, limit: str, share: CallShare, context: Any) -> NoReturn:
        self.refused[kind] += 1
        remedy = f"; {share.flag} raises it" if share.flag else ""
        text = f"the limit is {limit} for {kind} at the same time{remedy}"
        fault = Fault("RESOURCE_EXHAUSTED", "", "TOO_MANY_CALLS", text, RETRY_AFTER_S)
        await self._pace.hold(host_of(context.peer()), context.time_remaining())
        await abort(context, (fault,), self._stamp())
