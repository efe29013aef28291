"""The data that is passed within the front: plain frozen classes between api, engine, routing and
pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from server.telemetry.outputs import Outputs, Timing
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import FormatCount, IntegrityChange

NO_REPLICA = -1  # in the Outcome of a row that did not reach a replica


@dataclass(frozen=True, slots=True)
class WorkTerms:
    """What all rows of one request share. `deadline` is on the engine's monotonic clock."""

    task: str = "classify"  # classify | embed | generate
    labels: tuple[str, ...] = ()
    want_embedding: bool = False
    max_new_tokens: int = 0
    priority: int = 1  # 0 high, 1 normal, 2 low
    deadline: float | None = None
    session: str = ""
    expected_stamps: frozenset[str] = frozenset()
    client: str = ""
    keep_payload: bool = False
    trace_parent: str = ""
    request: str = ""  # id of its request, if it has one
    refuse_truncation: bool = False


WORK_TERMS = tuple(each.name for each in fields(WorkTerms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(WorkTerms):
    """One row on its way to a replica."""

    id: str  # prediction id
    example: bytes  # serialized trefoil.v1.Example, uploads inlined
    mix: str = ""  # e.g. audio+image+text
    estimated_tokens: int = 0  # estimated from sizes alone
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """`code` is a gRPC status name; the other fields are as in pipelines.errors.BadInput."""

    code: str
    field: str
    reason: str
    message: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelScore:
    label: str
    probability: float
    log_prob: float


@dataclass(frozen=True, slots=True)
class Answer(Outputs):
    """A prediction in the front; `features` is a float32 little-endian blob."""

    label: str
    scores: tuple[LabelScore, ...]
    embedding: bytes
    features: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartUsed:
    """How much of one part the model received: the fields of PartUsed in proto/inference.proto,
    with the same names. `modality` is the number of that enum."""

    modality: int = 0
    cut: bool = False
    tokens_used: int = 0
    tokens_sent: int = 0
    seconds_used: float = 0.0
    seconds_sent: float = 0.0
    channels_sent: int = 0
    width_used: int = 0
    height_used: int = 0
    width_sent: int = 0
    height_sent: int = 0
    frames_sent: int = 0
    warning: str = ""


PART_USED_FIELDS = tuple(each.name for each in fields(PartUsed))


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of a generation."""

    tokens: int
    finish_reason: str  # stop | length
    first_token_ms: float  # from queueing to the first token; 0: there was none


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
    batch_mates: tuple[str, ...] = field(default=())  # other ids of the same forward
    mix: str = ""  # as decoded; "" if it was not decoded
    parts_used: tuple[PartUsed, ...] = ()
    generated: Generated | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """The next piece of a generated text, and the stamp that generated it."""

    text: str
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """Last item of a generation; `outcome.answer` then carries features and an empty label."""

    outcome: Outcome
    finish_reason: str  # stop | length | "" when it failed
    tokens: int
    first_token_ms: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a pool serves, from the hello message of its replicas; equal for all of them."""

    stamp: str
    stamp_name: str
    dirty: bool
    stamp_parts: Mapping[str, str]
    stamp_detail: Mapping[str, str]
    labels: tuple[str, ...]
    features: tuple[FeatureSpec, ...]
    embedding_dimensions: int
    card: str
    env: Mapping[str, str]
    reasons: Mapping[str, str]  # automatic choices
    limits: tuple[tuple[str, float, str], ...]  # name, value, unit
    bundle_path: str
    signed_by: str = ""  # id of the required key that signed the bundle


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The last comparison of a replica with what it loaded. Times are unix seconds, 0: never."""

    changed: tuple[IntegrityChange, ...] = ()
    at: float = 0.0
    took_ms: float = 0.0
    verified_at: float = 0.0
    error: str = ""  # why the check failed


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence that one modality mix of one replica is ready, or not."""

    mix: str
    ok: bool
    reason: str
    p50_ms: float
    max_ms: float
    limit_ms: float
    runs: int
    worst_difference: float  # absolute difference from the golden answers
    tolerance: float
    at: float  # unix seconds
    source: str  # probe | traffic


REPLICA_STATES = ("starting", "loading", "warming", "ready", "slow", "wrong", "dead", "draining")


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """`state` is one of REPLICA_STATES."""

    index: int
    state: str
    reason: str
    device: str
    stamp: str
    pid: int
    restarts: int
    in_flight: int
    answered: int
    rss_bytes: int
    evidence: tuple[Evidence, ...]
    load_s: float
    loading_fraction: float
    self_check: SelfCheck = SelfCheck()
    p95_ms: float = 0.0  # of its last rows, time in the queue included; 0: none yet
    last_progress: float = 0.0  # unix seconds
    last_exit: str = ""  # why its previous process ended
    last_exit_at: float = 0.0  # unix seconds
    # Decoders that replaced another one, over all processes of the replica.
    decoder_restarts: int = 0
    decoder_deadlines: int = 0  # decoders ended because a part took too long, likewise
    private_bytes: int = 0  # memory that no other process uses (USS); 0: not reported
    shared_bytes: int = 0  # its share of memory used by several processes (PSS - USS)
    texts_writing: int = 0
    texts_waiting: int = 0  # texts that wait in the replica for another one to end or for memory
    text_bytes: int = 0  # keys and values of the texts being generated
    text_bytes_most: int = 0
    device_memory_bytes: int = 0  # in use on its device by all processes; 0: a CPU
    device_memory_total_bytes: int = 0
    decoder_lines: int = 0  # lines that decoders wrote to standard error, logged or not, likewise


@dataclass(frozen=True, slots=True)
class Counters:
    """Rows since start. `refused` rows never reached a replica; `failed` rows ended in a fault that
    is not the caller's; `quarantined` rows had killed two replicas."""

    requests: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    bad_input: int = 0
    expired: int = 0
    cancelled: int = 0
    retried: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class PartFigures:
    """Since start: refusals by format, most frequent first; parts cut; parts by warning."""

    formats: tuple[FormatCount, ...] = ()
    cut: int = 0
    warnings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine at one moment. `state`: STARTING | READY | DEGRADED | NOT_READY | DRAINING, as in
    observe.proto; `reason` is one sentence, empty when READY."""

    state: str
    reason: str
    started: float  # unix seconds
    facts: Facts | None  # None until the first replica has loaded
    warm_replicas: int
    wanted_replicas: int
    replicas: tuple[ReplicaStatus, ...]
    queued: int
    queue_limit: int
    in_flight: int
    counters: Counters
    pins: tuple[tuple[str, str, int, float], ...]  # client, stamp, refused, last unix seconds
    reasons: Mapping[str, str] = field(default_factory=dict)  # automatic choices of the front
    parts: PartFigures = PartFigures()
    queue_seconds: float = 0.0  # expected wait of a row that arrives now
