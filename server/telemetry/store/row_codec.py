"""Converts rows to their form in the store, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from server.telemetry.drift.profile import pack_counts, unpack_counts
from server.telemetry.outputs import TIME_NAMES, time_tuple
from server.telemetry.rows import (
    AlertRow,
    AlertTransition,
    AnnotationRow,
    DeployRow,
    DriftRow,
    Exemplar,
    LatencyRow,
    SilenceRow,
)
from server.telemetry.stamps.latency import BUCKETS


def alert_of(content: Mapping[str, Any], history: tuple[AlertTransition, ...]) -> AlertRow:
    return AlertRow(
        **{
            **content,
            "features": tuple(content["features"]),
            "slices": tuple(content["slices"]),
            "history": history,
        }
    )


def alert_history(connection: sqlite3.Connection, alert_id: str) -> tuple[AlertTransition, ...]:
    rows = connection.execute(
        "SELECT at_unix_ms, from_state, to_state, actor, detail FROM alert_event"
        " WHERE alert_id = ? ORDER BY id",
        (alert_id,),
    )
    return tuple(AlertTransition(*row) for row in rows)


def silence_of(content: Mapping[str, Any]) -> SilenceRow:
    return SilenceRow(**content)


def annotation_of(content: Mapping[str, Any]) -> AnnotationRow:
    return AnnotationRow(**content)


def deploy_of(content: Mapping[str, Any]) -> DeployRow:
    return DeployRow(**content)


def drift_of(values: Sequence[Any], stamp: str) -> DriftRow:
    """`values` are in the order of the table."""
    return DriftRow(values[0], stamp, *values[2:])


def latency_tuple(row: LatencyRow, stamp_id: int) -> tuple[Any, ...]:
    return (
        row.bucket_unix_ms // 1000,
        row.width_s,
        stamp_id,
        row.mix,
        row.replica,
        row.requests,
        row.errors,
        pack_counts(np.array(row.counts, dtype=np.int64)),
        *time_tuple(row),
        row.batch_rows,
        json.dumps([astuple(e) for e in row.exemplars]),
    )


def latency_of(values: Sequence[Any], stamp: str) -> LatencyRow:
    """The inverse of `latency_tuple`."""
    bucket, width_s, _, mix, replica, requests, errors, counts, *rest = values
    *times, batch_rows, exemplars = rest
    return LatencyRow(
        bucket * 1000,
        width_s,
        stamp,
        mix,
        replica,
        requests,
        errors,
        tuple(unpack_counts(counts, BUCKETS).tolist()),
        **dict(zip(TIME_NAMES, times, strict=True)),
        batch_rows=batch_rows,
        exemplars=tuple(Exemplar(*e) for e in json.loads(exemplars)),
    )
