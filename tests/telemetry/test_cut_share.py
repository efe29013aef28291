"""The share of rows with a part that was cut: a structural alert at 1 % above the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.telemetry.cut_share import HOLD_S, CutShare, cut_in
from server.telemetry.drift.profile import FeatureReference, Reference, empty_reference
from server.telemetry.drift.reference import parse
from server.telemetry.drift.windows import HOUR_S
from server.telemetry.record import FeatureSpec
from tests.support.telemetry_bench import NOW, SCHEMA, STAMP, bundle, record
from tests.support.telemetry_writer import WriterBench

WHOLE, CUT = record(0), record(0, parts_cut=1)
TRUNCATED = FeatureSpec("text.truncated", "text", "numeric", "1")


def reference(whole: int, cut: int) -> Reference:
    """Of so many texts; 0 and 1 are the values it knows of."""
    feature = FeatureReference(
        TRUNCATED,
        np.array([-0.5, 0.5, 1.5]),
        np.array([0, whole, cut, 0]),
        np.arange(4),
        discrete=True,
    )
    return replace(empty_reference(()), rows=whole + cut, features=(feature,), learning=False)


WITHOUT = replace(empty_reference(SCHEMA), rows=4000, learning=False)


@pytest.mark.parametrize(
    ("rows", "cut", "known", "severity"),
    [
        (1000, 0, WITHOUT, ""),
        (1000, 9, WITHOUT, ""),  # 0.9 %
        (1000, 12, WITHOUT, "warning"),
        (1000, 150, WITHOUT, "high"),
        (1000, 600, WITHOUT, "critical"),
        (90, 90, WITHOUT, ""),  # too few for a share
        (1000, 50, reference(950, 50), ""),  # as in the reference
        (1000, 300, reference(950, 50), "high"),
        (1000, 600, empty_reference(SCHEMA), ""),  # nothing to compare with yet
    ],
)
def test_share_above_the_reference_alerts(
    rows: int, cut: int, known: Reference, severity: str
) -> None:
    share = CutShare()
    share.add([WHOLE] * (rows - cut) + [CUT] * cut, NOW)
    found = share.finding(STAMP, known, 1.0, NOW + 1)
    assert (found.severity, found.kind) == (severity, "structural")
    assert ("% of rows have parts that were cut" in found.summary) is bool(severity)


def test_rows_that_come_in_bursts_count_less() -> None:
    share = CutShare()
    share.add([WHOLE] * 980 + [CUT] * 20, NOW)
    assert share.finding(STAMP, WITHOUT, 1.0, NOW).severity == "warning"
    assert share.finding(STAMP, WITHOUT, 4.0, NOW).severity == ""


def test_refused_rows_are_not_cut_ones_and_an_hour_is_kept() -> None:
    share = CutShare()
    share.add([record(0, error="INVALID_ARGUMENT/X/y", parts_cut=1)] * 500, NOW)
    assert not share._slots
    for second in range(0, 3 * HOUR_S, 10):
        share.add([CUT], NOW + second)
        share.finding(STAMP, WITHOUT, 1.0, NOW + second)
    assert len(share._slots[STAMP]) <= 361
    assert share.finding(STAMP, WITHOUT, 1.0, NOW + 9 * HOUR_S).severity == ""
    assert not share._slots


def test_bundle_without_that_feature_has_none_cut() -> None:
    files = bundle(rows=400)
    assert cut_in(parse(files.reference, SCHEMA)) == (0, 400)


def test_alert_opens_with_the_traffic_and_ends_after_it(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    bench.writer.adopt(bundle())

    def hour(cut: int) -> list[tuple[str, str]]:
        for _ in range(12):
            rows = [record(i, bench.clock.now, parts_cut=int(i < cut)) for i in range(60)]
            bench.writer.write([(row, SCHEMA) for row in rows])
            bench.clock.now += 300
            bench.writer.tick(bench.clock.now - 1)
        alerts = bench.writer.alerts.book.rows()
        return [(row.state, row.summary) for row in alerts if row.key.endswith("/cut")]

    assert hour(0) == []
    ((state, summary),) = hour(30)
    assert state == "firing"
    assert summary.endswith("cut or have a warning (reference 0.0 %)")
    hour(0)
    for _ in range(round(HOLD_S / HOUR_S) + 1):
        ((state, _),) = hour(0)
    assert state == "resolved"
