"""One real window on a real X server, driven by real key presses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from console.cache.insert import Names, insert
from console.cache.schema import open_for_writing
from console.domain import AlertRow, Event, ServerSnapshot

pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")),
    reason="Xvfb and xdotool are absent (installers/console/apt-packages.txt)",
)
GRAB = (
    "import sys; from PySide6.QtGui import QGuiApplication as A; a = A([]);"
    "sys.exit(not A.primaryScreen().grabWindow(0).save(sys.argv[1]))"
)


@pytest.fixture
def display() -> Iterator[dict[str, str]]:
    """The environment of a display of our own, gone afterwards."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1300x820x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield {**os.environ, "DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    server.terminate()
    server.wait(10)


def eventually(true: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


def test_real_window_takes_real_keys_and_ends_well(display: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    db = open_for_writing(path)
    now = time.time() * 1000
    rows = [
        ServerSnapshot(server="gpu-01", state="ready"),
        AlertRow(id="a", severity="critical", state="firing", summary="p99", kind="latency",
                 opened_unix_ms=int(now)),
    ]  # fmt: skip
    insert(db, Names(db), [Event("a:1", 1, "x", now, row) for row in rows])
    db.close()
    command = [sys.executable, "-m", "console.main", "--offline", "--cache", str(path),
               "--size", "1280x800"]  # fmt: skip
    console = subprocess.Popen(command, env=display, stderr=subprocess.PIPE, text=True)

    def tool(*words: str) -> str:
        done = subprocess.run(["xdotool", *words], env=display, capture_output=True, text=True)
        return done.stdout.strip()

    def picture(name: str) -> QImage:
        file = tmp_path / f"{name}.png"
        done = subprocess.run([sys.executable, "-c", GRAB, str(file)], env=display, timeout=60)
        assert done.returncode == 0
        return QImage(str(file))

    try:
        eventually(lambda: bool(tool("search", "--onlyvisible", "--name", "Trefoil console")))
        window = tool("search", "--onlyvisible", "--name", "Trefoil console").splitlines()[0]
        tool("windowfocus", "--sync", window)
        time.sleep(1.5)
        first = picture("first")
        assert len({first.pixel(x, 30) for x in range(0, 600, 3)}) > 3  # the strip is painted
        tool("key", "--window", window, "8")
        time.sleep(0.8)
        alerts = picture("alerts")
        assert alerts != first
        tool("key", "shift+slash")
        time.sleep(0.8)
        assert picture("keys") != alerts
        tool("key", "Escape")
        tool("key", "ctrl+q")
        assert console.wait(20) == 0
    finally:
        if console.poll() is None:
            console.kill()
        errors = console.communicate()[1]
    assert "Traceback" not in errors and "QThread" not in errors, errors
