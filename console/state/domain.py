"""What the console knows, as frozen rows. Field names follow proto/observe.proto, so that one
decoder (feed/decode.py) serves them all; nothing here imports Qt, gRPC or SQLite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.telemetry.outputs import Outputs, Timing
from server.telemetry.rows import FormatCount, IntegrityChange, PlainRow

LATENCY_BUCKETS = 64
STAMP_PARTS = ("weights", "preprocessing", "code", "libraries", "labels", "reference", "data")


@dataclass(frozen=True, slots=True)
class ProbeEvidence:
    mix: str = ""
    ok: bool = False
    reason: str = ""
    p50_ms: float = 0.0
    max_ms: float = 0.0
    limit_ms: float = 0.0
    runs: int = 0
    worst_difference: float = 0.0
    tolerance: float = 0.0
    at_unix_ms: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class SelfCheckResult:
    """The result of comparing a replica with what it loaded."""

    changed: tuple[IntegrityChange, ...] = ()
    at_unix_ms: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    index: int = 0
    state: str = ""
    reason: str = ""
    device: str = ""
    stamp: str = ""
    restarts: int = 0
    in_flight: int = 0
    answered: int = 0
    rss_bytes: int = 0
    evidence: tuple[ProbeEvidence, ...] = ()
    self_check: SelfCheckResult = SelfCheckResult()
    p95_ms: float = 0.0
    last_progress_unix_ms: int = 0
    last_exit: str = ""
    last_exit_unix_ms: int = 0
    private_bytes: int = 0  # memory no other process uses; 0: not reported
    shared_bytes: int = 0  # its share of memory that it shares with other processes


@dataclass(frozen=True, slots=True)
class StampPin:
    client: str = ""
    stamp: str = ""
    refused: int = 0
    last_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class LimitRow:
    name: str = ""
    value: float = 0.0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """Bytes are 0, other figures NaN where they are not known."""

    index: int = 0
    name: str = ""
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    utilisation: float = math.nan
    power_w: float = math.nan
    temperature_c: float = math.nan


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """Taken at one moment on the server's clock; a time of 0 means an older server, or nothing was
    read."""

    at_unix_ms: int = 0
    cpu_share: float = math.nan
    cores: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0
    gpus: tuple[GpuSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    server: str = ""
    version: str = ""
    state: str = ""  # starting | ready | degraded | not_ready | draining | state_unspecified
    reason: str = ""
    stamp: str = ""
    stamp_name: str = ""
    dirty: bool = False
    stamp_parts: Mapping[str, str] = field(default_factory=dict)
    stamp_detail: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    warm_replicas: int = 0
    wanted_replicas: int = 0
    replicas: tuple[ReplicaSnapshot, ...] = ()
    queued: int = 0
    queue_limit: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    quarantined: int = 0
    telemetry_dropped: int = 0
    telemetry_state: str = ""
    rss_bytes: int = 0
    labels: tuple[str, ...] = ()
    pins: tuple[StampPin, ...] = ()
    insecure: bool = False
    slo_ms: float = 0.0
    limits: tuple[LimitRow, ...] = ()
    telemetry_bytes: int = 0
    signed_by: str = ""
    simulated_speed: float = 0.0  # 0: the server's time is real
    refused_formats: tuple[FormatCount, ...] = ()  # the most frequent first
    parts_cut: int = 0
    host: HostSnapshot = HostSnapshot()


@dataclass(frozen=True, slots=True)
class CachedPrediction(Outputs):
    prediction_id: str = ""
    at_unix_ms: int = 0
    stamp: str = ""
    mix: str = ""
    label: str = ""
    timing: Timing = Timing()
    batch_size: int = 0
    replica: int = 0
    slices: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    error_message: str = ""  # the sentence that its caller received
    payload_kept: bool = False
    client: str = ""
    session: str = ""
    trace_id: str = ""
    true_label: str = ""
    features: tuple[float, ...] = ()
    task: str = ""
    batch_mates: tuple[str, ...] = ()


FeedRow = ServerSnapshot | CachedPrediction | PlainRow


@dataclass(frozen=True, slots=True)
class ReceivedRow:
    """One row as received. `server` is the address, as names may repeat."""

    server: str
    cursor: int
    instance: str
    received_unix_ms: float
    row: FeedRow
    size: int = 0  # bytes on the wire


@dataclass(frozen=True, slots=True)
class SimulatedTime:
    """A server's clock that runs `speed` times as fast: it showed `server_s` when this machine's
    clock showed `at_s`."""

    server_s: float
    at_s: float
    speed: float

    def now_s(self, our_s: float) -> float:
        return self.server_s + (our_s - self.at_s) * self.speed


@dataclass(frozen=True, slots=True)
class Link:
    """The state of the connection to one server; times in unix seconds of this machine."""

    address: str
    state: str = "connecting"  # connecting | live | catching up | reconnecting | lost | offline
    detail: str = ""
    since_s: float = 0.0
    heard_s: float = 0.0  # last message of any kind; 0: never
    offset_ms: float = math.nan  # server clock minus ours
    rtt_ms: float = math.nan
    refused_rows: int = 0
    refused_why: str = ""
    flood: str = ""  # what the server sends above the limit, and the limit; "" if it does not
    instance: str = ""
    plaintext: bool = False  # the connection crosses a network unencrypted
    simulated: SimulatedTime | None = None  # the clock of its rows, if it is simulated

    @property
    def shift_s(self) -> float:
        """How far its times are ahead of the axis; 0 until its clock has been compared."""
        return 0.0 if math.isnan(self.offset_ms) else self.offset_ms / 1000


@dataclass(frozen=True, slots=True, eq=False)
class ServerRecord:
    """One line of the fleet: the last snapshot, and the state of the link."""

    link: Link
    snapshot: ServerSnapshot | None

    @property
    def address(self) -> str:
        return self.link.address

    @property
    def name(self) -> str:
        if self.snapshot is not None and self.snapshot.server:
            return self.snapshot.server
        return self.link.address


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator asked a server to do, kept until the server has received it."""

    id: int
    server: str  # for an action of the fleet: all addresses, separated by blanks
    kind: str  # acknowledge | silence | annotate, or one of console.state.action_kinds
    # By kind: alert id, matcher, or id of the silence to end; id and times of a note; parts of
    # others.
    target: str
    actor: str
    note: str
    until_unix_ms: int = 0
    undo: bool = False
    state: str = "waiting"  # waiting | done | refused
    detail: str = ""
    at_s: float = 0.0
