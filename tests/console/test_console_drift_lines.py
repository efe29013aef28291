"""Lines of the drift table: which are loud, since when, and when they are painted again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from console.models.drift import columns, face, key, learning, loudness
from console.models.table import RowsModel
from console.state.dashboard import AlertLine, DriftLine
from console.state.firing import marked, since_s
from server.telemetry.rows import AlertRow, DriftRow
from tests.support.blank_rows import blank

NOW = 1_000_000.0


def drift_line(
    level: str, feature: str = "audio.snr_db", place: str = "site=b", **more: object
) -> DriftLine:
    row = blank(DriftRow, feature=feature, slice=place, level=level, **more)
    return DriftLine(row, "h:1", np.zeros(0), NOW)


def fires() -> AlertLine:
    values = {"id": "a", "kind": "drift", "severity": "high", "state": "firing", "summary": "x"}
    row = blank(AlertRow, **values, features=("audio.snr_db",), slices=("site=b",))
    return AlertLine(row, "h:1", "gpu-01", NOW - 90, 0.0, 0.0)


def test_a_drift_line_that_looks_the_same_is_not_painted_again() -> None:
    """Each board makes its lines anew: the table was painted whole four times a second."""
    rows = [drift_line("high")]
    alert = fires()
    model = RowsModel(columns("psi", wide=False), key, face)
    painted: list[object] = []
    model.dataChanged.connect(lambda first, last: painted.append((first, last)))
    for _ in range(3):
        model.show(marked(rows, [alert], lambda address: "gpu-01"))
    assert not painted
    model.show(marked(rows, [], lambda address: "gpu-01"))
    assert len(painted) == 1


def test_a_row_is_loud_while_an_alert_about_it_fires() -> None:
    rows = [drift_line("high"), drift_line("critical", feature="image.width", place="site=a")]
    own = replace(rows[0], source="console")
    alert = fires()
    first, second = marked(rows[::-1], [alert], lambda address: "gpu-01")
    assert (first.key, first.firing_at, first.name) == (rows[0].key, ("h:1",), "gpu-01")
    assert (loudness(first), loudness(second)) == ("high", "info")
    # Of the servers with such a row, the one where it fires, even where another one's is worse.
    others = (replace(rows[0], server="h:2"), rows[0])
    (both,) = marked([replace(others[0], by_server=others)], [alert], str)
    assert both.server == "h:1"
    quieter = [replace(alert, row=replace(alert.row, state="pending"))]
    assert [loudness(line) for line in marked([*rows, own], quieter, str)] == ["info"] * 3
    table = [column.title for column in columns("psi", True, fleet=True)]
    assert {"server", "since"} <= set(table)


def test_since_is_that_of_the_row_itself() -> None:
    levels = [(1.0, "high"), (2.0, "ok"), (3.0, "warning"), (4.0, "critical")]
    assert since_s(levels) == 3.0
    assert math.isnan(since_s([*levels, (5.0, "ok")]))


def test_a_fresh_server_is_learning_in_one_sentence() -> None:
    few = [drift_line("learning", n=rows, n_needed=640.0) for rows in (3.0, 9.0)]
    assert learning(few) == "learning: 9 of about 640 rows"
