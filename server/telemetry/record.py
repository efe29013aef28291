"""One prediction as telemetry keeps it: plain values only, no protobuf, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.telemetry.outputs import Outputs


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One position of `Record.features`. A categorical value is an index into `categories`;
    `len(categories)` and above mean a category that is not in the schema."""

    name: str  # e.g. audio.rms_dbfs
    modality: str  # text | image | audio | request | output | embedding
    kind: str  # numeric | categorical
    unit: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """The files of a bundle that telemetry needs. `reference` and `objective` are the bytes of
    those files, empty if the bundle has no such file."""

    stamp: str
    name: str = ""
    schema: tuple[FeatureSpec, ...] = ()
    labels: tuple[str, ...] = ()
    reference: bytes = b""
    objective: bytes = b""


@dataclass(frozen=True, slots=True)
class Record(Outputs):
    """Times in milliseconds; `at` in unix seconds; `features` a float32 little-endian blob in the
    order of the stamp's feature schema, NaN = absent."""

    prediction_id: str
    at: float
    stamp: str
    task: str
    mix: str
    label: str
    features: bytes
    slices: Mapping[str, str]
    client: str
    session: str
    replica: int
    batch_size: int
    queue_ms: float
    decode_ms: float
    preprocess_ms: float
    forward_ms: float
    post_ms: float
    total_ms: float
    error: str = ""  # "" or CODE/REASON/field
    error_message: str = ""  # the sentence that its caller received
    env: str = ""
    trace_id: str = ""
    batch_mates: tuple[str, ...] = ()
    payload: bytes = b""  # the serialized Example; empty when it may not be kept
    # For a generation; not stored, used only by OpenTelemetry.
    generated_tokens: int = 0
    first_token_ms: float = 0.0
    finish_reason: str = ""
