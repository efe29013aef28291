"""Finds where the model is worst among stored predictions: reads the rows, searches, names the
slices."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from server.telemetry.filters import slice_name
from server.telemetry.quality.estimates import Yardstick
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import SliceRow
from server.telemetry.slices.conditions import SliceColumn
from server.telemetry.store.database import open_reader
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.reader import days_in

if TYPE_CHECKING:
    from server.telemetry.slices.search import FoundSlice, Measure

Floats = NDArray[np.float64]
MEASURES = ("error", "value", "confidence")
MOST_ROWS = 300_000
MIN_LABELLED = 1000  # with fewer labels, the search uses estimated losses
TAG_VALUES = 64
NOT_SEARCHED = ("embedding",)  # directions without a name explain nothing
MADE_OF = ("embedding", "output")


@dataclass(frozen=True, slots=True)
class SliceSearch:
    """`measure` is error | value | confidence."""

    span: TimeSpan
    measure: str = "error"
    limit: int = 10


@dataclass(frozen=True, slots=True)
class SliceSearchResult:
    """`estimated`: there were too few labels, so the loss is estimated from confidence."""

    slices: list[SliceRow]
    rows: int
    estimated: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Columns of the searched rows, newest first."""

    features: NDArray[np.float32]
    tags: Sequence[Mapping[str, str]]
    confidence: Floats
    predicted: Sequence[str]
    truth: Sequence[str]
    value: Floats
    total_ms: Floats


def search(
    path: Path, stamp: str, schema: Sequence[FeatureSpec], stick: Yardstick, wanted: SliceSearch
) -> SliceSearchResult:
    """The worst slices among one stamp's classifications in a span."""
    from server.telemetry.slices.search import worst_slices  # imported late, as it needs scipy

    with closing(open_reader(path)) as connection:
        rows = _read(connection, stamp, len(schema), wanted.span)
    if rows is None:
        return SliceSearchResult([], 0, False)
    loss, estimated = _loss(rows, stick, wanted.measure)
    known = np.isfinite(loss)
    unit = stick.objective.unit if stick.objective else ""
    # The columns of the loss itself would explain it perfectly, and show nothing.
    by_confidence = estimated or wanted.measure == "confidence"
    columns = list(_columns(rows, schema, known, MADE_OF if by_confidence else NOT_SEARCHED))
    found = worst_slices(columns, loss[known], _measure(wanted.measure), unit, wanted.limit)
    return SliceSearchResult(
        [_row(one, stamp, wanted, estimated) for one in found], int(known.sum()), estimated
    )


def _row(found: FoundSlice, stamp: str, wanted: SliceSearch, estimated: bool) -> SliceRow:
    worth = -1000 * found.mean if wanted.measure == "value" else math.nan
    return SliceRow(
        expression=found.expression,
        message=found.message + (" (estimated from confidence)" if estimated else ""),
        support=found.support,
        share=found.share,
        error=found.mean,
        error_elsewhere=found.mean_elsewhere,
        z=found.z,
        q=found.q,
        value_per_1000=worth,
        stamp=stamp,
        at_unix_ms=int(wanted.span.until * 1000),
    )


def _measure(name: str) -> Measure:
    """The measure of this name. Raises ValueError."""
    if name not in MEASURES:
        raise ValueError(f"measure {name!r}: one of {', '.join(MEASURES)}")
    return name  # type: ignore[return-value]


def _loss(rows: _Rows, stick: Yardstick, measure: str) -> tuple[Floats, bool]:
    """The loss of each row, NaN where unknown, and whether it had to be estimated."""
    if measure == "confidence":
        return 1.0 - rows.confidence, False
    labelled = np.array([t != "" for t in rows.truth])
    if measure == "value":
        realised, estimated = _lost(rows, stick), _expected_loss(rows, stick)
        labelled = np.isfinite(realised)
    else:
        wrong = [p != t for p, t in zip(rows.predicted, rows.truth, strict=True)]
        realised = np.where(labelled, np.array(wrong, dtype=np.float64), np.nan)
        estimated = 1.0 - _right(rows, stick)
    if labelled.sum() >= MIN_LABELLED:
        return realised, False
    return estimated, True


def _right(rows: _Rows, stick: Yardstick) -> Floats:
    """The calibrated probability that the answer was right."""
    return stick.right[np.searchsorted(stick.edges, rows.confidence, side="right")]


def _lost(rows: _Rows, stick: Yardstick) -> Floats:
    """The value lost compared with the right decision, 0 for a right one; NaN where the true label
    is unknown.

    It is not the value itself, which is low wherever little is at stake, however good the answers
    are.
    """
    found = np.full(len(rows.value), np.nan)
    if stick.objective is None:
        return found
    places = {label: i for i, label in enumerate(stick.labels)}
    for i, (predicted, truth) in enumerate(zip(rows.predicted, rows.truth, strict=True)):
        if predicted in places and truth in places:
            true, took_s = places[truth], float(rows.total_ms[i]) / 1000
            worth = float(rows.value[i])
            if math.isnan(worth):
                worth = stick.objective.worth(true, places[predicted], took_s)
            found[i] = max(stick.objective.worth(true, true, took_s) - worth, 0.0)
    return found


def _expected_loss(rows: _Rows, stick: Yardstick) -> Floats:
    """The expected loss; NaN without an objective."""
    lost = stick.lost[[stick.label(label) for label in rows.predicted]]
    return (1 - _right(rows, stick)) * lost


def _columns(
    rows: _Rows, schema: Sequence[FeatureSpec], known: NDArray[np.bool_], left_out: Sequence[str]
) -> Iterator[SliceColumn]:
    for position, spec in enumerate(schema):
        if spec.modality not in left_out:
            values = rows.features[known, position]
            yield SliceColumn(spec.name, values, spec.unit, spec.categories)
    tags = [tag for tag, keep in zip(rows.tags, known, strict=True) if keep]
    for key in sorted({key for tag in tags for key in tag}):
        names = [tag.get(key, "") for tag in tags]
        counts = Counter(name for name in names if name).most_common(TAG_VALUES)
        categories = tuple(name for name, _ in counts)
        places = {name: i for i, name in enumerate(categories)}
        found = np.array([places.get(name, math.nan) for name in names], dtype=np.float32)
        yield SliceColumn(slice_name(key), found, "", categories)


def _read(
    connection: sqlite3.Connection, stamp: str, features: int, span: TimeSpan
) -> _Rows | None:
    """The latest MOST_ROWS answered classifications whose features fit."""
    found: list[tuple[Any, ...]] = []
    for day in reversed(days_in(connection, span)):
        found += connection.execute(
            "SELECT p.features, p.slices, ifnull(p.confidence, 0), p.label, ifnull(t.label, ''),"
            f" t.value, p.total_ms FROM prediction_{day} p LEFT JOIN truth t USING (prediction_id)"
            " WHERE p.stamp_id = (SELECT id FROM stamp WHERE hex = ?) AND p.at >= ? AND p.at < ?"
            " AND p.task = 'classify' AND p.error = '' AND length(p.features) = ?"
            " ORDER BY p.at DESC LIMIT ?",
            (stamp, span.since, span.until, 4 * features, MOST_ROWS - len(found)),
        ).fetchall()
        if len(found) >= MOST_ROWS:
            break
    if not found:
        return None
    blobs, slices, confidence, predicted, truth, value, total_ms = zip(
        *(tuple(row) for row in found), strict=True
    )
    return _Rows(
        np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(found), features),
        [json.loads(text) for text in slices],
        np.array(confidence, dtype=np.float64),
        predicted,
        truth,
        np.array([math.nan if v is None else v for v in value]),
        np.array(total_ms, dtype=np.float64),
    )
