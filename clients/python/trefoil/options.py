"""The options of a request: a client's defaults, which a single call can override."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

from trefoil._proto import inference_pb2 as pb
from trefoil.parts import well_formed

STAMP = re.compile(r"[0-9a-f]{64}")
ON_TRUNCATION = {"answer": pb.ANSWER, "refuse": pb.REFUSE}
PRIORITIES = {"high": pb.HIGH, "normal": pb.NORMAL, "low": pb.LOW}


# Limits in characters; longer values are refused before sending.
LONGEST_NAME = 256
LONGEST_LABEL = 4096  # a server may be set to take fewer


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
    on_truncation: str


@dataclass(frozen=True, slots=True)
class Options:
    labels: Sequence[str] = ()  # label set of this request; empty: the bundle's
    embedding: bool = False  # return the embedding too, from the same forward pass
    top_k: int = 0  # scores to return; 0: all
    max_new_tokens: int = 0  # length limit of a text; 0: the bundle's default
    slices: Mapping[str, str] = field(default_factory=dict)  # tags for monitoring, e.g. site
    session: str = ""  # requests of a session stay on one server, and on one replica of it
    stamps: str | Collection[str] = ()  # accept answers only from this stamp or these stamps
    priority: str = "normal"  # high | normal | low
    timeout_s: float = 30.0  # for all attempts together
    keep_payload: bool = True  # False: the server never stores the parts
    caller: str = ""  # name of this client in the server's telemetry
    trace_parent: str = ""  # W3C Trace Context of the caller
    # answer | refuse: what to do with a row if one of its parts cannot be used whole.
    on_truncation: str = "answer"

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError naming the option."""
        if isinstance(self.labels, (str, bytes)):
            raise TypeError("labels: one str; give a list of labels")
        for index, label in enumerate(self.labels):
            _check_text(label, f"labels[{index}]", LONGEST_LABEL)
        if not isinstance(self.slices, Mapping):
            raise TypeError("slices: give a mapping from names to values")
        for name, value in self.slices.items():
            _check_text(name, "slices: a name", LONGEST_NAME)
            _check_text(value, f"slices[{name!r}]", LONGEST_NAME, empty=True)
        for name in ("session", "caller", "trace_parent"):
            _check_header(getattr(self, name), name)
        for stamp in self.pinned:
            if not STAMP.fullmatch(stamp):
                raise ValueError(f"stamps: {stamp!r} is not a whole stamp of 64 hex digits")
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority: {self.priority!r} is not one of {', '.join(PRIORITIES)}")
        if self.on_truncation not in ON_TRUNCATION:
            choices = ", ".join(ON_TRUNCATION)
            raise ValueError(f"on_truncation: {self.on_truncation!r} is not one of {choices}")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s: {self.timeout_s} leaves no time; give more than 0")

    @property
    def pinned(self) -> frozenset[str]:
        return frozenset((self.stamps,) if isinstance(self.stamps, str) else self.stamps)

    def override(self, **options: Unpack[OptionArguments]) -> Options:
        return replace(self, **options)

    def sent(self) -> dict[str, Any]:
        """The fields that all kinds of requests have."""
        return {
            "priority": PRIORITIES[self.priority],
            "session_id": self.session,
            "no_payload_sample": not self.keep_payload,
            "on_truncation": ON_TRUNCATION[self.on_truncation],
        }

    def metadata(self, route: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a call. `route` is the key by which a ring hash (gRPC's or a service
        mesh's) chooses a server."""
        pairs = {
            "session-id": route,
            "trefoil-client": self.caller,
            "traceparent": self.trace_parent,
        }
        return tuple((key, value) for key, value in pairs.items() if value)


def _check_text(value: object, name: str, longest: int, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: {type(value).__name__} is not a str")
    if len(value) > longest:
        raise ValueError(f"{name}: {len(value)} characters; the limit is {longest}")
    if "\0" in value or not (empty or value.strip()):
        fault = "holds a NUL character" if "\0" in value else "is blank"
        raise ValueError(f"{name}: {fault}; give visible text")
    well_formed(value, name)


def _check_header(value: object, name: str) -> None:
    """Checks a value that is sent in a header, which must be ASCII."""
    _check_text(value, name, LONGEST_NAME, empty=True)
    if not (str(value).isascii() and str(value).isprintable()):
        raise ValueError(f"{name}: {value!r} is not printable ASCII, which a header needs")
