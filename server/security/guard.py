"""The guard in front of every method: who calls, and may they.

One interceptor around all four kinds of handler. A credential is a bearer token in `authorization`
metadata, or a client certificate whose SAN says spiffe://trefoil/<role>/<name>.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlparse

import grpc

from server.ops.refusal_log import RefusalLog
from server.request.actor import ACTOR
from server.security.audit import AuditLog
from server.security.roles import ADMIN, ALLOWED, ROLES, Role, is_open, permits
from server.security.tokens import CallerIdentity, TokenFile

AUTHORIZATION = "authorization"
TRUST_DOMAIN = "trefoil"

Denial = tuple[grpc.StatusCode, str]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """`tokens` None: only certificates count. Without either, do not install a guard at all."""

    def __init__(self, tokens: TokenFile | None, audit: AuditLog | None) -> None:
        self._tokens = tokens
        self._audit = audit
        self._log = RefusalLog()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if handler is None or is_open(details.method):
            return handler
        return self._guarded(handler, details.method)

    def _guarded(self, handler: Any, method: str) -> Any:
        wrap, inner = kind_of(handler)

        async def call(request: Any, context: Any) -> Any:
            ACTOR.set(await self._check(method, context))
            answer = inner(request, context)
            if inspect.isasyncgen(answer):
                async for message in answer:
                    await context.write(message)
                return None
            return await answer

        return wrap(call, handler.request_deserializer, handler.response_serializer)

    async def _check(self, method: str, context: Any) -> str:
        """The name of the caller; ends the call when it is not allowed."""
        identity = self.identity(context)
        denial = judge(method, identity)
        if self._audit is not None and ALLOWED.get(method) == ADMIN:
            self._audit.write(method, identity, context.peer(), denied=denial is not None)
        if denial is not None:
            self._log.refused(denial[1], denial[0].name, method.lstrip("/"), context.peer())
            await context.abort(*denial)
        return identity.name if identity is not None else ""

    def identity(self, context: Any) -> CallerIdentity | None:
        """A token counts before a certificate: it is the narrower statement."""
        bearer = bearer_of(context.invocation_metadata() or ())
        if bearer:
            return self._tokens.identity(bearer) if self._tokens is not None else None
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return next(filter(None, map(identity_of_uri, names)), None)


def kind_of(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How to make a handler of this kind, and the function of this one."""
    kind = "_".join(
        "stream" if streaming else "unary"
        for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return getattr(grpc, f"{kind}_rpc_method_handler"), getattr(handler, kind)


def judge(method: str, identity: CallerIdentity | None) -> Denial | None:
    if identity is None:
        text = "a valid bearer token or client certificate is needed"
        return grpc.StatusCode.UNAUTHENTICATED, text
    if not permits(method, identity.role):
        needed = " or ".join(sorted(ALLOWED.get(method, ()))) or "no role at all"
        text = f"{identity.name} has role {identity.role}; this method needs {needed}"
        return grpc.StatusCode.PERMISSION_DENIED, text
    return None


def bearer_of(metadata: Any) -> str:
    for key, value in metadata:
        if key == AUTHORIZATION and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ").strip()
    return ""


def identity_of_uri(name: bytes) -> CallerIdentity | None:
    """spiffe://trefoil/<role>/<name> in a verified certificate."""
    uri = urlparse(name.decode("utf-8", "replace"))
    role, _, who = uri.path.strip("/").partition("/")
    if uri.scheme != "spiffe" or uri.netloc != TRUST_DOMAIN or not who:
        return None
    known: dict[str, Role] = {role: role for role in ROLES}
    return CallerIdentity(who, known[role], "certificate") if role in known else None
