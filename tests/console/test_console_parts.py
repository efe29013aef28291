"""Parts of the window that need no window: models, media, times, arguments."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPersistentModelIndex, Qt, QTimer
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from console.app.garbage import GarbageTimer
from console.app.main import main
from console.app.media import parts_of
from console.app.notices import beginning
from console.models.cells import Cell, TableColumn
from console.models.predictions import PAGE, PredictionsModel
from console.models.table import RowsModel
from console.state.dashboard import AlertLine, Board, FleetState, View
from console.state.domain import CachedPrediction
from console.state.timetext import parse_moment, parse_span, span_text, ticks
from server.telemetry.rows import AlertRow
from tests.support import story_payload
from tests.support.blank_rows import blank
from tests.support.patience import patience_ms

ROOT = Path(__file__).resolve().parents[2]

T0 = 1_790_003_000.0


def test_none_keeps_its_references_through_void_calls(qtbot: QtBot) -> None:
    """PySide6 6.12.0 loses one a call before Python 3.12, and the process with the last."""
    timer = QTimer()
    before = sys.getrefcount(None)
    for _ in range(1000):
        timer.setInterval(5)
    assert abs(sys.getrefcount(None) - before) < 50


def test_a_cycle_with_a_widget_ends_in_the_thread_of_the_window(qtbot: QtBot) -> None:
    ends: list[str] = []

    def allocate() -> None:
        while not ends and not enough.is_set():
            [[] for _ in range(5_000)]

    def cycle() -> None:
        timer = QTimer()
        held: list[object] = [timer]
        held.append(held)
        weakref.finalize(timer, lambda: ends.append(threading.current_thread().name))

    enough = threading.Event()
    gc.enable()  # as in a process of its own: conftest.py collects between two tests only
    garbage = GarbageTimer()
    garbage.start()
    reader = threading.Thread(target=allocate, name="reader")
    try:
        cycle()
        reader.start()
        qtbot.waitUntil(lambda: bool(ends), timeout=patience_ms(20))
    finally:
        enough.set()
        reader.join()
        garbage.stop()
        again = gc.isenabled()
        gc.disable()
    assert ends == ["MainThread"]
    assert again, "stop restores what was before"


def test_rows_model_keeps_selection_by_key(qtbot: QtBot) -> None:
    column = TableColumn("x", lambda row: Cell(str(row[1])), order=lambda row: row[1])
    model = RowsModel((column,), lambda row: row[0])
    QAbstractItemModelTester(
        model, QAbstractItemModelTester.FailureReportingMode.Fatal
    )  # fmt: skip
    model.show([("a", 1), ("b", 2)])
    held = QPersistentModelIndex(model.index(1, 0))
    model.show([("c", 9), ("b", 3), ("a", 1)])
    assert (held.row(), held.data()) == (1, "3")
    model.sort(0, Qt.SortOrder.DescendingOrder)
    assert [row[0] for row in model.rows] == ["c", "b", "a"]
    model.sort(-1)
    model.show([("a", 1)])
    assert not held.isValid()
    model.show([])


def test_million_predictions_read_only_what_is_looked_at(qtbot: QtBot) -> None:
    asked: list[list[int]] = []
    model = PredictionsModel(lambda a: a, asked.append)
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal)
    asked.clear()
    model.show(np.arange(1_000_000, 0, -1, dtype=np.int64))
    assert model.rowCount() == 1_000_000
    model.index(700_000, 2).data()
    model.index(700_001, 2).data()
    last = asked[-1]
    assert len(last) == PAGE and 300_000 in last
    assert len([page for page in asked if page == last]) == 1
    assert model.read() == []
    model.fill({number: ("a:1", CachedPrediction(str(number))) for number in last})
    assert [model.entry(place) for place in model.read()] == [
        ("a:1", CachedPrediction(str(number))) for number in last
    ]


def test_payload_parts_are_decoded_or_refused_with_a_message(qtbot: QtBot) -> None:
    text, picture, sound = parts_of(story_payload.payload("x"))
    assert text.text.startswith("Grinding noise")
    assert picture.image is not None and picture.image.width() == 96
    assert sound.samples is not None and sound.spectrogram is not None
    assert sound.spectrogram.max() == 1.0 and "0.5 s at 16,000 Hz" in sound.caption
    assert "not an Example" in parts_of(b"\xff\xff\xff")[0].caption


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("45s", 45), ("6h", 21600)])
def test_spans_are_read_and_written(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds
    assert span_text(seconds) == text
    assert parse_moment("2026-11-23T03:12Z") == parse_moment("2026-11-23T03:12:00Z")
    for bad in ("30", "m", "1000d", "-5m"):
        with pytest.raises(ValueError):
            parse_span(bad)


def test_ticks_are_round_and_never_too_many() -> None:
    for span in (20, 600, 7000, 90_000, 9e6):
        found, _ = ticks(T0, T0 + span, 8)
        assert 1 <= len(found) <= 9
        steps = np.diff(found)
        assert len(steps) == 0 or np.allclose(steps, steps[0])


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (["nohost"], "HOST:PORT"),
        (["h:1", "--at", "noon"], "2026-11-23T03:12Z"),
        (["h:1", "--window", "long"], "30m"),
        (["h:1", "--size", "0x9"], "WIDTHxHEIGHT"),
        (["h:1", "--ca", "nowhere.pem"], "--ca nowhere.pem"),
        (["h:1", "--token-file", __file__], "never sent in plaintext"),
    ],
)
def test_bad_arguments_are_named_before_any_window(
    arguments: list[str], result: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("console: ") and result in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a display")
def test_a_missing_display_is_reported_without_an_abort() -> None:
    displays = ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    without = {name: value for name, value in os.environ.items() if name not in displays}
    command = [sys.executable, "-m", "console.app.main", "--offline"]
    ended = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True)
    assert ended.returncode == 2 and "there is no display here" in ended.stderr


def test_notice_is_given_once_for_an_alert_that_begins() -> None:
    """Not for what was there before, is acknowledged, is no more, or is not critical."""

    def alert(identity: str, opened_s: float, **more: object) -> AlertLine:
        values = {"id": identity, "severity": "critical", "state": "firing", **more}
        row = blank(AlertRow, **values)
        return AlertLine(row, "a:1", "gpu-01", opened_s, 0.0, 0.0)

    alerts = (
        alert("new", T0 - 5),
        alert("old", T0 - 4000),
        alert("held", T0 - 5, acknowledged_by="kim"),
        alert("over", T0 - 5, state="resolved"),
        alert("small", T0 - 5, severity="warning"),
    )
    result = FleetState("CRITICAL", "critical", "", ())
    board = Board(View(), T0, T0 - 600, T0, result, alerts=alerts)
    assert [line.row.id for line in beginning(board, set())] == ["new"]
    assert beginning(board, {("a:1", "new")}) == []


def test_rows_that_look_the_same_are_not_painted_again(qtbot: QtBot) -> None:
    column = TableColumn("x", lambda row: Cell(row[1]))
    model = RowsModel((column,), lambda row: row[0], lambda row: row[1])
    model.show([("a", "1", 0), ("b", "2", 0), ("c", "3", 0)])
    changed: list[tuple[int, int]] = []
    model.dataChanged.connect(lambda first, last: changed.append((first.row(), last.row())))
    model.show([("a", "1", 7), ("b", "2", 7), ("c", "3", 7)])
    assert changed == [] and model.rows[0][2] == 7
    model.show([("a", "1", 8), ("b", "9", 8), ("c", "3", 8)])
    assert changed == [(1, 1)]
