"""Events: sampled predictions, alerts, deploys, and errors of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.telemetry.otel.items import RowItem
from server.telemetry.otel.metric_store import SpanMark
from server.telemetry.record import Record
from server.telemetry.rows import AlertRow

ERRORS_OF_OURS = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OtelEvent:
    """`name` never contains variable values; `stamp` "" means that the event is about the server; 0
    means no trace."""

    name: str
    unix_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    body: str = ""
    severity: str = "info"  # info | warning | high | critical
    stamp: str = ""
    trace_id: int = 0
    span_id: int = 0


def alert_event(row: AlertRow) -> OtelEvent:
    attributes: dict[str, Value] = {
        "trefoil.alert.id": row.id,
        "trefoil.alert.key": row.key,
        "trefoil.alert.kind": row.kind,
        "trefoil.alert.state": row.state,
        "trefoil.alert.severity": row.severity,
        "trefoil.features": row.features,
        "trefoil.slices": row.slices,
    }
    return OtelEvent(
        name="trefoil.alert",
        unix_ns=row.last_unix_ms * NS_PER_MS,
        attributes=attributes,
        body=row.summary,
        severity=row.severity if row.state == "firing" and row.severity else "info",
        stamp=row.stamp,
    )


def sample_event(record: Record, probability: float) -> OtelEvent:
    attributes: dict[str, Value] = {
        "trefoil.prediction.id": record.prediction_id,
        "trefoil.task": record.task,
        "trefoil.mix": record.mix,
        "trefoil.label": record.label,
        "trefoil.confidence": record.confidence,
        "trefoil.sample.probability": probability,
        "trefoil.error": record.error,
    }
    return OtelEvent(
        name="trefoil.prediction",
        unix_ns=int(record.at * NS_PER_S),
        attributes=attributes,
        stamp=record.stamp,
        trace_id=int(record.trace_id or "0", 16),
    )


def error_event(row: RowItem, mark: SpanMark | None) -> OtelEvent:
    attributes: dict[str, Value] = {
        "trefoil.prediction.id": row.prediction_id,
        "trefoil.error": row.error,
        "error.type": row.error_code,
        "trefoil.replica": row.replica,
    }
    return OtelEvent(
        name="trefoil.error",
        unix_ns=int(row.at * NS_PER_S),
        attributes=attributes,
        body=row.error,
        severity="high",
        stamp=row.stamp,
        trace_id=mark.trace_id if mark else 0,
        span_id=mark.span_id if mark else 0,
    )


def deploy_event(stamp: str, name: str, before: str, unix_ns: int) -> OtelEvent:
    attributes: dict[str, Value] = {
        "trefoil.stamp": stamp,
        "trefoil.stamp.name": name,
        "trefoil.stamp.before": before,
    }
    return OtelEvent("trefoil.deploy", unix_ns, attributes, f"serving {name}")
