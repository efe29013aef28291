"""A real console window that watches real servers without a person: for drills."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from PySide6.QtCore import QEventLoop
from PySide6.QtWidgets import QApplication

from console.app.actions import Actions
from console.app.bridge import Bridge
from console.app.main import open_window
from console.app.timeaxis import TimeAxis
from console.app.window import Window
from console.plots.style import Style
from console.state.dashboard import Board, View
from tests.support.patience import patience
from tests.support.running import Program
from tests.support.tinybundle import reseal
from trefoil import Client, TrefoilError, text

TURN_MS = 20
REPLICA = re.compile(r"server\.replica\.main|tests\.support\.stub_replica")
WAITS_S = 60.0  # for what is not part of a drill: a first board, a file


class ConsoleWatch:
    def __init__(self, window: Window, folder: Path) -> None:
        self.window = window
        self.folder = folder

    @property
    def board(self) -> Board | None:
        return self.window.board

    @property
    def headline(self) -> str:
        """`CRITICAL: gpu-01: nothing listens since …`."""
        board = self.board
        return f"{board.fleet_state.state}: {board.fleet_state.sentence}" if board else ""

    def until(self, seen: Callable[[Board], object], within_s: float) -> float:
        """Seconds until a board was shown for which `seen` is true; NaN when none came in time."""
        began = time.monotonic()
        while time.monotonic() - began <= within_s:
            self.turn()
            if self.board is not None and seen(self.board):
                return time.monotonic() - began
        return math.nan

    def shows(self, *parts: str, within_s: float) -> float:
        """Seconds until the headline has all of these."""
        return self.until(lambda _: all(part in self.headline for part in parts), within_s)

    def turn(self) -> None:
        application = QApplication.instance()
        assert application is not None
        application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, TURN_MS)
        time.sleep(TURN_MS / 1000)

    def sheet(self) -> str:
        """The incident sheet of now, as its key writes it."""
        written: list[str] = []
        self.window.bridge.written.connect(lambda path, trouble: written.append(path))
        actions = self.window.findChild(Actions)
        assert isinstance(actions, Actions)
        actions.folder = self.folder
        actions.incident_sheet()
        end = time.monotonic() + patience(WAITS_S)
        while not written and time.monotonic() < end:
            self.turn()
        return Path(written[0]).read_text() if written else ""


@contextmanager
def console_watch(
    addresses: Sequence[str], folder: Path, view: View | None = None
) -> Iterator[ConsoleWatch]:
    """A window on these servers, whose first board is there; there must be a QApplication."""
    folder.mkdir(parents=True, exist_ok=True)
    bridge = Bridge(folder / "cache.db", list(addresses))
    axis = TimeAxis(view or View(window_s=600))
    window = open_window(bridge, axis, Style())
    window.use_theme("dark")
    window.resize(1600, 960)
    bridge.show_view(axis.view)
    bridge.start()
    window.show()
    try:
        found = ConsoleWatch(window, folder)
        live = found.until(
            lambda board: all(line.link.state == "live" for line in board.servers),
            patience(WAITS_S),
        )
        assert live == live, "a server did not answer the console"
        yield found
    finally:
        window.close()
        window.deleteLater()


@contextmanager
def traffic(address: str, pause_s: float = 0.05, callers: int = 2) -> Iterator[list[int]]:
    """Short texts, `pause_s` after each answer; what a server in trouble answers does not count.
    The list has one entry: how many were answered."""
    answered, over = [0], threading.Event()

    def call() -> None:
        with Client(address) as client:
            while not over.wait(pause_s):
                try:
                    client.predict(text("line 4 grinds"), timeout_s=30)
                    answered[0] += 1
                except TrefoilError:
                    continue

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()
        for thread in threads:
            thread.join(WAITS_S)


def replicas(server: Program) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if REPLICA.search(" ".join(child.cmdline()))]


def other_preprocessing(bundle: Path, folder: Path) -> Path:
    """The same bundle but for the smallest picture that it takes as it is: no golden input is so
    small, so it proves itself as before."""
    copy = Path(shutil.copytree(bundle, folder / "other"))
    file = copy / "preprocess.json"
    settings = json.loads(file.read_bytes())
    settings["image"]["min_pixels"] //= 2
    for changed in (file, copy / "manifest.json"):
        changed.chmod(0o644)
    file.write_text(json.dumps(settings))
    return reseal(copy)


@contextmanager
def throttled(process: psutil.Process, share: float = 0.06, turn_s: float = 0.25) -> Iterator[None]:
    """It gets this share of the time, as one whose processor is hot or taken by another does."""
    over = threading.Event()

    def hold() -> None:
        while not over.wait(turn_s * share):
            process.suspend()
            over.wait(turn_s * (1 - share))
            process.resume()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()
