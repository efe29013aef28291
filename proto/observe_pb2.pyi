from proto import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[ServerState]
    STARTING: _ClassVar[ServerState]
    READY: _ClassVar[ServerState]
    DEGRADED: _ClassVar[ServerState]
    NOT_READY: _ClassVar[ServerState]
    DRAINING: _ClassVar[ServerState]
STATE_UNSPECIFIED: ServerState
STARTING: ServerState
READY: ServerState
DEGRADED: ServerState
NOT_READY: ServerState
DRAINING: ServerState

class VerifyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after_cursor", "once", "interval_s", "instance")
    AFTER_CURSOR_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    after_cursor: int
    once: bool
    interval_s: float
    instance: str
    def __init__(self, after_cursor: _Optional[int] = ..., once: bool = ..., interval_s: _Optional[float] = ..., instance: _Optional[str] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("cursor", "server_unix_ns", "instance", "snapshot", "latency", "profile", "drift", "alert", "deploy", "prediction", "quality", "feature", "slice", "silence", "annotation")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SERVER_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    server_unix_ns: int
    instance: str
    snapshot: ServerSnapshot
    latency: LatencyRow
    profile: ProfileRow
    drift: DriftRow
    alert: AlertRow
    deploy: DeployRow
    prediction: PredictionRow
    quality: QualityRow
    feature: FeatureRow
    slice: SliceRow
    silence: SilenceRow
    annotation: AnnotationRow
    def __init__(self, cursor: _Optional[int] = ..., server_unix_ns: _Optional[int] = ..., instance: _Optional[str] = ..., snapshot: _Optional[_Union[ServerSnapshot, _Mapping]] = ..., latency: _Optional[_Union[LatencyRow, _Mapping]] = ..., profile: _Optional[_Union[ProfileRow, _Mapping]] = ..., drift: _Optional[_Union[DriftRow, _Mapping]] = ..., alert: _Optional[_Union[AlertRow, _Mapping]] = ..., deploy: _Optional[_Union[DeployRow, _Mapping]] = ..., prediction: _Optional[_Union[PredictionRow, _Mapping]] = ..., quality: _Optional[_Union[QualityRow, _Mapping]] = ..., feature: _Optional[_Union[FeatureRow, _Mapping]] = ..., slice: _Optional[_Union[SliceRow, _Mapping]] = ..., silence: _Optional[_Union[SilenceRow, _Mapping]] = ..., annotation: _Optional[_Union[AnnotationRow, _Mapping]] = ...) -> None: ...

class ProbeEvidence(_message.Message):
    __slots__ = ("mix", "ok", "reason", "p50_ms", "max_ms", "limit_ms", "runs", "worst_difference", "tolerance", "at_unix_ms", "source")
    MIX_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WORST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    mix: str
    ok: bool
    reason: str
    p50_ms: float
    max_ms: float
    limit_ms: float
    runs: int
    worst_difference: float
    tolerance: float
    at_unix_ms: int
    source: str
    def __init__(self, mix: _Optional[str] = ..., ok: bool = ..., reason: _Optional[str] = ..., p50_ms: _Optional[float] = ..., max_ms: _Optional[float] = ..., limit_ms: _Optional[float] = ..., runs: _Optional[int] = ..., worst_difference: _Optional[float] = ..., tolerance: _Optional[float] = ..., at_unix_ms: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("index", "state", "reason", "device", "stamp", "pid", "restarts", "in_flight", "answered", "rss_bytes", "evidence", "load_s", "loading_fraction", "self_check", "p95_ms", "last_progress_unix_ms", "last_exit", "last_exit_unix_ms", "decoder_restarts", "decoder_deadlines", "private_bytes", "shared_bytes", "texts_writing", "texts_waiting", "text_bytes", "text_bytes_most", "device_memory_bytes", "device_memory_total_bytes", "decoder_lines")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    LOADING_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SELF_CHECK_FIELD_NUMBER: _ClassVar[int]
    P95_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_PROGRESS_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_EXIT_FIELD_NUMBER: _ClassVar[int]
    LAST_EXIT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    DECODER_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    DECODER_DEADLINES_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_WRITING_FIELD_NUMBER: _ClassVar[int]
    TEXTS_WAITING_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_MOST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODER_LINES_FIELD_NUMBER: _ClassVar[int]
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
    evidence: _containers.RepeatedCompositeFieldContainer[ProbeEvidence]
    load_s: float
    loading_fraction: float
    self_check: SelfCheck
    p95_ms: float
    last_progress_unix_ms: int
    last_exit: str
    last_exit_unix_ms: int
    decoder_restarts: int
    decoder_deadlines: int
    private_bytes: int
    shared_bytes: int
    texts_writing: int
    texts_waiting: int
    text_bytes: int
    text_bytes_most: int
    device_memory_bytes: int
    device_memory_total_bytes: int
    decoder_lines: int
    def __init__(self, index: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., device: _Optional[str] = ..., stamp: _Optional[str] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ..., in_flight: _Optional[int] = ..., answered: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., evidence: _Optional[_Iterable[_Union[ProbeEvidence, _Mapping]]] = ..., load_s: _Optional[float] = ..., loading_fraction: _Optional[float] = ..., self_check: _Optional[_Union[SelfCheck, _Mapping]] = ..., p95_ms: _Optional[float] = ..., last_progress_unix_ms: _Optional[int] = ..., last_exit: _Optional[str] = ..., last_exit_unix_ms: _Optional[int] = ..., decoder_restarts: _Optional[int] = ..., decoder_deadlines: _Optional[int] = ..., private_bytes: _Optional[int] = ..., shared_bytes: _Optional[int] = ..., texts_writing: _Optional[int] = ..., texts_waiting: _Optional[int] = ..., text_bytes: _Optional[int] = ..., text_bytes_most: _Optional[int] = ..., device_memory_bytes: _Optional[int] = ..., device_memory_total_bytes: _Optional[int] = ..., decoder_lines: _Optional[int] = ...) -> None: ...

class ChangedItem(_message.Message):
    __slots__ = ("kind", "name", "message", "affects_answers_now")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AFFECTS_ANSWERS_NOW_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    message: str
    affects_answers_now: bool
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., message: _Optional[str] = ..., affects_answers_now: bool = ...) -> None: ...

class SelfCheck(_message.Message):
    __slots__ = ("changed", "at_unix_ms", "took_ms", "verified_unix_ms", "error")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedCompositeFieldContainer[ChangedItem]
    at_unix_ms: int
    took_ms: float
    verified_unix_ms: int
    error: str
    def __init__(self, changed: _Optional[_Iterable[_Union[ChangedItem, _Mapping]]] = ..., at_unix_ms: _Optional[int] = ..., took_ms: _Optional[float] = ..., verified_unix_ms: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ServerSnapshot(_message.Message):
    __slots__ = ("server", "version", "state", "reason", "started_unix_ms", "stamp", "stamp_name", "dirty", "stamp_parts", "stamp_detail", "env", "flags", "reasons", "warm_replicas", "wanted_replicas", "replicas", "queued", "queue_limit", "requests", "failed", "refused", "quarantined", "telemetry_dropped", "telemetry_state", "rss_bytes", "labels", "pins", "insecure", "slo_ms", "limits", "telemetry_bytes", "signed_by", "telemetry_notes", "simulated_speed", "queue_seconds", "refused_formats", "parts_cut", "part_warnings", "host")
    class StampPartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class StampDetailEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FlagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TelemetryNotesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PartWarningsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SERVER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    STAMP_NAME_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    STAMP_PARTS_FIELD_NUMBER: _ClassVar[int]
    STAMP_DETAIL_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    WARM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    WANTED_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_DROPPED_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_STATE_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    SLO_MS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_NOTES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_SPEED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FORMATS_FIELD_NUMBER: _ClassVar[int]
    PARTS_CUT_FIELD_NUMBER: _ClassVar[int]
    PART_WARNINGS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    server: str
    version: str
    state: ServerState
    reason: str
    started_unix_ms: int
    stamp: str
    stamp_name: str
    dirty: bool
    stamp_parts: _containers.ScalarMap[str, str]
    stamp_detail: _containers.ScalarMap[str, str]
    env: _containers.ScalarMap[str, str]
    flags: _containers.ScalarMap[str, str]
    reasons: _containers.ScalarMap[str, str]
    warm_replicas: int
    wanted_replicas: int
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStatus]
    queued: int
    queue_limit: int
    requests: int
    failed: int
    refused: int
    quarantined: int
    telemetry_dropped: int
    telemetry_state: str
    rss_bytes: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    pins: _containers.RepeatedCompositeFieldContainer[StampPin]
    insecure: bool
    slo_ms: float
    limits: _containers.RepeatedCompositeFieldContainer[LimitRow]
    telemetry_bytes: int
    signed_by: str
    telemetry_notes: _containers.ScalarMap[str, str]
    simulated_speed: float
    queue_seconds: float
    refused_formats: _containers.RepeatedCompositeFieldContainer[FormatCount]
    parts_cut: int
    part_warnings: _containers.ScalarMap[str, int]
    host: HostStatus
    def __init__(self, server: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ServerState, str]] = ..., reason: _Optional[str] = ..., started_unix_ms: _Optional[int] = ..., stamp: _Optional[str] = ..., stamp_name: _Optional[str] = ..., dirty: bool = ..., stamp_parts: _Optional[_Mapping[str, str]] = ..., stamp_detail: _Optional[_Mapping[str, str]] = ..., env: _Optional[_Mapping[str, str]] = ..., flags: _Optional[_Mapping[str, str]] = ..., reasons: _Optional[_Mapping[str, str]] = ..., warm_replicas: _Optional[int] = ..., wanted_replicas: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ReplicaStatus, _Mapping]]] = ..., queued: _Optional[int] = ..., queue_limit: _Optional[int] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., refused: _Optional[int] = ..., quarantined: _Optional[int] = ..., telemetry_dropped: _Optional[int] = ..., telemetry_state: _Optional[str] = ..., rss_bytes: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., pins: _Optional[_Iterable[_Union[StampPin, _Mapping]]] = ..., insecure: bool = ..., slo_ms: _Optional[float] = ..., limits: _Optional[_Iterable[_Union[LimitRow, _Mapping]]] = ..., telemetry_bytes: _Optional[int] = ..., signed_by: _Optional[str] = ..., telemetry_notes: _Optional[_Mapping[str, str]] = ..., simulated_speed: _Optional[float] = ..., queue_seconds: _Optional[float] = ..., refused_formats: _Optional[_Iterable[_Union[FormatCount, _Mapping]]] = ..., parts_cut: _Optional[int] = ..., part_warnings: _Optional[_Mapping[str, int]] = ..., host: _Optional[_Union[HostStatus, _Mapping]] = ...) -> None: ...

class HostStatus(_message.Message):
    __slots__ = ("at_unix_ms", "cpu_share", "cores", "memory_used_bytes", "memory_total_bytes", "disk_free_bytes", "disk_total_bytes", "gpus")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_SHARE_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    cpu_share: float
    cores: float
    memory_used_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    gpus: _containers.RepeatedCompositeFieldContainer[GpuStatus]
    def __init__(self, at_unix_ms: _Optional[int] = ..., cpu_share: _Optional[float] = ..., cores: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[GpuStatus, _Mapping]]] = ...) -> None: ...

class GpuStatus(_message.Message):
    __slots__ = ("index", "name", "memory_used_bytes", "memory_total_bytes", "utilisation", "power_w", "temperature_c")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilisation: float
    power_w: float
    temperature_c: float
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., utilisation: _Optional[float] = ..., power_w: _Optional[float] = ..., temperature_c: _Optional[float] = ...) -> None: ...

class FormatCount(_message.Message):
    __slots__ = ("format", "rows", "medium", "of_rows")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MEDIUM_FIELD_NUMBER: _ClassVar[int]
    OF_ROWS_FIELD_NUMBER: _ClassVar[int]
    format: str
    rows: int
    medium: str
    of_rows: int
    def __init__(self, format: _Optional[str] = ..., rows: _Optional[int] = ..., medium: _Optional[str] = ..., of_rows: _Optional[int] = ...) -> None: ...

class LimitRow(_message.Message):
    __slots__ = ("name", "value", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    unit: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...

class StampPin(_message.Message):
    __slots__ = ("client", "stamp", "refused", "last_unix_ms")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LAST_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    client: str
    stamp: str
    refused: int
    last_unix_ms: int
    def __init__(self, client: _Optional[str] = ..., stamp: _Optional[str] = ..., refused: _Optional[int] = ..., last_unix_ms: _Optional[int] = ...) -> None: ...

class LatencyRow(_message.Message):
    __slots__ = ("bucket_unix_ms", "width_s", "stamp", "mix", "replica", "requests", "errors", "counts", "queue_ms", "decode_ms", "preprocess_ms", "forward_ms", "post_ms", "total_ms", "batch_rows", "exemplars")
    BUCKET_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_S_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MS_FIELD_NUMBER: _ClassVar[int]
    POST_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    EXEMPLARS_FIELD_NUMBER: _ClassVar[int]
    bucket_unix_ms: int
    width_s: int
    stamp: str
    mix: str
    replica: int
    requests: int
    errors: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    queue_ms: float
    decode_ms: float
    preprocess_ms: float
    forward_ms: float
    post_ms: float
    total_ms: float
    batch_rows: int
    exemplars: _containers.RepeatedCompositeFieldContainer[Exemplar]
    def __init__(self, bucket_unix_ms: _Optional[int] = ..., width_s: _Optional[int] = ..., stamp: _Optional[str] = ..., mix: _Optional[str] = ..., replica: _Optional[int] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ..., queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., preprocess_ms: _Optional[float] = ..., forward_ms: _Optional[float] = ..., post_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., batch_rows: _Optional[int] = ..., exemplars: _Optional[_Iterable[_Union[Exemplar, _Mapping]]] = ...) -> None: ...

class Exemplar(_message.Message):
    __slots__ = ("prediction_id", "total_ms", "trace_id")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    total_ms: float
    trace_id: str
    def __init__(self, prediction_id: _Optional[str] = ..., total_ms: _Optional[float] = ..., trace_id: _Optional[str] = ...) -> None: ...

class FeatureRow(_message.Message):
    __slots__ = ("name", "modality", "kind", "unit", "categories", "stamp", "edges", "reference_counts", "reference_n", "importance", "groups", "deff")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_N_FIELD_NUMBER: _ClassVar[int]
    IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    DEFF_FIELD_NUMBER: _ClassVar[int]
    name: str
    modality: str
    kind: str
    unit: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    stamp: str
    edges: _containers.RepeatedScalarFieldContainer[float]
    reference_counts: _containers.RepeatedScalarFieldContainer[int]
    reference_n: float
    importance: float
    groups: _containers.RepeatedScalarFieldContainer[int]
    deff: float
    def __init__(self, name: _Optional[str] = ..., modality: _Optional[str] = ..., kind: _Optional[str] = ..., unit: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., stamp: _Optional[str] = ..., edges: _Optional[_Iterable[float]] = ..., reference_counts: _Optional[_Iterable[int]] = ..., reference_n: _Optional[float] = ..., importance: _Optional[float] = ..., groups: _Optional[_Iterable[int]] = ..., deff: _Optional[float] = ...) -> None: ...

class ProfileRow(_message.Message):
    __slots__ = ("stamp", "feature", "slice", "hour_unix_s", "n", "sum", "sum_squares", "min", "max", "missing", "nonfinite", "counts")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    HOUR_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    SUM_SQUARES_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    stamp: str
    feature: str
    slice: str
    hour_unix_s: int
    n: int
    sum: float
    sum_squares: float
    min: float
    max: float
    missing: int
    nonfinite: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, stamp: _Optional[str] = ..., feature: _Optional[str] = ..., slice: _Optional[str] = ..., hour_unix_s: _Optional[int] = ..., n: _Optional[int] = ..., sum: _Optional[float] = ..., sum_squares: _Optional[float] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., missing: _Optional[int] = ..., nonfinite: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class DriftRow(_message.Message):
    __slots__ = ("tick_unix_ms", "stamp", "feature", "slice", "window_s", "baseline", "n", "n_effective", "n_needed", "ks", "p", "q", "kl", "js", "psi", "chi2_p", "excess_kl", "expected_kl", "level", "structural")
    TICK_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    N_EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    N_NEEDED_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    Q_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    JS_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    CHI2_P_FIELD_NUMBER: _ClassVar[int]
    EXCESS_KL_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_KL_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    STRUCTURAL_FIELD_NUMBER: _ClassVar[int]
    tick_unix_ms: int
    stamp: str
    feature: str
    slice: str
    window_s: int
    baseline: str
    n: float
    n_effective: float
    n_needed: float
    ks: float
    p: float
    q: float
    kl: float
    js: float
    psi: float
    chi2_p: float
    excess_kl: float
    expected_kl: float
    level: str
    structural: str
    def __init__(self, tick_unix_ms: _Optional[int] = ..., stamp: _Optional[str] = ..., feature: _Optional[str] = ..., slice: _Optional[str] = ..., window_s: _Optional[int] = ..., baseline: _Optional[str] = ..., n: _Optional[float] = ..., n_effective: _Optional[float] = ..., n_needed: _Optional[float] = ..., ks: _Optional[float] = ..., p: _Optional[float] = ..., q: _Optional[float] = ..., kl: _Optional[float] = ..., js: _Optional[float] = ..., psi: _Optional[float] = ..., chi2_p: _Optional[float] = ..., excess_kl: _Optional[float] = ..., expected_kl: _Optional[float] = ..., level: _Optional[str] = ..., structural: _Optional[str] = ...) -> None: ...

class AlertRow(_message.Message):
    __slots__ = ("id", "key", "severity", "state", "opened_unix_ms", "last_unix_ms", "closed_unix_ms", "stamp", "summary", "acknowledged_by", "acknowledged_note", "silenced", "features", "slices", "history", "kind")
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OPENED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BY_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_NOTE_FIELD_NUMBER: _ClassVar[int]
    SILENCED_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    id: str
    key: str
    severity: str
    state: str
    opened_unix_ms: int
    last_unix_ms: int
    closed_unix_ms: int
    stamp: str
    summary: str
    acknowledged_by: str
    acknowledged_note: str
    silenced: bool
    features: _containers.RepeatedScalarFieldContainer[str]
    slices: _containers.RepeatedScalarFieldContainer[str]
    history: _containers.RepeatedCompositeFieldContainer[AlertTransition]
    kind: str
    def __init__(self, id: _Optional[str] = ..., key: _Optional[str] = ..., severity: _Optional[str] = ..., state: _Optional[str] = ..., opened_unix_ms: _Optional[int] = ..., last_unix_ms: _Optional[int] = ..., closed_unix_ms: _Optional[int] = ..., stamp: _Optional[str] = ..., summary: _Optional[str] = ..., acknowledged_by: _Optional[str] = ..., acknowledged_note: _Optional[str] = ..., silenced: bool = ..., features: _Optional[_Iterable[str]] = ..., slices: _Optional[_Iterable[str]] = ..., history: _Optional[_Iterable[_Union[AlertTransition, _Mapping]]] = ..., kind: _Optional[str] = ...) -> None: ...

class AlertTransition(_message.Message):
    __slots__ = ("at_unix_ms", "from_state", "to_state", "actor", "detail")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    from_state: str
    to_state: str
    actor: str
    detail: str
    def __init__(self, at_unix_ms: _Optional[int] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., actor: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class SilenceRow(_message.Message):
    __slots__ = ("id", "matcher", "until_unix_ms", "actor", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    MATCHER_FIELD_NUMBER: _ClassVar[int]
    UNTIL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    matcher: str
    until_unix_ms: int
    actor: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., matcher: _Optional[str] = ..., until_unix_ms: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AnnotationRow(_message.Message):
    __slots__ = ("id", "at_unix_ms", "to_unix_ms", "text", "actor", "made_unix_ms", "removed")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TO_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    MADE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    id: str
    at_unix_ms: int
    to_unix_ms: int
    text: str
    actor: str
    made_unix_ms: int
    removed: bool
    def __init__(self, id: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., to_unix_ms: _Optional[int] = ..., text: _Optional[str] = ..., actor: _Optional[str] = ..., made_unix_ms: _Optional[int] = ..., removed: bool = ...) -> None: ...

class DeployRow(_message.Message):
    __slots__ = ("at_unix_ms", "action", "stamp", "stamp_name", "from_stamp", "actor", "detail")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    STAMP_NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_STAMP_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    action: str
    stamp: str
    stamp_name: str
    from_stamp: str
    actor: str
    detail: str
    def __init__(self, at_unix_ms: _Optional[int] = ..., action: _Optional[str] = ..., stamp: _Optional[str] = ..., stamp_name: _Optional[str] = ..., from_stamp: _Optional[str] = ..., actor: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class PredictionRow(_message.Message):
    __slots__ = ("prediction_id", "at_unix_ms", "stamp", "mix", "label", "confidence", "margin", "entropy", "closed_set_mass", "timing", "batch_size", "replica", "slices", "error", "payload_kept", "client", "session", "trace_id", "true_label", "features", "task", "batch_mates", "tokens_used", "parts_cut", "error_message")
    class SlicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    MIX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    CLOSED_SET_MASS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_KEPT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    TRUE_LABEL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    BATCH_MATES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    PARTS_CUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    at_unix_ms: int
    stamp: str
    mix: str
    label: str
    confidence: float
    margin: float
    entropy: float
    closed_set_mass: float
    timing: _inference_pb2.Timing
    batch_size: int
    replica: int
    slices: _containers.ScalarMap[str, str]
    error: str
    payload_kept: bool
    client: str
    session: str
    trace_id: str
    true_label: str
    features: _containers.RepeatedScalarFieldContainer[float]
    task: str
    batch_mates: _containers.RepeatedScalarFieldContainer[str]
    tokens_used: int
    parts_cut: int
    error_message: str
    def __init__(self, prediction_id: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., stamp: _Optional[str] = ..., mix: _Optional[str] = ..., label: _Optional[str] = ..., confidence: _Optional[float] = ..., margin: _Optional[float] = ..., entropy: _Optional[float] = ..., closed_set_mass: _Optional[float] = ..., timing: _Optional[_Union[_inference_pb2.Timing, _Mapping]] = ..., batch_size: _Optional[int] = ..., replica: _Optional[int] = ..., slices: _Optional[_Mapping[str, str]] = ..., error: _Optional[str] = ..., payload_kept: bool = ..., client: _Optional[str] = ..., session: _Optional[str] = ..., trace_id: _Optional[str] = ..., true_label: _Optional[str] = ..., features: _Optional[_Iterable[float]] = ..., task: _Optional[str] = ..., batch_mates: _Optional[_Iterable[str]] = ..., tokens_used: _Optional[int] = ..., parts_cut: _Optional[int] = ..., error_message: _Optional[str] = ...) -> None: ...

class ReliabilityBin(_message.Message):
    __slots__ = ("n", "sum_confidence", "sum_correct")
    N_FIELD_NUMBER: _ClassVar[int]
    SUM_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    SUM_CORRECT_FIELD_NUMBER: _ClassVar[int]
    n: int
    sum_confidence: float
    sum_correct: float
    def __init__(self, n: _Optional[int] = ..., sum_confidence: _Optional[float] = ..., sum_correct: _Optional[float] = ...) -> None: ...

class QualityRow(_message.Message):
    __slots__ = ("bucket_unix_s", "width_s", "stamp", "slice", "predictions", "labelled", "accuracy", "estimated_accuracy", "value_per_1000", "estimated_value_per_1000", "ece", "median_label_delay_s", "reliability", "labels", "confusion", "value_unit", "estimated_accuracy_labelled")
    BUCKET_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    WIDTH_S_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    VALUE_PER_1000_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_VALUE_PER_1000_FIELD_NUMBER: _ClassVar[int]
    ECE_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_LABEL_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CONFUSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_UNIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_ACCURACY_LABELLED_FIELD_NUMBER: _ClassVar[int]
    bucket_unix_s: int
    width_s: int
    stamp: str
    slice: str
    predictions: int
    labelled: int
    accuracy: float
    estimated_accuracy: float
    value_per_1000: float
    estimated_value_per_1000: float
    ece: float
    median_label_delay_s: float
    reliability: _containers.RepeatedCompositeFieldContainer[ReliabilityBin]
    labels: _containers.RepeatedScalarFieldContainer[str]
    confusion: _containers.RepeatedScalarFieldContainer[int]
    value_unit: str
    estimated_accuracy_labelled: float
    def __init__(self, bucket_unix_s: _Optional[int] = ..., width_s: _Optional[int] = ..., stamp: _Optional[str] = ..., slice: _Optional[str] = ..., predictions: _Optional[int] = ..., labelled: _Optional[int] = ..., accuracy: _Optional[float] = ..., estimated_accuracy: _Optional[float] = ..., value_per_1000: _Optional[float] = ..., estimated_value_per_1000: _Optional[float] = ..., ece: _Optional[float] = ..., median_label_delay_s: _Optional[float] = ..., reliability: _Optional[_Iterable[_Union[ReliabilityBin, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ..., confusion: _Optional[_Iterable[int]] = ..., value_unit: _Optional[str] = ..., estimated_accuracy_labelled: _Optional[float] = ...) -> None: ...

class SliceRow(_message.Message):
    __slots__ = ("expression", "message", "support", "share", "error", "error_elsewhere", "z", "q", "value_per_1000", "stamp", "at_unix_ms")
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    Q_FIELD_NUMBER: _ClassVar[int]
    VALUE_PER_1000_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    expression: str
    message: str
    support: int
    share: float
    error: float
    error_elsewhere: float
    z: float
    q: float
    value_per_1000: float
    stamp: str
    at_unix_ms: int
    def __init__(self, expression: _Optional[str] = ..., message: _Optional[str] = ..., support: _Optional[int] = ..., share: _Optional[float] = ..., error: _Optional[float] = ..., error_elsewhere: _Optional[float] = ..., z: _Optional[float] = ..., q: _Optional[float] = ..., value_per_1000: _Optional[float] = ..., stamp: _Optional[str] = ..., at_unix_ms: _Optional[int] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("from_unix_ms", "to_unix_ms", "kinds")
    FROM_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TO_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    from_unix_ms: int
    to_unix_ms: int
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, from_unix_ms: _Optional[int] = ..., to_unix_ms: _Optional[int] = ..., kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class SamplesRequest(_message.Message):
    __slots__ = ("prediction_ids", "with_payload", "filter", "limit", "from_unix_ms", "to_unix_ms")
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    WITH_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FROM_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TO_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    with_payload: bool
    filter: str
    limit: int
    from_unix_ms: int
    to_unix_ms: int
    def __init__(self, prediction_ids: _Optional[_Iterable[str]] = ..., with_payload: bool = ..., filter: _Optional[str] = ..., limit: _Optional[int] = ..., from_unix_ms: _Optional[int] = ..., to_unix_ms: _Optional[int] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("row", "example", "no_example")
    ROW_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    NO_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    row: PredictionRow
    example: bytes
    no_example: str
    def __init__(self, row: _Optional[_Union[PredictionRow, _Mapping]] = ..., example: _Optional[bytes] = ..., no_example: _Optional[str] = ...) -> None: ...

class SamplesResponse(_message.Message):
    __slots__ = ("samples",)
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class SlicesRequest(_message.Message):
    __slots__ = ("from_unix_ms", "to_unix_ms", "measure", "limit")
    FROM_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TO_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    from_unix_ms: int
    to_unix_ms: int
    measure: str
    limit: int
    def __init__(self, from_unix_ms: _Optional[int] = ..., to_unix_ms: _Optional[int] = ..., measure: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class SlicesResponse(_message.Message):
    __slots__ = ("slices", "rows_searched", "seconds")
    SLICES_FIELD_NUMBER: _ClassVar[int]
    ROWS_SEARCHED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    slices: _containers.RepeatedCompositeFieldContainer[SliceRow]
    rows_searched: int
    seconds: float
    def __init__(self, slices: _Optional[_Iterable[_Union[SliceRow, _Mapping]]] = ..., rows_searched: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class AcknowledgeRequest(_message.Message):
    __slots__ = ("alert_id", "actor", "note", "undo")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    alert_id: str
    actor: str
    note: str
    undo: bool
    def __init__(self, alert_id: _Optional[str] = ..., actor: _Optional[str] = ..., note: _Optional[str] = ..., undo: bool = ...) -> None: ...

class SilenceRequest(_message.Message):
    __slots__ = ("matcher", "until_unix_ms", "actor", "reason", "end_id")
    MATCHER_FIELD_NUMBER: _ClassVar[int]
    UNTIL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    END_ID_FIELD_NUMBER: _ClassVar[int]
    matcher: str
    until_unix_ms: int
    actor: str
    reason: str
    end_id: str
    def __init__(self, matcher: _Optional[str] = ..., until_unix_ms: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., end_id: _Optional[str] = ...) -> None: ...

class AnnotateRequest(_message.Message):
    __slots__ = ("id", "at_unix_ms", "to_unix_ms", "text", "actor", "remove")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TO_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    id: str
    at_unix_ms: int
    to_unix_ms: int
    text: str
    actor: str
    remove: bool
    def __init__(self, id: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., to_unix_ms: _Optional[int] = ..., text: _Optional[str] = ..., actor: _Optional[str] = ..., remove: bool = ...) -> None: ...

class AlertAction(_message.Message):
    __slots__ = ("alert", "silence")
    ALERT_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    alert: AlertRow
    silence: SilenceRow
    def __init__(self, alert: _Optional[_Union[AlertRow, _Mapping]] = ..., silence: _Optional[_Union[SilenceRow, _Mapping]] = ...) -> None: ...
