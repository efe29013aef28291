"""Detects that answers got worse: estimated from confidence at once, realised when labels
arrive."""

from __future__ import annotations

import math

from server.telemetry.drift.profile import Reliability
from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.quality.estimates import QualityCounts, Yardstick

MIN_ANSWERS = 320  # as for drift: with fewer, the level is "insufficient"
MIN_LABELLED = 100
FALLS = (0.05, 0.10, 0.20)  # accuracy below that of the reference: warning, high, critical
SIGMAS = 3.3  # one-sided p of 0.0005; ticks overlap, and one feature is tested all day
HOLD_S = 3600.0


def quality_finding(
    stamp: str, table: Reliability | None, stick: Yardstick, day: QualityCounts
) -> list[Finding]:
    """At most one finding. `table` is the reliability of the reference, `day` the counts of 24
    hours; no finding without a reference that has labels."""
    if table is None or not table.n.sum():
        return []
    usual = float(table.sum_correct.sum() / table.n.sum())
    row = day.row(stick, stamp, "", 0, 86400)
    fallen: list[tuple[int, str]] = []
    if row.predictions >= MIN_ANSWERS:
        level = _level(usual, row.estimated_accuracy, row.predictions)
        estimated = f"estimated accuracy {100 * row.estimated_accuracy:.1f} %"
        fallen.append((level, f"{estimated} on {row.predictions:,} rows"))
    if row.labelled >= MIN_LABELLED:
        level = _level(usual, row.accuracy, row.labelled)
        realised = f"realised accuracy {100 * row.accuracy:.1f} %"
        fallen.append((level, f"{realised} on {row.labelled:,} labelled rows"))
    key = f"value/{stamp[:12]}/accuracy"
    level, what = max(fallen, default=(0, ""))
    if not level:
        return [Finding(key, "value", "", "", stamp, hold_s=HOLD_S)]
    summary = f"{what} over 24 h (reference {100 * usual:.1f} %)"
    return [Finding(key, "value", SEVERITIES[level], summary, stamp, hold_s=HOLD_S)]


def _level(usual: float, found: float, n: int) -> int:
    error = math.sqrt(max(usual * (1 - usual), 1e-4) / n)
    if math.isnan(found) or usual - found < SIGMAS * error:
        return 0
    return sum(usual - found >= fall for fall in FALLS)
