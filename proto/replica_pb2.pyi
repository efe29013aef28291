from proto import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Work(_message.Message):
    __slots__ = ("id", "task", "labels", "want_embedding", "max_new_tokens", "expires_in_s", "example_bytes", "refuse_truncation")
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WANT_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_S_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSE_TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    want_embedding: bool
    max_new_tokens: int
    expires_in_s: float
    example_bytes: int
    refuse_truncation: bool
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., want_embedding: bool = ..., max_new_tokens: _Optional[int] = ..., expires_in_s: _Optional[float] = ..., example_bytes: _Optional[int] = ..., refuse_truncation: bool = ...) -> None: ...

class ToReplica(_message.Message):
    __slots__ = ("work", "cancel", "probe", "stop", "verify")
    WORK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    work: WorkBatch
    cancel: Cancel
    probe: Probe
    stop: Stop
    verify: Verify
    def __init__(self, work: _Optional[_Union[WorkBatch, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., verify: _Optional[_Union[Verify, _Mapping]] = ...) -> None: ...

class WorkBatch(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Work]
    def __init__(self, items: _Optional[_Iterable[_Union[Work, _Mapping]]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("id", "golden", "mixes")
    ID_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    MIXES_FIELD_NUMBER: _ClassVar[int]
    id: int
    golden: bool
    mixes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[int] = ..., golden: bool = ..., mixes: _Optional[_Iterable[str]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Verify(_message.Message):
    __slots__ = ("id", "disk")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    id: int
    disk: bool
    def __init__(self, id: _Optional[int] = ..., disk: bool = ...) -> None: ...

class FeatureSpec(_message.Message):
    __slots__ = ("name", "modality", "kind", "unit", "categories")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    modality: str
    kind: str
    unit: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., modality: _Optional[str] = ..., kind: _Optional[str] = ..., unit: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("stamp_hex", "stamp_name", "dirty", "stamp_parts", "env", "reasons", "labels", "features", "embedding_dimensions", "max_batch_cost", "load_s", "card", "bundle_path", "stamp_detail", "limits", "device", "signed_by")
    class StampPartsEntry(_message.Message):
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
    class ReasonsEntry(_message.Message):
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
    STAMP_HEX_FIELD_NUMBER: _ClassVar[int]
    STAMP_NAME_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    STAMP_PARTS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_COST_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_PATH_FIELD_NUMBER: _ClassVar[int]
    STAMP_DETAIL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    stamp_hex: str
    stamp_name: str
    dirty: bool
    stamp_parts: _containers.ScalarMap[str, str]
    env: _containers.ScalarMap[str, str]
    reasons: _containers.ScalarMap[str, str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedCompositeFieldContainer[FeatureSpec]
    embedding_dimensions: int
    max_batch_cost: int
    load_s: float
    card: str
    bundle_path: str
    stamp_detail: _containers.ScalarMap[str, str]
    limits: _containers.RepeatedCompositeFieldContainer[_inference_pb2.LimitValue]
    device: str
    signed_by: str
    def __init__(self, stamp_hex: _Optional[str] = ..., stamp_name: _Optional[str] = ..., dirty: bool = ..., stamp_parts: _Optional[_Mapping[str, str]] = ..., env: _Optional[_Mapping[str, str]] = ..., reasons: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[_Union[FeatureSpec, _Mapping]]] = ..., embedding_dimensions: _Optional[int] = ..., max_batch_cost: _Optional[int] = ..., load_s: _Optional[float] = ..., card: _Optional[str] = ..., bundle_path: _Optional[str] = ..., stamp_detail: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Iterable[_Union[_inference_pb2.LimitValue, _Mapping]]] = ..., device: _Optional[str] = ..., signed_by: _Optional[str] = ...) -> None: ...

class Loading(_message.Message):
    __slots__ = ("step", "fraction")
    STEP_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    step: str
    fraction: float
    def __init__(self, step: _Optional[str] = ..., fraction: _Optional[float] = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ("rows", "cost")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cost: int
    def __init__(self, rows: _Optional[int] = ..., cost: _Optional[int] = ...) -> None: ...

class Begun(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("id", "prediction", "fault", "timing", "batch_size", "stamp_hex", "features", "tokens", "modality_mix", "parts_used")
    ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STAMP_HEX_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODALITY_MIX_FIELD_NUMBER: _ClassVar[int]
    PARTS_USED_FIELD_NUMBER: _ClassVar[int]
    id: str
    prediction: _inference_pb2.Prediction
    fault: _inference_pb2.Fault
    timing: _inference_pb2.Timing
    batch_size: int
    stamp_hex: str
    features: bytes
    tokens: int
    modality_mix: _containers.RepeatedScalarFieldContainer[str]
    parts_used: _containers.RepeatedCompositeFieldContainer[_inference_pb2.PartUsed]
    def __init__(self, id: _Optional[str] = ..., prediction: _Optional[_Union[_inference_pb2.Prediction, _Mapping]] = ..., fault: _Optional[_Union[_inference_pb2.Fault, _Mapping]] = ..., timing: _Optional[_Union[_inference_pb2.Timing, _Mapping]] = ..., batch_size: _Optional[int] = ..., stamp_hex: _Optional[str] = ..., features: _Optional[bytes] = ..., tokens: _Optional[int] = ..., modality_mix: _Optional[_Iterable[str]] = ..., parts_used: _Optional[_Iterable[_Union[_inference_pb2.PartUsed, _Mapping]]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("id", "text", "last", "finish_reason", "tokens", "timing", "fault", "features", "stamp_hex", "prediction", "parts_used")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STAMP_HEX_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    PARTS_USED_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    last: bool
    finish_reason: str
    tokens: int
    timing: _inference_pb2.Timing
    fault: _inference_pb2.Fault
    features: bytes
    stamp_hex: str
    prediction: _inference_pb2.Prediction
    parts_used: _containers.RepeatedCompositeFieldContainer[_inference_pb2.PartUsed]
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., last: bool = ..., finish_reason: _Optional[str] = ..., tokens: _Optional[int] = ..., timing: _Optional[_Union[_inference_pb2.Timing, _Mapping]] = ..., fault: _Optional[_Union[_inference_pb2.Fault, _Mapping]] = ..., features: _Optional[bytes] = ..., stamp_hex: _Optional[str] = ..., prediction: _Optional[_Union[_inference_pb2.Prediction, _Mapping]] = ..., parts_used: _Optional[_Iterable[_Union[_inference_pb2.PartUsed, _Mapping]]] = ...) -> None: ...

class MixProbe(_message.Message):
    __slots__ = ("mix", "p50_ms", "max_ms", "limit_ms", "runs", "worst_difference", "tolerance", "ok", "reason")
    MIX_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WORST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    mix: str
    p50_ms: float
    max_ms: float
    limit_ms: float
    runs: int
    worst_difference: float
    tolerance: float
    ok: bool
    reason: str
    def __init__(self, mix: _Optional[str] = ..., p50_ms: _Optional[float] = ..., max_ms: _Optional[float] = ..., limit_ms: _Optional[float] = ..., runs: _Optional[int] = ..., worst_difference: _Optional[float] = ..., tolerance: _Optional[float] = ..., ok: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Probed(_message.Message):
    __slots__ = ("id", "mixes", "ok", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    MIXES_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: int
    mixes: _containers.RepeatedCompositeFieldContainer[MixProbe]
    ok: bool
    reason: str
    def __init__(self, id: _Optional[int] = ..., mixes: _Optional[_Iterable[_Union[MixProbe, _Mapping]]] = ..., ok: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Fatal(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class FromReplica(_message.Message):
    __slots__ = ("hello", "loading", "room", "done", "token", "probed", "fatal", "done_batch", "load", "begun", "looked")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    DONE_BATCH_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    LOOKED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    loading: Loading
    room: Room
    done: Done
    token: Token
    probed: Probed
    fatal: Fatal
    done_batch: DoneBatch
    load: Load
    begun: Begun
    looked: Looked
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., loading: _Optional[_Union[Loading, _Mapping]] = ..., room: _Optional[_Union[Room, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., probed: _Optional[_Union[Probed, _Mapping]] = ..., fatal: _Optional[_Union[Fatal, _Mapping]] = ..., done_batch: _Optional[_Union[DoneBatch, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., begun: _Optional[_Union[Begun, _Mapping]] = ..., looked: _Optional[_Union[Looked, _Mapping]] = ...) -> None: ...

class Changed(_message.Message):
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

class Looked(_message.Message):
    __slots__ = ("changed", "took_ms", "verify_id", "error")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedCompositeFieldContainer[Changed]
    took_ms: float
    verify_id: int
    error: str
    def __init__(self, changed: _Optional[_Iterable[_Union[Changed, _Mapping]]] = ..., took_ms: _Optional[float] = ..., verify_id: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class DoneBatch(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Done]
    def __init__(self, items: _Optional[_Iterable[_Union[Done, _Mapping]]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("rss_bytes", "device_memory_bytes", "device_memory_total_bytes", "device_name", "decoder_restarts", "decoder_deadlines", "private_bytes", "shared_bytes", "texts_writing", "texts_waiting", "text_bytes", "text_bytes_most", "decoder_lines")
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    DECODER_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    DECODER_DEADLINES_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_WRITING_FIELD_NUMBER: _ClassVar[int]
    TEXTS_WAITING_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_MOST_FIELD_NUMBER: _ClassVar[int]
    DECODER_LINES_FIELD_NUMBER: _ClassVar[int]
    rss_bytes: int
    device_memory_bytes: int
    device_memory_total_bytes: int
    device_name: str
    decoder_restarts: int
    decoder_deadlines: int
    private_bytes: int
    shared_bytes: int
    texts_writing: int
    texts_waiting: int
    text_bytes: int
    text_bytes_most: int
    decoder_lines: int
    def __init__(self, rss_bytes: _Optional[int] = ..., device_memory_bytes: _Optional[int] = ..., device_memory_total_bytes: _Optional[int] = ..., device_name: _Optional[str] = ..., decoder_restarts: _Optional[int] = ..., decoder_deadlines: _Optional[int] = ..., private_bytes: _Optional[int] = ..., shared_bytes: _Optional[int] = ..., texts_writing: _Optional[int] = ..., texts_waiting: _Optional[int] = ..., text_bytes: _Optional[int] = ..., text_bytes_most: _Optional[int] = ..., decoder_lines: _Optional[int] = ...) -> None: ...
