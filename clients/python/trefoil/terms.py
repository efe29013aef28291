"""What is asked of a request beside its parts: the defaults of a client, changed for one call."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

from proto import inference_pb2 as pb

STAMP = re.compile(r"[0-9a-f]{64}")
PRIORITIES = {"high": pb.HIGH, "normal": pb.NORMAL, "low": pb.LOW}


class Asked(TypedDict, total=False):
    """The same names as Terms, for keyword arguments."""

    labels: Sequence[str]
    embedding: bool
    top_k: int
    max_new_tokens: int
    slices: Mapping[str, str]
    session: str
    stamps: str | Collection[str]
    priority: str
    timeout_s: float
    keep_payload: bool
    caller: str
    trace_parent: str


@dataclass(frozen=True, slots=True)
class Terms:
    labels: Sequence[str] = ()  # a label set of your own; empty: the bundle's
    embedding: bool = False  # beside the label, from the same forward
    top_k: int = 0  # scores wanted; 0: all
    max_new_tokens: int = 0  # of a text; 0: the bundle's default
    slices: Mapping[str, str] = field(default_factory=dict)  # tags for monitoring, e.g. site
    session: str = ""  # its requests stay on one server, and on one replica of it
    stamps: str | Collection[str] = ()  # answer only from this stamp, or one of these
    priority: str = "normal"  # high | normal | low
    timeout_s: float = 30.0  # for all attempts together
    keep_payload: bool = True  # False: the server never keeps what was sent
    caller: str = ""  # what the server's telemetry calls this client
    trace_parent: str = ""  # W3C Trace Context of the caller

    def __post_init__(self) -> None:
        for stamp in self.pinned:
            if not STAMP.fullmatch(stamp):
                raise ValueError(f"stamps: {stamp!r} is not a whole stamp of 64 hex digits")
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority: {self.priority!r} is none of {', '.join(PRIORITIES)}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: {self.timeout_s} leaves no time")

    @property
    def pinned(self) -> frozenset[str]:
        return frozenset((self.stamps,) if isinstance(self.stamps, str) else self.stamps)

    def but(self, **asked: Unpack[Asked]) -> Terms:
        return replace(self, **asked)

    def metadata(self, route: str) -> tuple[tuple[str, str], ...]:
        """`route` is what a ring hash, ours or a mesh's, chooses a server by."""
        pairs = {
            "session-id": route,
            "trefoil-client": self.caller,
            "traceparent": self.trace_parent,
        }
        return tuple((key, value) for key, value in pairs.items() if value)
