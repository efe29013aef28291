"""The options of a request: the defaults of a client, which a single call can override."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

from trefoil._proto import inference_pb2 as pb

STAMP = re.compile(r"[0-9a-f]{64}")
PRIORITIES = {"high": pb.HIGH, "normal": pb.NORMAL, "low": pb.LOW}


class OptionArguments(TypedDict, total=False):
    """The fields of Options as keyword arguments."""

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
class Options:
    labels: Sequence[str] = ()  # your own label set; empty: the bundle's
    embedding: bool = False  # return it beside the label, from the same forward pass
    top_k: int = 0  # scores to return; 0: all
    max_new_tokens: int = 0  # length limit of a text; 0: the bundle's default
    slices: Mapping[str, str] = field(default_factory=dict)  # tags for monitoring, e.g. site
    session: str = ""  # its requests stay on one server, and on one replica of it
    stamps: str | Collection[str] = ()  # accept answers from this stamp, or these, only
    priority: str = "normal"  # high | normal | low
    timeout_s: float = 30.0  # for all attempts together
    keep_payload: bool = True  # False: the server never stores the parts
    caller: str = ""  # name of this client in the server's telemetry
    trace_parent: str = ""  # W3C Trace Context of the caller

    def __post_init__(self) -> None:
        for stamp in self.pinned:
            if not STAMP.fullmatch(stamp):
                raise ValueError(f"stamps: {stamp!r} is not a whole stamp of 64 hex digits")
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority: {self.priority!r} is not one of {', '.join(PRIORITIES)}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: {self.timeout_s} leaves no time; give more than 0")

    @property
    def pinned(self) -> frozenset[str]:
        return frozenset((self.stamps,) if isinstance(self.stamps, str) else self.stamps)

    def override(self, **options: Unpack[OptionArguments]) -> Options:
        return replace(self, **options)

    def metadata(self, route: str) -> tuple[tuple[str, str], ...]:
        """`route` is the key by which a ring hash, gRPC's or a mesh's, chooses a server."""
        pairs = {
            "session-id": route,
            "trefoil-client": self.caller,
            "traceparent": self.trace_parent,
        }
        return tuple((key, value) for key, value in pairs.items() if value)
