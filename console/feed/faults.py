"""Why a call failed, as a phrase for an operator; never gRPC's own text."""

from __future__ import annotations

import grpc
from grpc import aio

from console.state.sanitize import sanitized

REFUSED = "connection refused"  # the machine answers, and no process listens on the port
# Texts that occur in gRPC's details, the decisive one first, and what each means.
_MEANINGS = (
    ("connection refused", REFUSED),
    ("name resolution", "the host name is not known"),
    ("dns", "the host name is not known"),
    ("no route to host", "the network has no route to it"),
    ("network is unreachable", "the network has no route to it"),
    ("certificate_verify_failed", "its certificate is not trusted"),
    ("handshake", "no agreement about TLS"),
    ("ssl", "no agreement about TLS"),
    ("timed out", "no answer in time"),
    ("timeout", "no answer in time"),
    ("connection reset", "the connection broke"),
    ("broken pipe", "the connection broke"),
    ("socket closed", "the connection broke"),
    ("stream removed", "the connection broke"),
    ("goaway", "the server closed the connection"),
)
# For all other errors: the code, and whether the server's own sentence follows it.
_CODES = {
    grpc.StatusCode.UNAVAILABLE: ("the connection broke", False),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("no answer in time", False),
    grpc.StatusCode.CANCELLED: ("the call was ended", False),
    grpc.StatusCode.UNAUTHENTICATED: ("the server does not accept this token", True),
    grpc.StatusCode.PERMISSION_DENIED: ("this token may not do that", True),
    grpc.StatusCode.UNIMPLEMENTED: ("this server is too old for that", False),
    grpc.StatusCode.INTERNAL: ("an error inside the server", True),
}


def phrase(error: aio.AioRpcError) -> str:
    """One phrase without a full stop. The server's own sentence is kept where it wrote one."""
    details = str(error.details() or "")
    code = error.code()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
        low = details.lower()
        found = next((text for sign, text in _MEANINGS if sign in low), "")
        if found:
            return found
    text, own = _CODES.get(code, ("", True))
    if not own or not details:
        return text or "the call failed"
    return sanitized(f"{text}: {details}" if text else details, 300)
