"""The items that the request path leaves for the draining thread: an ObservedCall for each RPC and
a RowItem for each prediction. They are small, because they wait in a queue and a Record holds its
payload."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from server.telemetry.record import Record

# W3C Trace Context: version, trace id, parent id, flags; a later version may append more.
TRACE_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
SAMPLED_FLAG = 1
ROOT = 0  # the parent id of a span that has none


class RowItem(NamedTuple):
    """One prediction; fields as in Record."""

    prediction_id: str
    at: float
    stamp: str
    task: str
    mix: str
    label: str
    confidence: float
    replica: int
    batch_size: int
    queue_ms: float
    decode_ms: float
    preprocess_ms: float
    forward_ms: float
    post_ms: float
    total_ms: float
    error: str
    client: str
    tokens_used: int
    generated_tokens: int
    first_token_ms: float
    finish_reason: str

    @property
    def error_code(self) -> str:
        return self.error.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Trace:
    """The position of a span in a trace. `state` is the caller's tracestate, passed on
    unchanged."""

    trace_id: int
    parent_id: int = ROOT
    sampled: bool = False
    state: str = ""

    @property
    def hex(self) -> str:
        return f"{self.trace_id:032x}"


@dataclass(slots=True, eq=False)
class ObservedCall:
    """One RPC in progress. `trace` is None while traces are off, and for a stream, where each row
    is its own trace; `caller` is what the caller sent about its own trace."""

    method: str
    began_unix_ns: int
    caller: Trace | None = None
    trace: Trace | None = None
    streamed: bool = False
    rows: list[RowItem] = field(default_factory=list)
    status: str = "OK"
    took_s: float = 0.0
    peer: str = ""  # as gRPC names it; known for sampled calls and streams
    http_address: str = ""  # HOST:PORT of the HTTP port, for a call that came through it


class Alone(NamedTuple):
    """A prediction outside a unary call: one of the stream `call`, or of a server that reports no
    calls."""

    row: RowItem
    call: ObservedCall | None
    trace: Trace | None


_values: Any = attrgetter(*RowItem._fields)


def row_of(record: Record) -> RowItem:
    return RowItem._make(_values(record))


def caller_trace(trace_parent: str, trace_state: str = "") -> Trace | None:
    """The content of a traceparent header (W3C Trace Context); None if it is absent or invalid."""
    found = TRACE_PARENT.fullmatch(trace_parent) if trace_parent else None
    if found is None or (trace_parent.startswith("00") and len(trace_parent) != 55):
        return None
    trace_id, parent_id = int(found[1], 16), int(found[2], 16)
    if not trace_id or not parent_id:
        return None
    return Trace(trace_id, parent_id, bool(int(found[3], 16) & SAMPLED_FLAG), trace_state)
