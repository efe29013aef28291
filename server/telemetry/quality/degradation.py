"""When the answers got worse: estimated from confidence at once, realised when labels come."""

from __future__ import annotations

import math

from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.quality.estimates import QualityCounts
from server.telemetry.stamps.stamp_state import Live

MIN_ANSWERS = 320  # as for drift: fewer are "insufficient"
MIN_LABELLED = 100
FALLS = (0.05, 0.10, 0.20)  # of accuracy below the reference's: warning, high, critical
SIGMAS = 3.3  # one-sided p of 0.0005; ticks overlap, and one feature is tested all day
HOLD_S = 3600.0


def quality_finding(live: Live, day: QualityCounts) -> list[Finding]:
    """One finding a stamp; none for a bundle whose reference has no labels to compare with."""
    table = live.reference.reliability
    if table is None or not table.n.sum():
        return []
    usual = float(table.sum_correct.sum() / table.n.sum())
    row = day.row(live.stick, live.bundle.stamp, "", 0, 86400)
    fallen: list[tuple[int, str]] = []
    if row.predictions >= MIN_ANSWERS:
        level = _level(usual, row.estimated_accuracy, row.predictions)
        fallen.append((level, f"estimated accuracy {row.estimated_accuracy:.1%}"))
    if row.labelled >= MIN_LABELLED:
        level = _level(usual, row.accuracy, row.labelled)
        fallen.append((level, f"accuracy {row.accuracy:.1%} on {row.labelled} labelled"))
    key = f"value/{live.bundle.stamp[:12]}/accuracy"
    level, words = max(fallen, default=(0, ""))
    if not level:
        return [Finding(key, "value", "", "", live.bundle.stamp, hold_s=HOLD_S)]
    summary = f"{words} over 24 h, {usual:.1%} in the reference"
    return [Finding(key, "value", SEVERITIES[level], summary, live.bundle.stamp, hold_s=HOLD_S)]


def _level(usual: float, found: float, n: int) -> int:
    error = math.sqrt(max(usual * (1 - usual), 1e-4) / n)
    if math.isnan(found) or usual - found < SIGMAS * error:
        return 0
    return sum(usual - found >= fall for fall in FALLS)
