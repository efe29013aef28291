"""The caller, its deadline and its trace, read once from the call's context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

CLIENT_KEY = "trefoil-client"
TRACE_KEY = "traceparent"
LONGEST_CLIENT = 120

# W3C Trace Context, version 00: version, trace id, parent id, flags.
TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Caller:
    """`peer` is one connection, `host` one machine, `client` the caller's name in telemetry."""

    peer: str
    host: str
    client: str
    trace_parent: str
    remaining_s: float | None  # None: no deadline


def caller_of(context: Any) -> Caller:
    """The caller from a grpc.aio servicer context (whose type grpc does not export with
    annotations)."""
    metadata = {key: value for key, value in context.invocation_metadata() or ()}
    peer = context.peer()
    host = host_of(peer)
    agent = str(metadata.get("user-agent", "")).split(" ")[0]
    named = str(metadata.get(CLIENT_KEY, ""))
    trace = str(metadata.get(TRACE_KEY, ""))
    return Caller(
        peer=peer,
        host=host,
        client=(named or f"{host} {agent}".strip())[:LONGEST_CLIENT],
        trace_parent=trace if TRACE_PARENT.fullmatch(trace) else "",
        remaining_s=context.time_remaining(),
    )


def host_of(peer: str) -> str:
    """`ipv4:10.0.0.7:4711` -> `10.0.0.7`, `ipv6:%5B::1%5D:4711` -> `::1`, `unix:` -> `unix`."""
    scheme, _, address = peer.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return scheme
    return unquote(address).rpartition(":")[0].strip("[]")
