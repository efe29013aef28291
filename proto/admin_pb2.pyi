from proto import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadRequest(_message.Message):
    __slots__ = ("path", "swap", "activate", "rollback", "reason")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    path: str
    swap: str
    activate: bool
    rollback: bool
    reason: str
    def __init__(self, path: _Optional[str] = ..., swap: _Optional[str] = ..., activate: bool = ..., rollback: bool = ..., reason: _Optional[str] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("stamp", "canary_share", "canary_minutes", "reason")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    CANARY_MINUTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    stamp: str
    canary_share: float
    canary_minutes: float
    reason: str
    def __init__(self, stamp: _Optional[str] = ..., canary_share: _Optional[float] = ..., canary_minutes: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("reason", "canary_only")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANARY_ONLY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    canary_only: bool
    def __init__(self, reason: _Optional[str] = ..., canary_only: bool = ...) -> None: ...

class RehearseRequest(_message.Message):
    __slots__ = ("stamp", "payloads", "shadow_share", "seconds", "path", "reason")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    stamp: str
    payloads: int
    shadow_share: float
    seconds: float
    path: str
    reason: str
    def __init__(self, stamp: _Optional[str] = ..., payloads: _Optional[int] = ..., shadow_share: _Optional[float] = ..., seconds: _Optional[float] = ..., path: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RehearseEvent(_message.Message):
    __slots__ = ("progress", "verdict", "reason", "figures", "slices", "messages", "active", "value_unit")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    VALUE_UNIT_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    verdict: str
    reason: str
    figures: _containers.ScalarMap[str, float]
    slices: _containers.RepeatedCompositeFieldContainer[RehearsedSlice]
    messages: _containers.RepeatedScalarFieldContainer[str]
    active: _inference_pb2.Stamp
    value_unit: str
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ..., slices: _Optional[_Iterable[_Union[RehearsedSlice, _Mapping]]] = ..., messages: _Optional[_Iterable[str]] = ..., active: _Optional[_Union[_inference_pb2.Stamp, _Mapping]] = ..., value_unit: _Optional[str] = ...) -> None: ...

class RehearsedSlice(_message.Message):
    __slots__ = ("slice", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SLICE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    slice: str
    figures: _containers.ScalarMap[str, float]
    def __init__(self, slice: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class BundlesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StoredBundle(_message.Message):
    __slots__ = ("name", "stamp", "bytes", "added_unix_ms", "roles", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ADDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    stamp: str
    bytes: int
    added_unix_ms: int
    roles: _containers.RepeatedScalarFieldContainer[str]
    path: str
    def __init__(self, name: _Optional[str] = ..., stamp: _Optional[str] = ..., bytes: _Optional[int] = ..., added_unix_ms: _Optional[int] = ..., roles: _Optional[_Iterable[str]] = ..., path: _Optional[str] = ...) -> None: ...

class BundlesResponse(_message.Message):
    __slots__ = ("bundles",)
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[StoredBundle]
    def __init__(self, bundles: _Optional[_Iterable[_Union[StoredBundle, _Mapping]]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("grace_s", "exit", "reason")
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grace_s: float
    exit: bool
    reason: str
    def __init__(self, grace_s: _Optional[float] = ..., exit: bool = ..., reason: _Optional[str] = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ("replica", "grace_s", "reason")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    replica: int
    grace_s: float
    reason: str
    def __init__(self, replica: _Optional[int] = ..., grace_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("prediction_id", "stamp")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    stamp: str
    def __init__(self, prediction_id: _Optional[str] = ..., stamp: _Optional[str] = ...) -> None: ...

class ReplayResponse(_message.Message):
    __slots__ = ("before", "now", "stamp", "tolerance")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    before: _inference_pb2.Result
    now: _inference_pb2.Result
    stamp: _inference_pb2.Stamp
    tolerance: float
    def __init__(self, before: _Optional[_Union[_inference_pb2.Result, _Mapping]] = ..., now: _Optional[_Union[_inference_pb2.Result, _Mapping]] = ..., stamp: _Optional[_Union[_inference_pb2.Stamp, _Mapping]] = ..., tolerance: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("step", "fraction", "detail", "done", "stamp")
    STEP_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    step: str
    fraction: float
    detail: str
    done: bool
    stamp: _inference_pb2.Stamp
    def __init__(self, step: _Optional[str] = ..., fraction: _Optional[float] = ..., detail: _Optional[str] = ..., done: bool = ..., stamp: _Optional[_Union[_inference_pb2.Stamp, _Mapping]] = ...) -> None: ...
