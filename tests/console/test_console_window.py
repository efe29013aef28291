"""The whole window, offscreen, on real servers and real cache files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QDialog
from pytestqt.qtbot import QtBot

from console.app.actions import Actions
from console.app.arguments import PANELS
from console.app.bridge import Bridge
from console.app.main import open_window
from console.app.timeaxis import TimeAxis
from console.app.window import Window
from console.cache.insert import TextIds, insert
from console.cache.schema import open_for_writing
from console.feed.decode import RowRefused, event
from console.models.table import escaped_tip
from console.panels.palette import FindBox
from console.plots.style import Style
from console.state.dashboard import View
from proto import observe_pb2
from server.ops.simulated_clock import SimulatedWall
from tests.support import fleet_story as story
from tests.support.observe_stand_in import Fleet, StandIn
from tests.support.patience import patience, patience_ms

T0 = 1_790_003_000.0

# What the offscreen platform reports for every dialog.
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


def stand_in(number: int, past_s: int = 60, **more: object) -> StandIn:
    who = replace(story.FLEET[number], **more)  # type: ignore[arg-type]
    return StandIn(who, past_s=past_s, hertz=10)


def cache_of(path: Path, servicers: list[StandIn], now: float) -> None:
    """A cache as it is after listening to these servers."""
    db = open_for_writing(path)
    names = TextIds(db)
    for number, servicer in enumerate(servicers):
        address = f"10.0.0.{number + 1}:8500"
        messages = [
            observe_pb2.WatchEvent(
                snapshot=story.snapshot(servicer.who, now, 100_000), cursor=1, instance="x"
            ),
            *servicer.past,
        ]
        found = []
        for message in messages:
            try:
                found.append(event(message, address, now * 1000))
            except RowRefused:
                continue
        insert(db, names, [row for row in found if row is not None])
        db.execute("UPDATE server SET offset_ms = ?", (0.0,))
    db.close()


@pytest.fixture
def make(qtbot: QtBot, tmp_path: Path) -> Iterator[Callable[..., Window]]:
    windows: list[Window] = []

    def build(
        addresses: list[str] | None,
        path: Path | None = None,
        view: View | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Window:
        more: dict[str, Any] = {"clock": clock} if clock is not None else {}
        bridge = Bridge(path or tmp_path / "cache.db", addresses, **more)
        axis = TimeAxis(view or View(window_s=120), **more)
        window = open_window(bridge, axis, Style(), **more)
        actions_of(window).folder = tmp_path / "out"
        qtbot.addWidget(window)
        windows.append(window)
        window.use_theme("dark")
        window.resize(1400, 860)
        bridge.show_view(axis.view)
        bridge.start()
        window.show()
        qtbot.waitUntil(lambda: window.board is not None, timeout=patience_ms(15))
        return window

    yield build
    for window in windows:
        window.close()
    left = [t.name for t in threading.enumerate() if t.name.startswith(("cache", "console"))]
    assert not left, left


def actions_of(window: Window) -> Actions:
    found = window.findChild(Actions)
    assert isinstance(found, Actions)
    return found


def live(window: Window) -> bool:
    board = window.board
    return board is not None and bool(board.drift) and all(
        line.link.state == "live" for line in board.servers
    )  # fmt: skip


def panels_reported(window: Window) -> set[str]:
    return (
        {message.panel for message in window.board.fleet_state.messages} if window.board else set()
    )


def test_every_server_and_trouble_is_shown(qtbot: QtBot, make: Callable[..., Window]) -> None:
    with Fleet([stand_in(0), stand_in(2), stand_in(3)]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        qtbot.waitUntil(
            lambda: {"skew", "fleet"} <= panels_reported(window), timeout=patience_ms(20)
        )

        def drift_under_its_deploy() -> bool:
            """The drift began after a deploy of the same server, and so it stands under that."""
            assert window.board is not None
            details = [message.detail for message in window.board.fleet_state.messages]
            return any("audio.snr_db" in one and "after it activated" in one for one in details)

        qtbot.waitUntil(drift_under_its_deploy, timeout=patience_ms(20))
        assert window.board is not None
        names = [line.name for line in window.board.servers]
        assert names == ["gpu-01.lon", "gpu-03.lon", "gpu-01.fra"]
        fleet.kill(0)
        qtbot.waitUntil(
            lambda: window.board is not None and window.board.servers[0].severity == "unknown",
            timeout=patience_ms(20),
        )
        texts = [message.text for message in window.board.fleet_state.messages]
        assert "0 of 3 healthy" in texts


def test_hostile_texts_are_shown_as_they_are(qtbot: QtBot, make: Callable[..., Window]) -> None:
    with Fleet([stand_in(0, hostile=True), stand_in(1)]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        qtbot.waitUntil(lambda: bool(window.board.alerts), timeout=patience_ms(10))  # type: ignore[union-attr]
        board = window.board
        assert board is not None
        assert board.servers[0].name.startswith("<img src=x onerror=alert(1)><b>bold</b>")
        text = [line.row.summary for line in board.alerts]
        assert any(word.startswith("<h1>owned</h1>") and len(word) < 2100 for word in text)
        for page in range(4):
            window.plan.show_page(page)
            qtbot.wait(50)
        assert "server sends invalid rows" in " ".join(p.text for p in board.fleet_state.messages)
    assert escaped_tip("<b>x</b>") == "<qt>&lt;b&gt;x&lt;/b&gt;</qt>"


def test_keys_walk_the_whole_console(qtbot: QtBot, make: Callable[..., Window]) -> None:
    path_events: list[View] = []
    with Fleet([stand_in(0), stand_in(3)]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        window.axis.viewChanged.connect(path_events.append)

        def press(key: Qt.Key, modifier: Qt.KeyboardModifier | None = None) -> None:
            none = Qt.KeyboardModifier.NoModifier
            qtbot.keyClick(QApplication.focusWidget() or window, key, modifier or none)

        press(Qt.Key.Key_3)
        assert QApplication.focusWidget() is window.drift.table
        press(Qt.Key.Key_J)
        press(Qt.Key.Key_J)
        assert window.axis.view.drift_key is not None
        press(Qt.Key.Key_T)
        assert window.axis.view.measure == "ks"
        press(Qt.Key.Key_B)
        assert window.axis.view.brush is not None
        qtbot.waitUntil(
            lambda: window.board is not None and window.board.drift_span is not None,
            timeout=patience_ms(10),
        )
        press(Qt.Key.Key_Z)
        assert not window.axis.view.live
        press(Qt.Key.Key_Escape)
        assert window.axis.view.live and window.axis.view.brush is None
        press(Qt.Key.Key_F)
        assert window.drift.isVisible() and not window.latency.isVisible()
        press(Qt.Key.Key_F)
        assert window.latency.isVisible()
        press(Qt.Key.Key_Slash)
        assert window.plan.pages.currentIndex() == 1
        qtbot.keyClicks(QApplication.focusWidget(), "conf<0.7")
        assert window.predictions.line.text() == "conf<0.7"  # letters are letters in a field
        press(Qt.Key.Key_Return)
        qtbot.waitUntil(
            lambda: " found" in window.predictions.result_line.text, timeout=patience_ms(10)
        )
        window.focus_panel("predictions")
        qtbot.waitUntil(lambda: window.detail.single is not None, timeout=patience_ms(10))
        press(Qt.Key.Key_F1)
        assert window.sheet.isVisible()
        press(Qt.Key.Key_Escape)
        assert not window.sheet.isVisible()
        press(Qt.Key.Key_C)
        copied = QApplication.clipboard().text()
        assert copied.startswith(("server replay --server", "server export --since"))


def test_palette_finds_and_runs(qtbot: QtBot, make: Callable[..., Window]) -> None:
    window = make(None)
    window.commands["help.palette"].run()
    palette = next(box for box in window.findChildren(FindBox) if box.isVisible())
    qtbot.keyClicks(palette.line, "go to quality")
    qtbot.keyClick(palette.line, Qt.Key.Key_Return)
    assert window.plan.pages.currentIndex() == 2


def test_acknowledgement_reaches_the_server_and_silence_ends(
    qtbot: QtBot, make: Callable[..., Window]
) -> None:
    servicer = stand_in(3)
    with Fleet([servicer]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        window.focus_panel("alerts")

        def chosen() -> bool:
            """Live is not enough: the rows of alerts come after the snapshot."""
            window.alerts.select(f"{fleet.addresses[0]}\tgpu-01.fra-latency")
            return window.alerts.table.row() is not None

        for action, key in (("acknowledge", Qt.Key.Key_A), ("silence", Qt.Key.Key_S)):
            qtbot.waitUntil(chosen, timeout=patience_ms(10))
            qtbot.keyClick(window.alerts.table, key)
            dialog = next(d for d in window.findChildren(QDialog) if d.isVisible())
            dialog.note.setText(f"looking: {action}")  # type: ignore[attr-defined]
            dialog.accept()
        alerts, name = servicer.alerts, "gpu-01.fra-latency"
        qtbot.waitUntil(
            lambda: bool(servicer.silences), timeout=patience_ms(15)
        )  # either may come first
        qtbot.waitUntil(
            lambda: alerts[name].acknowledged_note == "looking: acknowledge",
            timeout=patience_ms(15),
        )
        silence = next(iter(servicer.silences.values()))
        assert silence.matcher == "gpu-01.fra-latency"
        assert silence.until_unix_ms > servicer.now() * 1000

        def both_done() -> bool:
            found = window.board.actions if window.board is not None else ()
            return [action.state for action in found] == ["done", "done"]

        qtbot.waitUntil(both_done, timeout=patience_ms(10))


def test_console_starts_from_its_cache_and_shows_its_age(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    path = kept(tmp_path)
    window = make(None, path, clock=lambda: T0 + 7200)
    board = window.board
    assert board is not None and board.fleet_state.state == "OFFLINE"
    assert board.latency is not None and board.latency.requests > 0
    assert "2 h 00 old" in board.fleet_state.sentence
    assert all(line.severity == "unknown" for line in board.servers)
    actions_of(window).copy_incident()
    assert "# OFFLINE" in QApplication.clipboard().text()
    actions_of(window).copy_view()
    assert QApplication.clipboard().text().startswith("console --at 20")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Copies of one cache that listened to three servers until T0."""
    first = tmp_path_factory.mktemp("kept") / "cache.db"
    servicers = [StandIn(story.FLEET[n], clock=lambda: T0, past_s=240) for n in (0, 2, 3)]
    cache_of(first, servicers, T0)

    def copy(folder: Path) -> Path:
        return Path(shutil.copy(first, folder / "kept.db"))

    return copy


def test_layout_page_and_theme_are_remembered(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    path = kept(tmp_path)
    first = make(None, path)
    first.plan.show_page(2)
    first.next_theme()
    first.plan.whole.setSizes([400, 900])
    share = first_share(first)
    first.close()
    again = make(None, path)
    qtbot.waitUntil(lambda: again.plan.pages.currentIndex() == 2, timeout=patience_ms(5))
    assert again.ui_style.theme.name == "light"
    assert abs(first_share(again) - share) < 0.05
    again.plan.reset()
    assert first_share(again) < share - 0.05
    for wrong in ("", "{", "[]", '{"sizes": 3, "page": "x", "window": 7}'):
        again.plan.restore(wrong, again, frozenset())


def first_share(window: Window) -> float:
    sizes = window.plan.whole.sizes()
    return sizes[0] / sum(sizes)


def test_every_panel_can_be_named_on_the_command_line(make: Callable[..., Window]) -> None:
    assert set(PANELS) == set(make(None).panels)


def test_the_axis_is_that_of_a_server_whose_time_is_simulated(
    qtbot: QtBot, make: Callable[..., Window]
) -> None:
    """A demo of two weeks was empty on every page: its rows lay 26 days before our clock."""
    start_s, speed = T0, 50.0
    wall = SimulatedWall(start_s, speed)
    servicer = StandIn(story.FLEET[0], clock=wall, past_s=600, hertz=10, speed=speed)
    with Fleet([servicer]) as fleet:
        window = make(fleet.addresses, None, View(window_s=120))
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))

        def played() -> bool:
            board = window.board
            return (
                board is not None
                and board.latency is not None
                and board.latency.requests > 0
                and start_s < board.to_s < wall() + 1
            )

        qtbot.waitUntil(played, timeout=patience_ms(20))
        board = window.board
        assert board is not None and board.servers[0].age_s < patience(10)
        texts = [message.text for message in board.fleet_state.messages]
        assert not [text for text in texts if "clock" in text], texts
        assert board.timeline_events and board.drift
        assert "simulated time, 50 times as fast" in window.footer.text
        assert window.axis.view.window_s == 120 * speed
        assert window.axis.view.live
