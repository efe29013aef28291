"""The ASGI application: routes paths, and forms errors as each protocol requires."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.api.health import TAKES_TRAFFIC
from server.api.snapshot_messages import ServerIdentity
from server.engine import Engine
from server.http import open_inference_rest, openai
from server.http.calls import Calls
from server.http.exchange import BodyLimit, Exchange, Response
from server.http.metrics import MetricsRoute
from server.http.native import NativeRoutes, in_form_terms
from server.http.open_inference_rest import OpenInferenceRoutes
from server.http.openai import DESCRIBE, OpenAiRoutes
from server.http.page import page
from server.http.refusals import CallerGone, CallRefusal, CallRefused, HttpRefused
from server.http.status import http_problem, problem
from server.ops.refusal_log import RefusalLog

logger = logging.getLogger(__name__)

TEXT = b"text/plain; charset=utf-8"
HTML = b"text/html; charset=utf-8"
MODELS = "/v1/models/"
FORMS = ("/v1/predict", "/v1/generate")
OPEN_INFERENCE = "/v2"

Route = Callable[[Exchange], Awaitable[Response | None]]


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """The form of a protocol's errors: for a refused call, and for a refusal by HTTP itself."""

    of_call: Callable[[CallRefusal, str], Response]
    of_http: Callable[[HttpRefused], Response]


PLAIN = ErrorForm(problem, http_problem)
FORM = ErrorForm(lambda refusal, stamp: problem(in_form_terms(refusal), stamp), http_problem)
OPENAI = ErrorForm(openai.refused, openai.http_refused)
OPEN_INFERENCE_ERRORS = ErrorForm(open_inference_rest.refused, open_inference_rest.http_refused)


@dataclass(eq=False)
class HttpApp:
    """`metrics` None: nothing is counted here. `listen` is the address of the gRPC port."""

    engine: Engine
    calls: Calls
    identity: ServerIdentity
    limit: BodyLimit
    metrics: MetricsRoute | None
    listen: Callable[[], str]

    def __post_init__(self) -> None:
        self._log = RefusalLog()
        native = NativeRoutes(self.calls)
        self._openai = OpenAiRoutes(
            self.calls, lambda: self.engine.facts, self.engine.snapshot().started
        )
        self._open_inference = OpenInferenceRoutes(self.calls)
        self._routes: dict[str, tuple[str, Route]] = {
            "/": ("GET", self._page),
            "/livez": ("GET", self._live),
            "/readyz": ("GET", self._ready),
            "/startupz": ("GET", self._startup),
            "/v1/predict": ("POST", native.predict),
            "/v1/generate": ("POST", native.generate),
            "/v1/models": ("GET", self._openai.models),
            "/v1/embeddings": ("POST", self._openai.embeddings),
            "/v1/chat/completions": ("POST", self._openai.chat),
        }
        if self.metrics is not None:
            self._routes["/metrics"] = ("GET", self.metrics.scrape)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        connection = scope["state"]["connection"]
        connection.begin()
        exchange = Exchange(scope, receive, send, connection, self.limit)
        try:
            await self._serve(exchange, scope["method"], scope["path"])
        except CallerGone:
            return
        except asyncio.CancelledError:
            if not connection.lost:
                raise
        finally:
            connection.end()
            exchange.release()

    async def _serve(self, exchange: Exchange, method: str, path: str) -> None:
        form = _form_of(path)
        closing = False
        try:
            response = await self._route(method, path)(exchange)
        except CallRefused as refused:
            response = form.of_call(refused.refusal, self._stamp())
        except HttpRefused as refused:
            response, closing = form.of_http(refused), refused.closing
            peer = exchange.connection.peer
            self._log.refused(str(refused), refused.reason, f"{method} {path[:100]}", peer)
        except Exception:
            logger.exception("%s %s", method, path)
            if exchange.started:
                raise  # what was sent cannot be taken back, so the connection is closed
            fault = CallRefusal("INTERNAL", "an error of this server; its log has it", "", "BUG")
            response = form.of_call(fault, self._stamp())
        if response is None:
            return
        if closing:
            await exchange.discard()
        await exchange.answer(response, closing)

    def _stamp(self) -> str:
        facts = self.engine.facts
        return facts.stamp if facts is not None else ""

    def _route(self, method: str, path: str) -> Route:
        """The route of a path. Raises HttpRefused."""
        found: Route | str | None
        if path.startswith(OPEN_INFERENCE):
            found = self._open_inference.route(method, path)
        elif path.startswith(MODELS):
            found = partial(self._openai.model, name=path.removeprefix(MODELS))
            found = found if method in ("GET", "HEAD") else "GET"
        else:
            known = self._routes.get(path)
            found = None
            if known is not None:
                fits = method == known[0] or (method == "HEAD" and known[0] == "GET")
                found = known[1] if fits else known[0]
        if found is None:
            raise HttpRefused(
                404, "UNKNOWN_PATH", f"there is no {path[:100]}; docs/http.md lists them"
            )
        if isinstance(found, str):
            raise HttpRefused(405, "WRONG_METHOD", f"{path[:100]} takes {found}", closing=True)
        return found

    async def _live(self, _exchange: Exchange) -> Response:
        return self._probe(lambda state: True)

    async def _ready(self, _exchange: Exchange) -> Response:
        return self._probe(lambda state: state in TAKES_TRAFFIC)

    async def _startup(self, _exchange: Exchange) -> Response:
        return self._probe(lambda state: state != "STARTING")

    def _probe(self, good: Callable[[str], bool]) -> Response:
        now = self.engine.snapshot()
        text = f"{now.state.lower()}{': ' if now.reason else ''}{now.reason}\n"
        return Response(200 if good(now.state) else 503, text.encode(), TEXT)

    async def _page(self, exchange: Exchange) -> Response:
        try:
            stamp = (await self.calls.ask(DESCRIBE, b"", exchange.call())).stamp
            shown = (stamp.hex, stamp.name)
        except CallRefused:
            shown = ("", "")
        text = page(self.identity, self.engine.snapshot(), shown, self.listen())
        return Response(200, text.encode(), HTML)


def _form_of(path: str) -> ErrorForm:
    if path.startswith(OPEN_INFERENCE):
        return OPEN_INFERENCE_ERRORS
    if path in FORMS:
        return FORM
    return OPENAI if path.startswith("/v1/") else PLAIN
