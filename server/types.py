"""What travels inside the front: plain frozen data between rpc, engine, scheduler and pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_FEATURES: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Work:
    """One row on its way to a replica. `deadline` is on the engine's monotonic clock."""

    id: str  # prediction id
    example: bytes  # serialized trefoil.v1.Example, uploads inlined
    task: str  # classify | embed | generate
    labels: tuple[str, ...]
    want_embedding: bool
    max_new_tokens: int
    priority: int  # 0 high, 1 normal, 2 low
    deadline: float | None
    session: str
    expected_stamps: frozenset[str]
    cost: int  # estimated tokens, from sizes alone
    client: str
    slices: Mapping[str, str]
    keep_payload: bool
    mix: str  # e.g. audio+image+text
    trace_parent: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """`code` is a gRPC status name; the others as in pipelines.errors.BadInput."""

    code: str
    field: str
    reason: str
    message: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    queue_ms: float = 0.0
    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    forward_ms: float = 0.0
    post_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelScore:
    label: str
    probability: float
    log_prob: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction as the front knows it; `features` is a float32 little-endian blob."""

    label: str
    confidence: float
    margin: float
    entropy: float
    closed_set_mass: float
    scores: tuple[LabelScore, ...]
    embedding: bytes
    features: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row ended: exactly one of `answer` and `fault` is set."""

    prediction_id: str
    answer: Answer | None
    fault: Fault | None
    timing: Timing
    batch_size: int
    stamp: str
    replica: int
    retried: bool = False
    company: tuple[str, ...] = field(default=())
