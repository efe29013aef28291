"""Search, notes and navigation in the whole window, with real servers and a real cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QDialog
from pytestqt.qtbot import QtBot

from console.app.arguments import follow_link, parser, view_of
from console.app.window import Window
from console.panels.palette import FindBox
from console.panels.time_dialogs import NoteDialog, TimeRangeDialog
from console.state.dashboard import View
from console.state.recent_servers import RecentServers
from tests.console.test_console_window import T0, actions_of, kept, live, make, stand_in
from tests.support.observe_stand_in import Fleet
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")
Make = Callable[..., Window]


def shown(window: Window, kind: type[QDialog]) -> QDialog:
    return next(dialog for dialog in window.findChildren(kind) if dialog.isVisible())


def notes(window: Window) -> list[tuple[str, bool]]:
    found = window.board.notes if window.board is not None else ()
    return [(note.text, note.pending) for note in found]


def test_a_note_is_seen_by_every_console_and_taken_back_by_any(
    qtbot: QtBot, make: Make, tmp_path: Path
) -> None:
    servicers = [stand_in(0), stand_in(3)]
    with Fleet(servicers) as fleet:
        mine, other = (make(fleet.addresses, tmp_path / f"{n}.db") for n in "ab")
        for window in (mine, other):
            qtbot.waitUntil(lambda w=window: live(w), timeout=patience_ms(20))  # type: ignore[misc]
        low, high = mine.axis.span
        mine.axis.brush(high - 40, high - 20)
        mine.commands["time.annotate"].run()
        dialog = shown(mine, NoteDialog)
        assert isinstance(dialog, NoteDialog) and not dialog.confirm.isEnabled()
        qtbot.keyClicks(dialog.line, "lamp changed")
        dialog.confirm.click()
        for window in (mine, other):
            qtbot.waitUntil(
                lambda w=window: notes(w) == [("lamp changed", False)],  # type: ignore[misc]
                timeout=patience_ms(20),
            )
        qtbot.waitUntil(
            lambda: all(len(one.annotations) == 1 for one in servicers), timeout=patience_ms(10)
        )
        (first,), (second,) = (one.annotations.values() for one in servicers)
        assert first.id == second.id and first.to_unix_ms - first.at_unix_ms == 20_000
        board = other.board
        assert board is not None and board.notes[0].at_s == pytest.approx(high - 40, abs=0.5)
        entries = [e for e in board.timeline_events if e.kind == "note"]
        assert len(entries) == 1, "one note at two servers is shown once"
        other.focus_panel("events")
        other.events.table.select_row(
            next(n for n, e in enumerate(other.events.model.rows) if e.kind == "note")
        )
        other.commands["time.unannotate"].run()
        for window in (mine, other):
            qtbot.waitUntil(lambda w=window: notes(w) == [], timeout=patience_ms(20))  # type: ignore[misc]


def test_one_box_finds_and_goes_there(
    qtbot: QtBot, make: Make, tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    board = window.board
    assert board is not None
    for text, panel in (
        (board.servers[1].name, "fleet"),
        (board.drift[0].row.feature, "drift"),
        (board.alerts[0].row.summary, "alerts"),
        ("0194f3a2b1c8", "predictions"),
    ):
        window.commands["help.palette"].run()
        box = shown(window, FindBox)
        assert isinstance(box, FindBox)
        box.line.setText(text)
        qtbot.keyClick(box.line, Qt.Key.Key_Return)
        assert window.focused_panel().name == panel, text
    assert window.predictions.line.text() == "id=0194f3a2b1c8"
    window.predictions.select("sitee=b")
    qtbot.waitUntil(
        lambda: window.predictions.result_line.text.startswith("no slice sitee=b is known; "),
        timeout=patience_ms(10),
    )
    window.commands["help.palette"].run()
    box = shown(window, FindBox)
    assert isinstance(box, FindBox)
    box.line.setText("nothing of the kind")
    qtbot.keyClick(box.line, Qt.Key.Key_Return)
    assert box.isVisible() and "nothing is called" in box.list.item(0).text()
    box.reject()


def test_a_range_in_words_and_back_again(
    qtbot: QtBot, make: Make, tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    window.commands["time.range"].run()
    dialog = shown(window, TimeRangeDialog)
    assert isinstance(dialog, TimeRangeDialog)
    qtbot.keyClicks(dialog.line, "soon")
    assert not dialog.confirm.isEnabled() and "expected a time such as" in dialog.meaning.text()
    dialog.line.setText("last 15 min")
    assert "the last 15m, following the clock" in dialog.meaning.text()
    dialog.confirm.click()
    assert window.axis.view.live and window.axis.view.window_s == 900
    window.commands["time.previous"].run()
    assert (window.axis.view.window_s, window.axis.view.end_s) == (240, T0)
    window.commands["time.next"].run()
    assert window.axis.view.window_s == 900


def test_what_changed_and_compare_answer_for_the_brush_and_stand_in_the_sheet(
    qtbot: QtBot, make: Make, tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    window.axis.brush(T0 - 60, T0)
    window.focus_panel("fleet")
    qtbot.keyClick(window.fleet.focus_target(), Qt.Key.Key_W)
    assert window.focused_panel() is window.changes
    changes, compare = window.changes, window.compare

    def asked() -> bool:
        found = changes.found
        return found is not None and found.after == (T0 - 60, T0) and bool(compare.model.rows)

    qtbot.waitUntil(asked, timeout=patience_ms(20))
    found = changes.found
    assert found is not None and found.before == (T0 - 120, T0 - 60)
    assert found.sentences[0].startswith("late or failed of all requests: ")
    assert changes.as_table()[1] and compare.as_table()[1]
    qtbot.keyClick(changes.table, Qt.Key.Key_U)
    assert window.focused_panel() is compare
    sizes = [(not row.size, not row.sure, -row.size) for row in compare.model.rows]
    assert sizes == sorted(sizes), "what differs most stands first"
    with qtbot.waitSignal(window.bridge.written, timeout=patience_ms(20)) as written:
        actions_of(window).incident_sheet()
    assert written.args is not None and not written.args[1]
    text = Path(written.args[0]).read_text()
    section = text.partition("<h2>What changed</h2>")[2].partition("<h2>")[0]
    assert found.sentences[0].split(":")[0] in section and "explains" in section
    assert "trefoil://" in text, "the link stands among the commands"


def test_the_link_that_is_copied_opens_the_same_view(
    make: Make, tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    window.focus_panel("drift")
    window.commands["copy.link"].run()
    found = parser().parse_args([QApplication.clipboard().text()])
    assert follow_link(found, RecentServers)
    view = view_of(found)
    assert (found.panel, view.window_s, view.end_s) == ("drift", 240, T0)
    assert window.board is not None
    assert found.servers == [line.address for line in window.board.servers]
