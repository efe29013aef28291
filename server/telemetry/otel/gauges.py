"""Values that are read rather than counted (the state of the server, drift and value), as gauges.

Callers choose the names of slices, so only a few of the worst are exported; the others are in the
store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from server.telemetry.otel.histogram import Attributes
from server.telemetry.rows import DriftRow, QualityRow

MOST_FEATURES = 128
MOST_SLICES = 20

# "insufficient" and "learning" are not levels of drift and sort below them.
LEVELS = {"insufficient": -2, "learning": -1, "ok": 0, "warning": 1, "high": 2, "critical": 3}


class GaugeReading(NamedTuple):
    """`name` is one of GAUGES, or of COUNTERS for a sum since start."""

    name: str
    value: float
    attributes: Attributes = ()


def gauges_of(rows: Iterable[DriftRow | QualityRow]) -> Iterator[GaugeReading]:
    """The gauges of the latest row of each key: all traffic first, then the worst slices."""
    drift: dict[tuple[str, str, str, int], DriftRow] = {}
    quality: dict[str, QualityRow] = {}
    for row in rows:
        if isinstance(row, DriftRow):
            key = (row.feature, row.slice, row.baseline, row.window_s)
            if key not in drift or row.tick_unix_ms >= drift[key].tick_unix_ms:
                drift[key] = row
        elif row.slice not in quality or row.bucket_unix_s >= quality[row.slice].bucket_unix_s:
            quality[row.slice] = row
    for row in _worst(drift.values()):
        yield from _drift(row)
    for shown in _least(quality.values()):
        yield from _quality(shown)


def _worst(rows: Iterable[DriftRow]) -> list[DriftRow]:
    ordered = sorted(rows, key=lambda row: (-LEVELS.get(row.level, 0), -row.excess_kl, -row.ks))
    whole = [row for row in ordered if not row.slice][:MOST_FEATURES]
    return whole + [row for row in ordered if row.slice][:MOST_SLICES]


def _least(rows: Iterable[QualityRow]) -> list[QualityRow]:
    ordered = sorted(rows, key=_merit)
    whole = [row for row in ordered if not row.slice]
    return whole + [row for row in ordered if row.slice][:MOST_SLICES]


def _merit(row: QualityRow) -> float:
    known = (value for value in (row.accuracy, row.estimated_accuracy) if not math.isnan(value))
    return next(known, math.inf)


def _drift(row: DriftRow) -> Iterator[GaugeReading]:
    where = (
        ("trefoil.feature", row.feature),
        ("trefoil.slice", row.slice),
        ("trefoil.baseline", row.baseline),
        ("trefoil.window", f"{row.window_s // 3600}h"),
    )
    yield GaugeReading("trefoil.drift.n", row.n_effective, where)
    if row.level in LEVELS:
        yield GaugeReading("trefoil.drift.level", LEVELS[row.level], where)
    if LEVELS.get(row.level, 0) < 0:
        return  # a score from too few rows is worse than none
    for score in ("ks", "kl", "excess_kl", "psi", "js"):
        yield GaugeReading(f"trefoil.drift.{score}", getattr(row, score), where)


def _quality(row: QualityRow) -> Iterator[GaugeReading]:
    where = (("trefoil.slice", row.slice),)
    realised, estimated = (*where, ("kind", "realised")), (*where, ("kind", "estimated"))
    found = (
        GaugeReading("trefoil.quality.accuracy", row.accuracy, realised),
        GaugeReading("trefoil.quality.accuracy", row.estimated_accuracy, estimated),
        GaugeReading("trefoil.quality.value", row.value_per_1000, realised),
        GaugeReading("trefoil.quality.value", row.estimated_value_per_1000, estimated),
        GaugeReading("trefoil.quality.calibration_error", row.ece, where),
        GaugeReading("trefoil.quality.label_delay", row.median_label_delay_s, where),
    )
    yield from (reading for reading in found if not math.isnan(reading.value))
    if row.predictions:
        yield GaugeReading("trefoil.quality.labelled", row.labelled / row.predictions, where)
