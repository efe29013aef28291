"""Telemetry's rows as the messages of proto/observe.proto, field by field with the same names."""

from __future__ import annotations

from typing import Any

import numpy as np

from proto import inference_pb2
from proto import observe_pb2 as pb
from server.request.by_name import filled
from server.telemetry import rows
from server.telemetry.outputs import times_of

# Row type -> (its field in WatchEvent, its message).
EVENTS: dict[type, tuple[str, Any]] = {
    rows.LatencyRow: ("latency", pb.LatencyRow),
    rows.FeatureRow: ("feature", pb.FeatureRow),
    rows.ProfileRow: ("profile", pb.ProfileRow),
    rows.DriftRow: ("drift", pb.DriftRow),
    rows.AlertRow: ("alert", pb.AlertRow),
    rows.SilenceRow: ("silence", pb.SilenceRow),
    rows.AnnotationRow: ("annotation", pb.AnnotationRow),
    rows.DeployRow: ("deploy", pb.DeployRow),
    rows.PredictionRow: ("prediction", pb.PredictionRow),
    rows.QualityRow: ("quality", pb.QualityRow),
    rows.SliceRow: ("slice", pb.SliceRow),
}


def event_of(row: rows.Row, event: pb.WatchEvent) -> pb.WatchEvent:
    """`event` with the row in its field."""
    name, _ = EVENTS[type(row)]
    getattr(event, name).CopyFrom(message_of_row(row))
    return event


def message_of_row(row: rows.Row) -> Any:
    if isinstance(row, rows.PredictionRow):
        return prediction_message(row)
    _, kind = EVENTS[type(row)]
    return filled(kind, row)


def prediction_message(row: rows.PredictionRow) -> pb.PredictionRow:
    record = row.record
    return filled(
        pb.PredictionRow,
        record,
        at_unix_ms=int(record.at * 1000),
        timing=inference_pb2.Timing(**times_of(record)),
        replica=max(record.replica, 0),
        slices=dict(record.slices),
        payload_kept=row.payload_kept,
        true_label=row.true_label,
        features=np.frombuffer(record.features, "<f4").tolist(),
    )
