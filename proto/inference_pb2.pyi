from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    TEXT: _ClassVar[Modality]
    IMAGE: _ClassVar[Modality]
    AUDIO: _ClassVar[Modality]

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    CLASSIFY: _ClassVar[Task]
    EMBED: _ClassVar[Task]

class OnTruncation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_TRUNCATION_UNSPECIFIED: _ClassVar[OnTruncation]
    ANSWER: _ClassVar[OnTruncation]
    REFUSE: _ClassVar[OnTruncation]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    HIGH: _ClassVar[Priority]
    NORMAL: _ClassVar[Priority]
    LOW: _ClassVar[Priority]
MODALITY_UNSPECIFIED: Modality
TEXT: Modality
IMAGE: Modality
AUDIO: Modality
TASK_UNSPECIFIED: Task
CLASSIFY: Task
EMBED: Task
ON_TRUNCATION_UNSPECIFIED: OnTruncation
ANSWER: OnTruncation
REFUSE: OnTruncation
PRIORITY_UNSPECIFIED: Priority
HIGH: Priority
NORMAL: Priority
LOW: Priority

class PcmFormat(_message.Message):
    __slots__ = ("sample_rate_hz", "channels", "encoding")
    class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENCODING_UNSPECIFIED: _ClassVar[PcmFormat.Encoding]
        S16LE: _ClassVar[PcmFormat.Encoding]
        F32LE: _ClassVar[PcmFormat.Encoding]
    ENCODING_UNSPECIFIED: PcmFormat.Encoding
    S16LE: PcmFormat.Encoding
    F32LE: PcmFormat.Encoding
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    sample_rate_hz: int
    channels: int
    encoding: PcmFormat.Encoding
    def __init__(self, sample_rate_hz: _Optional[int] = ..., channels: _Optional[int] = ..., encoding: _Optional[_Union[PcmFormat.Encoding, str]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("id", "modality", "mime_type", "text", "data", "upload_id", "pcm", "sha256")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PCM_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    id: str
    modality: Modality
    mime_type: str
    text: str
    data: bytes
    upload_id: str
    pcm: PcmFormat
    sha256: str
    def __init__(self, id: _Optional[str] = ..., modality: _Optional[_Union[Modality, str]] = ..., mime_type: _Optional[str] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., upload_id: _Optional[str] = ..., pcm: _Optional[_Union[PcmFormat, _Mapping]] = ..., sha256: _Optional[str] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("parts", "slices")
    class SlicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    slices: _containers.ScalarMap[str, str]
    def __init__(self, parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., slices: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("request_id", "examples", "task", "labels", "top_k", "want_embedding", "expected_stamps", "priority", "session_id", "no_payload_sample", "on_truncation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    WANT_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STAMPS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NO_PAYLOAD_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ON_TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    task: Task
    labels: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    want_embedding: bool
    expected_stamps: _containers.RepeatedScalarFieldContainer[str]
    priority: Priority
    session_id: str
    no_payload_sample: bool
    on_truncation: OnTruncation
    def __init__(self, request_id: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., task: _Optional[_Union[Task, str]] = ..., labels: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., want_embedding: bool = ..., expected_stamps: _Optional[_Iterable[str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., session_id: _Optional[str] = ..., no_payload_sample: bool = ..., on_truncation: _Optional[_Union[OnTruncation, str]] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "probability", "log_prob")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    log_prob: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ..., log_prob: _Optional[float] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values", "dimensions")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    dimensions: int
    def __init__(self, values: _Optional[bytes] = ..., dimensions: _Optional[int] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("label", "confidence", "margin", "entropy", "closed_set_mass", "scores", "embedding", "tokens_used", "parts_cut")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    CLOSED_SET_MASS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    PARTS_CUT_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    margin: float
    entropy: float
    closed_set_mass: float
    scores: _containers.RepeatedCompositeFieldContainer[LabelScore]
    embedding: Embedding
    tokens_used: int
    parts_cut: int
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ..., margin: _Optional[float] = ..., entropy: _Optional[float] = ..., closed_set_mass: _Optional[float] = ..., scores: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., tokens_used: _Optional[int] = ..., parts_cut: _Optional[int] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "field", "reason", "message", "retry_after_s")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    code: str
    field: str
    reason: str
    message: str
    retry_after_s: float
    def __init__(self, code: _Optional[str] = ..., field: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_s: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "preprocess_ms", "forward_ms", "post_ms", "total_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MS_FIELD_NUMBER: _ClassVar[int]
    POST_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    preprocess_ms: float
    forward_ms: float
    post_ms: float
    total_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., preprocess_ms: _Optional[float] = ..., forward_ms: _Optional[float] = ..., post_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class PartUsed(_message.Message):
    __slots__ = ("modality", "cut", "tokens_used", "tokens_sent", "seconds_used", "seconds_sent", "channels_sent", "width_used", "height_used", "width_sent", "height_sent", "frames_sent", "warning")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_SENT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_USED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SENT_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_SENT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_USED_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_USED_FIELD_NUMBER: _ClassVar[int]
    WIDTH_SENT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_SENT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_SENT_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    cut: bool
    tokens_used: int
    tokens_sent: int
    seconds_used: float
    seconds_sent: float
    channels_sent: int
    width_used: int
    height_used: int
    width_sent: int
    height_sent: int
    frames_sent: int
    warning: str
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., cut: bool = ..., tokens_used: _Optional[int] = ..., tokens_sent: _Optional[int] = ..., seconds_used: _Optional[float] = ..., seconds_sent: _Optional[float] = ..., channels_sent: _Optional[int] = ..., width_used: _Optional[int] = ..., height_used: _Optional[int] = ..., width_sent: _Optional[int] = ..., height_sent: _Optional[int] = ..., frames_sent: _Optional[int] = ..., warning: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("prediction_id", "prediction", "fault", "timing", "batch_size", "stamp", "replica", "retried", "parts_used")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    PARTS_USED_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    prediction: Prediction
    fault: Fault
    timing: Timing
    batch_size: int
    stamp: str
    replica: int
    retried: bool
    parts_used: _containers.RepeatedCompositeFieldContainer[PartUsed]
    def __init__(self, prediction_id: _Optional[str] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., batch_size: _Optional[int] = ..., stamp: _Optional[str] = ..., replica: _Optional[int] = ..., retried: bool = ..., parts_used: _Optional[_Iterable[_Union[PartUsed, _Mapping]]] = ...) -> None: ...

class Stamp(_message.Message):
    __slots__ = ("hex", "name", "dirty")
    HEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    hex: str
    name: str
    dirty: bool
    def __init__(self, hex: _Optional[str] = ..., name: _Optional[str] = ..., dirty: bool = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("request_id", "results", "stamp")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    results: _containers.RepeatedCompositeFieldContainer[Result]
    stamp: Stamp
    def __init__(self, request_id: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., stamp: _Optional[_Union[Stamp, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "example", "max_new_tokens", "expected_stamps", "priority", "session_id", "no_payload_sample", "on_truncation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STAMPS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NO_PAYLOAD_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ON_TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    example: Example
    max_new_tokens: int
    expected_stamps: _containers.RepeatedScalarFieldContainer[str]
    priority: Priority
    session_id: str
    no_payload_sample: bool
    on_truncation: OnTruncation
    def __init__(self, request_id: _Optional[str] = ..., example: _Optional[_Union[Example, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., expected_stamps: _Optional[_Iterable[str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., session_id: _Optional[str] = ..., no_payload_sample: bool = ..., on_truncation: _Optional[_Union[OnTruncation, str]] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("prediction_id", "text", "end", "stamp")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    text: str
    end: GenerateEnd
    stamp: Stamp
    def __init__(self, prediction_id: _Optional[str] = ..., text: _Optional[str] = ..., end: _Optional[_Union[GenerateEnd, _Mapping]] = ..., stamp: _Optional[_Union[Stamp, _Mapping]] = ...) -> None: ...

class GenerateEnd(_message.Message):
    __slots__ = ("finish_reason", "tokens", "timing", "first_token_ms", "replica", "parts_used")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    PARTS_USED_FIELD_NUMBER: _ClassVar[int]
    finish_reason: str
    tokens: int
    timing: Timing
    first_token_ms: float
    replica: int
    parts_used: _containers.RepeatedCompositeFieldContainer[PartUsed]
    def __init__(self, finish_reason: _Optional[str] = ..., tokens: _Optional[int] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., first_token_ms: _Optional[float] = ..., replica: _Optional[int] = ..., parts_used: _Optional[_Iterable[_Union[PartUsed, _Mapping]]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("mime_type", "total_bytes", "sha256")
    MIME_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    mime_type: str
    total_bytes: int
    sha256: str
    def __init__(self, mime_type: _Optional[str] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadReceipt(_message.Message):
    __slots__ = ("upload_id", "total_bytes", "sha256", "expires_unix_ms")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    total_bytes: int
    sha256: str
    expires_unix_ms: int
    def __init__(self, upload_id: _Optional[str] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., expires_unix_ms: _Optional[int] = ...) -> None: ...

class FeedbackItem(_message.Message):
    __slots__ = ("prediction_id", "label", "outcome", "value", "source", "observed_unix_ms", "idempotency_key")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    label: str
    outcome: str
    value: float
    source: str
    observed_unix_ms: int
    idempotency_key: str
    def __init__(self, prediction_id: _Optional[str] = ..., label: _Optional[str] = ..., outcome: _Optional[str] = ..., value: _Optional[float] = ..., source: _Optional[str] = ..., observed_unix_ms: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[FeedbackItem]
    def __init__(self, items: _Optional[_Iterable[_Union[FeedbackItem, _Mapping]]] = ...) -> None: ...

class FeedbackResult(_message.Message):
    __slots__ = ("prediction_id", "status", "fault")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    status: str
    fault: Fault
    def __init__(self, prediction_id: _Optional[str] = ..., status: _Optional[str] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[FeedbackResult]
    def __init__(self, results: _Optional[_Iterable[_Union[FeedbackResult, _Mapping]]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LimitValue(_message.Message):
    __slots__ = ("name", "value", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    unit: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("stamp", "stamp_parts", "labels", "modalities", "tasks", "limits", "server_version", "embedding_dimensions", "card", "server_name", "queue_seconds")
    class StampPartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STAMP_FIELD_NUMBER: _ClassVar[int]
    STAMP_PARTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    stamp_parts: _containers.ScalarMap[str, str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    modalities: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.RepeatedCompositeFieldContainer[LimitValue]
    server_version: str
    embedding_dimensions: int
    card: str
    server_name: str
    queue_seconds: float
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., stamp_parts: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Iterable[str]] = ..., modalities: _Optional[_Iterable[str]] = ..., tasks: _Optional[_Iterable[str]] = ..., limits: _Optional[_Iterable[_Union[LimitValue, _Mapping]]] = ..., server_version: _Optional[str] = ..., embedding_dimensions: _Optional[int] = ..., card: _Optional[str] = ..., server_name: _Optional[str] = ..., queue_seconds: _Optional[float] = ...) -> None: ...
