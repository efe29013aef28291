"""Telemetry's rows as the messages of proto/observe.proto, field for field by name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from proto import inference_pb2
from proto import observe_pb2 as pb
from server.telemetry import rows
from server.telemetry.outputs import outputs_of
from server.telemetry.record import Record

# Row type -> (the field of WatchEvent it travels in, its message).
EVENTS: dict[type, tuple[str, Any]] = {
    rows.LatencyRow: ("latency", pb.LatencyRow),
    rows.FeatureRow: ("feature", pb.FeatureRow),
    rows.ProfileRow: ("profile", pb.ProfileRow),
    rows.DriftRow: ("drift", pb.DriftRow),
    rows.AlertRow: ("alert", pb.AlertRow),
    rows.SilenceRow: ("silence", pb.SilenceRow),
    rows.DeployRow: ("deploy", pb.DeployRow),
    rows.PredictionRow: ("prediction", pb.PredictionRow),
    rows.QualityRow: ("quality", pb.QualityRow),
    rows.SliceRow: ("slice", pb.SliceRow),
}
_PARTS: dict[type, Any] = {
    rows.Exemplar: pb.Exemplar,
    rows.AlertTransition: pb.AlertTransition,
    rows.ReliabilityBin: pb.ReliabilityBin,
}


def event_of(row: rows.Row, event: pb.WatchEvent) -> pb.WatchEvent:
    """`event` with the row in its place."""
    name, _ = EVENTS[type(row)]
    getattr(event, name).CopyFrom(message_of_row(row))
    return event


def message_of_row(row: rows.Row) -> Any:
    if isinstance(row, rows.PredictionRow):
        return prediction_message(row)
    _, kind = EVENTS[type(row)]
    return kind(**_named(row))


def prediction_message(row: rows.PredictionRow) -> pb.PredictionRow:
    record = row.record
    return pb.PredictionRow(
        prediction_id=record.prediction_id,
        at_unix_ms=int(record.at * 1000),
        stamp=record.stamp,
        mix=record.mix,
        task=record.task,
        label=record.label,
        timing=_timing(record),
        batch_size=record.batch_size,
        replica=max(record.replica, 0),
        slices=dict(record.slices),
        error=record.error,
        payload_kept=row.payload_kept,
        client=record.client,
        session=record.session,
        trace_id=record.trace_id,
        true_label=row.true_label,
        features=np.frombuffer(record.features, "<f4").tolist(),
        batch_mates=record.batch_mates,
        **outputs_of(record),
    )


def _timing(record: Record) -> inference_pb2.Timing:
    return inference_pb2.Timing(
        queue_ms=record.queue_ms,
        decode_ms=record.decode_ms,
        preprocess_ms=record.preprocess_ms,
        forward_ms=record.forward_ms,
        post_ms=record.post_ms,
        total_ms=record.total_ms,
    )


def _named(row: Any) -> dict[str, Any]:
    return {f.name: _value(getattr(row, f.name)) for f in fields(row)}


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _PARTS[type(value)](**_named(value))
    return value
