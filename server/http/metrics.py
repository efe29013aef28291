"""/metrics: the content of the --prometheus scrape endpoint, for callers who may observe."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from server.http.calls import Calls
from server.http.exchange import Exchange, Response
from server.security.roles import METRICS
from server.telemetry.otel.prometheus import Exposition


class MetricsRoute:
    """One scrape at a time, in a thread, as it reads all counts."""

    def __init__(self, calls: Calls, exposition: Exposition) -> None:
        self._calls = calls
        self._exposition = exposition
        self._one = asyncio.Lock()

    async def scrape(self, exchange: Exchange) -> Response:
        await self._calls.ask(METRICS, b"", exchange.call())
        accept = exchange.headers.get(b"accept", b"").decode("latin-1")
        async with self._one:
            body, content_type = await asyncio.to_thread(self._exposition.text, accept)
        return Response(200, body, content_type.encode())


def metrics_service() -> Any:
    """A method that no gRPC service has: roles and places are looked up by its name."""

    async def scrape(_request: bytes, _call: Any) -> None:
        return None

    service, method = METRICS.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(scrape)
    return grpc.method_handlers_generic_handler(service, {method: handler})
