"""The whole window, offscreen, on real servers and real cache files."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication, QDialog
from pytestqt.qtbot import QtBot

from console.app.actions import Actions, csv_of
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
from console.state.domain import FeedRow, ReceivedRow, ServerSnapshot
from proto import observe_pb2
from server.ops.simulated_clock import SimulatedWall
from server.telemetry.rows import DeployRow
from tests.support import fleet_story as story
from tests.support.blank_rows import blank
from tests.support.observe_stand_in import Fleet, StandIn
from tests.support.patience import patience, patience_ms

GOLDEN = Path(__file__).parent / "golden" / "console-overview.png"
T0 = 1_790_003_000.0

# What the offscreen platform says of every dialog.
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")

UI = threading.get_ident()
watched: list[str] = []
watching = [False]


def _watch(name: str, arguments: tuple[object, ...]) -> None:
    if not watching[0] or threading.get_ident() != UI:
        return
    if name in ("sqlite3.connect", "socket.connect", "socket.__new__", "socket.bind"):
        watched.append(name)
    elif name == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so", ".ttf")):
        watched.append(f"open {arguments[0]}")


sys.addaudithook(_watch)  # cannot be taken back: it is off unless a test turns it on


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


def test_ui_thread_touches_no_file_and_no_socket(qtbot: QtBot, make: Callable[..., Window]) -> None:
    with Fleet([stand_in(0), stand_in(3)]) as fleet:
        watched.clear()
        watching[0] = True
        try:
            window = make(fleet.addresses)
            qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
            for key in "2345678":
                qtbot.keyClick(window, Qt.Key(ord(key)))
                qtbot.wait(60)
            actions_of(window).export_csv()
            window.bridge.save("layout", window.layout_text())
            qtbot.wait(300)
        finally:
            watching[0] = False
    assert watched == []


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
        window.alerts.select(f"{fleet.addresses[0]}\tgpu-01.fra-latency")
        for action, key in (("acknowledge", Qt.Key.Key_A), ("silence", Qt.Key.Key_S)):
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


# The locks that SQLite's readers and writers of a WAL take, held until standard input ends. By
# another process: within one, locks of files do not conflict.
HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 8, 120)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_stalled_disk_and_network_leave_the_window_running(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path
) -> None:
    """Another process holds the cache, so that every read and write of it hangs, one server accepts
    and says nothing, the other has stopped talking: whatever the operator does, no turn of the
    event loop waits."""
    hangs_s = 3.0
    deaf = socket.create_server(("127.0.0.1", 0))
    with Fleet([stand_in(0)]) as fleet, deaf:
        window = make([*fleet.addresses, f"127.0.0.1:{deaf.getsockname()[1]}"])
        qtbot.waitUntil(
            lambda: window.board is not None and window.board.servers[0].link.state == "live",
            timeout=patience_ms(20),
        )
        fleet.servicers[0].hertz = 0.001
        command = [sys.executable, "-c", HOLD, str(tmp_path / "cache.db-shm")]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        qtbot.wait(patience_ms(0.3))  # a board that was read before
        boards = window.bridge.boards
        turns: list[float] = []
        timer = QTimer()
        timer.timeout.connect(lambda: turns.append(time.monotonic()))
        timer.start(10)
        for key in "23456/8":
            qtbot.keyClick(QApplication.focusWidget() or window, Qt.Key(ord(key)))
            qtbot.wait(150)
        window.bridge.save("layout", window.layout_text())
        actions_of(window).export_csv()
        window.axis.zoom(4)
        qtbot.wait(2000)
        timer.stop()
        assert window.bridge.boards == boards  # everything hung
        holder.communicate()
        qtbot.waitUntil(lambda: window.bridge.boards > boards, timeout=patience_ms(15))
    # Each of the things that hang takes three seconds or more; a turn that waits for one shows it.
    assert len(turns) > 20
    assert max(np.diff(turns)) < hangs_s / 2


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


def test_overview_looks_as_it_did(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    """Coarse on purpose: fonts differ by a pixel, a panel that is gone does not."""
    path = kept(tmp_path)
    window = make(None, path, View(window_s=240, end_s=T0), clock=lambda: T0 + 30)
    qtbot.waitUntil(lambda: window.board.latency is not None, timeout=patience_ms(5))  # type: ignore[union-attr]
    if not GOLDEN.exists():
        qtbot.wait(patience_ms(0.6))
        GOLDEN.parent.mkdir(exist_ok=True)
        coarse(window).save(str(GOLDEN))
        pytest.fail(f"{GOLDEN} was missing; look at it, then run again")
    golden = QImage(str(GOLDEN))

    def looks(right: bool) -> None:
        qtbot.waitUntil(lambda: looks_like(coarse(window), golden) is right, timeout=patience_ms(5))

    looks(True)
    # And it can tell: without any one of its panels it looks otherwise.
    for name in ("fleet", "server", "latency", "drift", "reference", "skew", "events"):
        window.panels[name].hide()
        looks(False)
        window.panels[name].show()
        looks(True)
    window.use_theme("light")
    looks(False)


def coarse(window: Window) -> QImage:
    whole = window.grab().toImage()
    ratio, smooth = Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
    return whole.scaled(175, 108, ratio, smooth)


def looks_like(image: QImage, golden: QImage) -> bool:
    """Small differences all over are fonts; a block that differs much is something else."""
    difference = np.abs(pixels(image) - pixels(golden))[:105, :175]
    blocks = difference.reshape(7, 15, 7, 25).mean(axis=(1, 3))
    return bool(difference.mean() < 4.0 and blocks.max() < 9.0)


def pixels(image: QImage) -> np.ndarray:
    grey = image.convertToFormat(QImage.Format.Format_Grayscale8)
    lines = np.frombuffer(grey.constBits(), np.uint8)
    lines = lines.reshape(grey.height(), grey.bytesPerLine())
    return lines[:, : grey.width()].astype(float)


def test_every_panel_exports_its_figures(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    path = kept(tmp_path)
    window = make(None, path, clock=lambda: T0 + 5)
    for name in ("fleet", "latency", "drift", "reference", "skew", "events", "quality", "alerts"):
        panel = window.panels[name]
        panel.show_board(window.board)  # type: ignore[arg-type]
        lines = csv_of(panel).splitlines()
        assert len(lines) > 1, name
        assert len({line.count(",") for line in lines if '"' not in line}) <= 1, name
        assert panel.accessibleName(), name
    window.focus_panel("drift")
    actions_of(window).export_csv()
    actions_of(window).export_png()
    qtbot.waitUntil(
        lambda: len(list((tmp_path / "out").glob("drift-*"))) == 2, timeout=patience_ms(5)
    )


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


def test_every_mark_is_drawn_and_described(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path
) -> None:
    """Also the mark of an action that nobody has thought of yet."""
    path = tmp_path / "cache.db"
    db = open_for_writing(path)
    actions = ("activate", "rollback", "refuse", "canary", "rehearse", "load", "<i>novel</i>")
    found: list[FeedRow] = [ServerSnapshot(server="gpu-01", state="ready", stamp="a" * 64)]
    found += [
        blank(DeployRow, int((T0 - 90 + 12 * n) * 1000), action, "a" * 64, detail=f"<b>why {n}</b>")
        for n, action in enumerate(actions)
    ]
    insert(db, TextIds(db), [ReceivedRow("a:1", n + 1, "x", T0 * 1000, row)
                           for n, row in enumerate(found)])  # fmt: skip
    db.execute("UPDATE server SET offset_ms = 0")
    db.close()
    window = make(None, path, View(window_s=120, end_s=T0), clock=lambda: T0)
    marks = window.latency.event_marks
    drawn = marks.grab().toImage()
    lane = int(marks.area.top() + marks.area.height() * 0.74)
    for n, action in enumerate(actions):
        x = int(marks.x_of(T0 - 90 + 12 * n))
        around = {drawn.pixel(x + dx, lane + dy) for dx in range(-5, 6) for dy in range(-5, 6)}
        assert len(around) > 1, action
        reported = marks.tip_at(x, lane)
        assert action in reported and f"<b>why {n}</b>" in reported
    texts = [row.text for row in window.events.model.rows]
    assert any("<i>novel</i>" in text and "<b>why 6</b>" in text for text in texts)
    lines = "; ".join(label for label, _ in window.skew.detail.lines)
    assert "<b>why 6</b>" in lines


def test_command_line_writes_a_picture_of_the_cache(
    tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    path, picture = kept(tmp_path), tmp_path / "p.png"
    command = [sys.executable, "-m", "console.app.main", "--offline", "--cache", str(path), "--at",
               "2026-09-21T14:23:20Z", "--screenshot", str(picture), "--size", "1280x800",
               "--panel", "drift"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=patience(60), text=True)
    assert done.returncode == 0, done.stderr
    assert QImage(str(picture)).width() == 1280


def test_picture_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    picture = tmp_path / "nowhere" / "p.png"
    command = [sys.executable, "-m", "console.app.main", "--offline", "--cache",
               str(tmp_path / "cache.db"), "--screenshot", str(picture)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=patience(60), text=True)
    assert done.returncode == 1, done.stderr
    assert f"cannot write {picture}" in done.stderr


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
