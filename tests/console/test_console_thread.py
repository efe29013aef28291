"""The window's thread touches no file and no socket, and never waits for one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from console.app.window import Window
from tests.console.test_console_window import actions_of, live, make, stand_in
from tests.support.observe_stand_in import Fleet
from tests.support.patience import patience_ms

__all__ = ["make"]  # its fixture
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
    and sends nothing, the other has stopped talking: whatever the operator does, no turn of the
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
