"""Reads rows of a time span from telemetry.db, one function for each kind, over a read-only
connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from server.telemetry.drift.profile import Profile, unpack_counts
from server.telemetry.rows import FeatureRow, ProfileRow, Row
from server.telemetry.store.row_codec import (
    alert_history,
    alert_of,
    annotation_of,
    deploy_of,
    drift_of,
    latency_of,
    silence_of,
)


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Unix seconds; the end is not included."""

    since: float
    until: float


def _features(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    """The features of every stamp: profiles and drift of the span cannot be read without them."""
    for row in connection.execute(
        "SELECT f.*, s.hex AS stamp FROM feature f JOIN stamp s ON s.id = f.stamp_id"
        " ORDER BY f.stamp_id, f.position"
    ):
        edges = np.frombuffer(row["edges"], dtype="<f8")
        categories = tuple(json.loads(row["categories"]))
        counts = unpack_counts(row["reference_counts"], row["cells"])
        yield FeatureRow(
            row["name"],
            row["modality"],
            row["kind"],
            row["unit"],
            categories,
            row["stamp"],
            tuple(edges.tolist()),
            tuple(counts.tolist()),
            float(counts.sum()),
            row["importance"],
        )


def _latency(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT l.*, s.hex FROM latency l JOIN stamp s ON s.id = l.stamp_id"
        " WHERE bucket >= ? AND bucket < ? ORDER BY bucket",
        (span.since, span.until),
    ):
        yield latency_of(tuple(row)[:-1], row["hex"])


def _profiles(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT p.*, s.hex AS stamp, c.name AS slice, f.name AS feature, f.centre, f.step, f.cells"
        " FROM profile p JOIN stamp s ON s.id = p.stamp_id JOIN slice c ON c.id = p.slice_id"
        " JOIN feature f ON f.id = p.feature_id"
        " WHERE p.hour >= ? AND p.hour < ? ORDER BY p.hour",
        (span.since - 3599, span.until),
    ):
        try:
            counts = unpack_counts(row["counts"], row["cells"], row["crc"])
        except ValueError:
            continue  # damaged on disk: leave the row out
        names = ("missing", "nonfinite", "absent", "sum", "sum_squares", "min", "max")
        profile = Profile(counts, *(row[name] for name in names))
        where = (row["stamp"], row["feature"], row["slice"], row["hour"])
        yield profile_row(where, profile, row["centre"], row["step"])


def profile_row(
    where: tuple[str, str, str, int], profile: Profile, centre: float, step: float
) -> ProfileRow:
    """`where` is stamp, feature, slice, hour; sums are given about zero, in the feature's unit."""
    n, total, squares = profile.n, profile.sum, profile.sum_squares
    return ProfileRow(
        *where,
        n=n,
        sum=n * centre + step * total,
        sum_squares=n * centre**2 + 2 * centre * step * total + step**2 * squares,
        min=profile.min,
        max=profile.max,
        missing=profile.missing,
        nonfinite=profile.nonfinite,
        counts=tuple(profile.counts.tolist()),
    )


def _drift(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT d.*, s.hex FROM drift d JOIN stamp s ON s.id = d.stamp_id"
        " WHERE tick_unix_ms >= ? AND tick_unix_ms < ? ORDER BY tick_unix_ms",
        (span.since * 1000, span.until * 1000),
    ):
        yield drift_of(tuple(row)[:-1], row["hex"])


def _alerts(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    """Every alert that was open at some time in the span. A lasting alert is stored when it begins
    and at each step, not in between."""
    for row in connection.execute(
        "SELECT row FROM alert"
        " WHERE last_unix_ms >= ? OR json_extract(row, '$.state') <> 'resolved'"
        " ORDER BY last_unix_ms",
        (span.since * 1000,),
    ):
        content = json.loads(row[0])
        if content["opened_unix_ms"] < span.until * 1000:
            yield alert_of(content, alert_history(connection, content["id"]))


def _silences(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT row FROM silence WHERE until_unix_ms >= ?", (span.since * 1000,)
    ):
        yield silence_of(json.loads(row[0]))


def _annotations(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT row FROM annotation WHERE at_unix_ms >= ? AND at_unix_ms < ? ORDER BY at_unix_ms",
        (span.since * 1000, span.until * 1000),
    ):
        yield annotation_of(json.loads(row[0]))


def _deploys(connection: sqlite3.Connection, span: TimeSpan) -> Iterator[Row]:
    for row in connection.execute(
        "SELECT row FROM deploy WHERE at_unix_ms >= ? AND at_unix_ms < ? ORDER BY at_unix_ms, id",
        (span.since * 1000, span.until * 1000),
    ):
        yield deploy_of(json.loads(row[0]))


HISTORY: dict[str, Callable[[sqlite3.Connection, TimeSpan], Iterator[Row]]] = {
    "feature": _features,
    "latency": _latency,
    "profile": _profiles,
    "drift": _drift,
    "alert": _alerts,
    "silence": _silences,
    "deploy": _deploys,
    "annotation": _annotations,
}
