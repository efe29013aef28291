"""Drift of a brushed window, computed from the counts in the cache."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from console.cache import compare, drift
from console.cache.interned import InternedTexts
from console.state.dashboard import View
from console.state.domain import (
    ServerSnapshot,
)
from server.telemetry.rows import (
    DriftRow,
    ProfileRow,
)
from tests.support.blank_rows import blank
from tests.support.console_cache import T0, builder, feature, put


def profile(counts: tuple[int, ...], place: str = "", hour: int = 0) -> ProfileRow:
    at = int(T0) // 3600 * 3600 + 3600 * hour
    return blank(
        ProfileRow, "s", "audio.snr_db", place, at, sum(counts), min=-3.0, max=3.0, counts=counts
    )


def test_drift_of_a_brushed_window_is_computed_from_its_hours(db: sqlite3.Connection) -> None:
    shifted = tuple(int(x) for x in np.linspace(10, 200, 32))
    put(db, [feature(), profile((50,) * 32), profile(shifted, "site=b"), profile((1,) * 32, "tiny"),
             profile(shifted, "", hour=-5)])  # fmt: skip
    names = InternedTexts(db)
    lines, hours = drift.in_window(db, names, drift.features(db), (T0, T0 + 60), "psi")
    levels = {line.row.slice: line.row.level for line in lines}
    assert levels == {"site=b": "critical", "": "ok", "tiny": "insufficient"}
    # Worst first, and not knowing is worse than knowing that all is well.
    assert [line.row.slice for line in lines] == ["site=b", "tiny", ""]
    assert hours[1] - hours[0] == 3600


def test_drift_scores_are_those_of_the_server(db: sqlite3.Connection) -> None:
    from server.telemetry.drift import scores as maths

    shifted = tuple(int(x) for x in np.linspace(10, 200, 32))
    row = feature(groups=tuple(n // 2 for n in range(32)))
    put(db, [row, profile(shifted)])
    lines, _ = drift.in_window(db, InternedTexts(db), drift.features(db), (T0, T0 + 60), "psi")
    reference = drift.reference_of(row)
    assert reference is not None
    reported = maths.compare(reference, np.array(shifted), reference.counts)
    assert (lines[0].row.psi, lines[0].row.kl) == (reported.psi[0], reported.kl[0])
    assert lines[0].row.n_effective == reported.n[0] / maths.UNMEASURED
    span = (T0, T0 + 60)
    key = ("audio.snr_db", "")
    found = compare.comparison(db, InternedTexts(db), drift.features(db), key, span, "s")
    assert found is not None and found.scores["psi"] == pytest.approx(reported.psi[0])
    area = float((found.live * np.diff(found.edges)).sum())
    assert area == pytest.approx(1.0)


def test_traffic_in_bursts_is_not_called_drift(db: sqlite3.Connection) -> None:
    """Every row twice, 30 features without any shift: each alone would be tried too hard."""
    draw = np.random.default_rng(1)
    names = [f"f{number:02d}" for number in range(30)]
    for name in names:
        counts = 2 * np.bincount(draw.integers(0, 32, 400), minlength=32)
        row = replace(profile(tuple(int(x) for x in counts)), feature=name)
        put(db, [feature(name=name), row])
    lines, _ = drift.in_window(db, InternedTexts(db), drift.features(db), (T0, T0 + 60), "psi")
    assert len(lines) == 30 and {line.row.level for line in lines} == {"ok"}


def test_features_that_come_later_are_compared_with(db: sqlite3.Connection, path: Path) -> None:
    """Also where nothing but the comparison asks for them."""
    tick = blank(DriftRow, int(T0 * 1000), "s", "audio.snr_db", "", level="ok", n=900.0)
    put(db, [ServerSnapshot(stamp="s"), feature(name="other"), profile((50,) * 32), tick])
    held = builder(path)
    view = View(end_s=T0, drift_key=("audio.snr_db", ""))
    assert held.board(view, T0, None, frozenset()).comparison is None
    changed = put(db, [feature()])
    held.board(view, T0, None, changed)
    later = replace(view, end_s=T0 + 3600)
    assert held.board(later, T0, None, frozenset()).comparison is not None
    held.db.close()


def test_rows_of_a_stamp_no_longer_served_are_left_out(db: sqlite3.Connection) -> None:
    for stamp, level in (("old", "critical"), ("new", "ok")):
        put(db, [blank(DriftRow, int(T0 * 1000), stamp, "f", "", level=level, n=900.0)])
    names = InternedTexts(db)
    lines = drift.newest(db, names, (T0 + 9) * 1000, {"a:1": "new"}, "psi")
    assert [line.row.level for line in lines] == ["ok"]


def test_the_window_that_tells_most_is_shown(db: sqlite3.Connection) -> None:
    """A shift of the last hour is in the last day's rows too, and does not stand out there."""
    at_ms = int(T0 * 1000)
    for tick, hour in ((0, "ok"), (1, "high")):
        for window_s, level, psi in ((3600, hour, 0.3), (14400, "warning", 0.1), (86400, "ok", 0)):
            row = blank(
                DriftRow, at_ms + tick, "s", "f", "", window_s=window_s, level=level, psi=psi
            )
            put(db, [row])
    (line,) = drift.newest(db, InternedTexts(db), (T0 + 9) * 1000, {"a:1": "s"}, "psi")
    assert (line.row.window_s, line.row.level, line.servers) == (3600, "high", 1)
    assert line.spark.tolist() == [0.3, 0.3]  # ticks of that window alone


def test_of_windows_that_say_the_same_the_longest_is_shown(db: sqlite3.Connection) -> None:
    for window_s, level in ((3600, "insufficient"), (14400, "ok"), (86400, "ok")):
        put(
            db,
            [
                blank(
                    DriftRow, int(T0 * 1000), "s", "f", "", window_s=window_s, level=level, psi=0.1
                )
            ],
        )
    (line,) = drift.newest(db, InternedTexts(db), (T0 + 9) * 1000, {"a:1": "s"}, "psi")
    assert (line.row.window_s, line.row.level) == (86400, "ok")


def test_features_with_wrong_cells_are_no_reference() -> None:
    assert drift.reference_of(feature(edges=(1.0,))) is None
    assert drift.reference_of(feature(reference_counts=(0,) * 32)) is None
