"""The guard in front of every method: it identifies the caller and checks the permission.

One interceptor around all four kinds of handler. A credential is a bearer token in `authorization`
metadata, or a client certificate whose SAN is spiffe://trefoil/<role>/<name>.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlparse

import grpc

from server.ops.refusal_log import RefusalLog
from server.request.actor import ACTOR, MAY_READ_PAYLOADS
from server.request.status import end
from server.security.audit import AuditLog
from server.security.roles import ALLOWED, AUDITED, PAYLOADS, ROLES, Role, is_open, permits
from server.security.tokens import CallerIdentity, TokenFile

AUTHORIZATION = "authorization"
TRUST_DOMAIN = "trefoil"

Denial = tuple[grpc.StatusCode, str]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """`tokens` None: only certificates count. If there are neither tokens nor certificates, do not
    install a guard."""

    def __init__(
        self, tokens: TokenFile | None, audit: AuditLog | None, certificates: bool = True
    ) -> None:
        """`certificates`: clients may present one, which is known only once the handler runs."""
        self._tokens = tokens
        self._audit = audit
        self._certificates = certificates
        self._log = RefusalLog()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        method = details.method
        if not is_open(method) and self._hopeless(method, details.invocation_metadata or ()):
            return self._denying(method)
        handler = await continuation(details)
        if handler is None or is_open(method):
            return handler
        return self._guarded(handler, method)

    def _hopeless(self, method: str, metadata: Any) -> bool:
        """Whether the head of the call alone shows that it will be denied."""
        bearer = bearer_of(metadata)
        if not bearer and (self._certificates or self._tokens is None):
            return False
        return judge(method, self._of_token(bearer)) is not None

    def _denying(self, method: str) -> Any:
        """A handler that reads no message: without a credential, a caller cannot make the server
        receive one."""

        async def call(_requests: Any, context: Any) -> None:
            await self._check(method, context)

        return grpc.stream_stream_rpc_method_handler(call)

    def _guarded(self, handler: Any, method: str) -> Any:
        wrap, inner = kind_of(handler)

        async def call(request: Any, context: Any) -> Any:
            identity = await self._check(method, context)
            ACTOR.set(identity.name if identity is not None else "")
            MAY_READ_PAYLOADS.set(identity is not None and identity.role in PAYLOADS)
            answer = inner(request, context)
            if inspect.isasyncgen(answer):
                async for message in answer:
                    await context.write(message)
                return None
            return await answer

        return wrap(call, handler.request_deserializer, handler.response_serializer)

    async def _check(self, method: str, context: Any) -> CallerIdentity | None:
        """The caller's identity; ends the call if the caller is not permitted."""
        identity = self.identity(context)
        denial = judge(method, identity)
        if self._audit is not None and method in AUDITED:
            self._audit.write(method, identity, context.peer(), denied=denial is not None)
        if denial is not None:
            self._log.refused(denial[1], denial[0].name, method.lstrip("/"), context.peer())
            await end(context, *denial)
        return identity

    def identity(self, context: Any) -> CallerIdentity | None:
        """The identity. A token takes precedence over a certificate, as it is more specific."""
        bearer = bearer_of(context.invocation_metadata() or ())
        if bearer:
            return self._of_token(bearer)
        # URIs only: the list of all alternative names also has DNS names and e-mail addresses,
        # which an authority may sign without considering their meaning as a URI.
        names = context.auth_context().get("peer_uri", ())
        return next(filter(None, map(identity_of_uri, names)), None)

    def _of_token(self, bearer: str) -> CallerIdentity | None:
        return self._tokens.identity(bearer) if bearer and self._tokens is not None else None


def kind_of(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(the function that makes a handler of this kind, the behaviour of this handler)."""
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
    """The identity in spiffe://trefoil/<role>/<name> of a verified certificate; None for other
    URIs."""
    uri = urlparse(name.decode("utf-8", "replace"))
    role, _, who = uri.path.strip("/").partition("/")
    if uri.scheme != "spiffe" or uri.netloc != TRUST_DOMAIN or not who:
        return None
    known: dict[str, Role] = {role: role for role in ROLES}
    return CallerIdentity(who, known[role], "certificate") if role in known else None
