"""/v2: the Open Inference Protocol over HTTP, with the extensions that Triton's clients use. Each
route is a method of inference.GRPCInferenceService."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.api import open_inference_messages as v2
from server.http.calls import Calls
from server.http.exchange import Exchange, Header, Response, json_bytes, json_of
from server.http.open_inference_json import (
    NOTHING_ASKED,
    infer_request,
    infer_response,
    plain_message,
)
from server.http.refusals import CallRefusal, HttpRefused
from server.http.status import STAMP_HEADER, refusal_headers, status_of

SERVICE = "/inference.GRPCInferenceService/"
MODEL = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>[a-z_]+))?"
)
HEADER_LENGTH = b"inference-header-content-length"
BINARY = b"application/octet-stream"

Route = Callable[[Exchange], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class OpenInferenceRoutes:
    calls: Calls

    def route(self, method: str, path: str) -> Route | str | None:
        """The route; the other HTTP method if the path only has that one; None for an unknown
        path."""
        exact: dict[str, tuple[str, Route]] = {
            "/v2": ("GET", self.server),
            "/v2/health/live": ("GET", self.live),
            "/v2/health/ready": ("GET", self.ready),
            "/v2/models/stats": ("GET", self.all_statistics),
            "/v2/repository/index": ("POST", self.index),
        }
        found = exact.get(path.rstrip("/"))
        if found is None:
            model = MODEL.fullmatch(path)
            if model is None:
                return None
            found = self._of_model(model["what"] or "", model["name"], model["version"] or "")
        if found is None:
            return None
        return found[1] if method in (found[0], "HEAD") else found[0]

    def _of_model(self, what: str, name: str, version: str) -> tuple[str, Route] | None:
        async def infer(exchange: Exchange) -> Response:
            return await self._infer(exchange, name, version)

        async def ready(exchange: Exchange) -> Response:
            request = v2.ModelReadyRequest(name=name, version=version)
            answer = await self._ask(exchange, "ModelReady", request)
            return _truth(answer.ready, name=name, ready=answer.ready)

        async def metadata(exchange: Exchange) -> Response:
            request = v2.ModelMetadataRequest(name=name, version=version)
            return _found(await self._ask(exchange, "ModelMetadata", request))

        async def config(exchange: Exchange) -> Response:
            request = v2.ModelConfigRequest(name=name, version=version)
            return _found((await self._ask(exchange, "ModelConfig", request)).config)

        async def stats(exchange: Exchange) -> Response:
            request = v2.ModelStatisticsRequest(name=name, version=version)
            return _found(await self._ask(exchange, "ModelStatistics", request))

        routes: dict[str, tuple[str, Route]] = {
            "infer": ("POST", infer),
            "ready": ("GET", ready),
            "config": ("GET", config),
            "stats": ("GET", stats),
            "": ("GET", metadata),
        }
        return routes.get(what)

    async def live(self, exchange: Exchange) -> Response:
        answer = await self._ask(exchange, "ServerLive", v2.ServerLiveRequest())
        return _truth(answer.live, live=answer.live)

    async def ready(self, exchange: Exchange) -> Response:
        answer = await self._ask(exchange, "ServerReady", v2.ServerReadyRequest())
        return _truth(answer.ready, ready=answer.ready)

    async def server(self, exchange: Exchange) -> Response:
        return _found(await self._ask(exchange, "ServerMetadata", v2.ServerMetadataRequest()))

    async def all_statistics(self, exchange: Exchange) -> Response:
        return _found(await self._ask(exchange, "ModelStatistics", v2.ModelStatisticsRequest()))

    async def index(self, exchange: Exchange) -> Response:
        body = await exchange.body()
        only_ready = json_of(body).get("ready", False) is True if body else False
        request = v2.RepositoryIndexRequest(ready=only_ready)
        answer = await self._ask(exchange, "RepositoryIndex", request)
        return Response(200, json_bytes([plain_message(model) for model in answer.models]))

    async def _infer(self, exchange: Exchange, name: str, version: str) -> Response:
        asked = NOTHING_ASKED

        async def read() -> bytes:
            nonlocal asked
            length = exchange.headers.get(HEADER_LENGTH)
            asked = infer_request(await exchange.body(), length, name, version)
            return asked.data

        answer = await self.calls.make(f"{SERVICE}ModelInfer", exchange.call(), read)
        body, head = infer_response(answer, asked)
        headers: list[Header] = [(STAMP_HEADER, answer.parameters["stamp"].string_param.encode())]
        if head is None:
            return Response(200, body, headers=headers)
        headers.append((HEADER_LENGTH, b"%d" % head))
        return Response(200, body, BINARY, headers)

    async def _ask(self, exchange: Exchange, method: str, request: Any) -> Any:
        return await self.calls.ask(
            f"{SERVICE}{method}", request.SerializeToString(), exchange.call()
        )


def refused(refusal: CallRefusal, stamp: str) -> Response:
    """A refusal in this protocol's form: one object with `error`."""
    body = json_bytes({"error": refusal.message})
    return Response(status_of(refusal), body, headers=refusal_headers(refusal, stamp))


def http_refused(refusal: HttpRefused) -> Response:
    where = f"{refusal.field}: " if refusal.field else ""
    body = json_bytes({"error": f"{where}{refusal.message} [{refusal.reason}]"})
    return Response(refusal.status, body)


def _found(message: Any) -> Response:
    return Response(200, json_bytes(plain_message(message)))


def _truth(good: bool, **found: str | bool) -> Response:
    """A yes or no: probes and Triton's clients read the status, KServe's clients the object."""
    return Response(200 if good else 503, json_bytes(found))
