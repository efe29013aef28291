"""One real window on a real X server, driven by real key presses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtGui import QImage

from console.cache.insert import TextIds, insert
from console.cache.schema import open_for_writing
from console.state.domain import ReceivedRow, ServerSnapshot
from server.telemetry.rows import AlertRow
from tests.installers.check_window import Screen
from tests.installers.room import display
from tests.support.blank_rows import blank
from tests.support.patience import patience

pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")),
    reason="Xvfb and xdotool are absent (installers/console/apt-packages.txt)",
)

# Share of the pixels. Clocks and ages tick between two looks, for a look takes a second under load.
TICKING, CHANGED = 0.005, 0.02


def differing(one: QImage, other: QImage) -> float:
    if one.size() != other.size():
        return 1.0
    images = [image.convertToFormat(QImage.Format.Format_RGB32) for image in (one, other)]
    first, second = (np.frombuffer(image.constBits(), np.uint32) for image in images)
    return float(np.mean(first != second))


def test_real_window_takes_real_keys_and_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    db = open_for_writing(path)
    now = time.time() * 1000
    rows: list[ServerSnapshot | AlertRow] = [
        ServerSnapshot(server="gpu-01", state="ready"),
        blank(AlertRow, id="a", severity="critical", state="firing", summary="p99", kind="latency",
                 opened_unix_ms=int(now)),
    ]  # fmt: skip
    insert(db, TextIds(db), [ReceivedRow("a:1", 1, "x", now, row) for row in rows])
    db.close()
    command = [sys.executable, "-m", "console.app.main", "--offline", "--cache", str(path),
               "--size", "1280x800"]  # fmt: skip
    with display("1300x820") as where:
        screen = Screen(where)
        environment = {**os.environ, **where, "QT_QPA_PLATFORM": "xcb"}
        console = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

        def picture(name: str) -> QImage:
            file = tmp_path / f"{name}.png"
            screen.picture(file)
            return QImage(str(file))

        def settled(name: str, before: QImage) -> QImage:
            """What is shown once it has changed and two looks in a row are alike."""
            end, last = time.monotonic() + patience(20), before
            while time.monotonic() < end:
                now = picture(name)
                colours = {now.pixel(x, 30) for x in range(0, 600, 3)}
                painted = len(colours) > 3  # of the strip
                if painted and differing(now, last) < TICKING and differing(now, before) > CHANGED:
                    return now
                last = now
                time.sleep(0.1)
            raise AssertionError(f"{name}: nothing new was shown")

        try:
            window = screen.window("Trefoil console")
            screen.tool("windowfocus", "--sync", window)
            first = settled("first", QImage())
            screen.tool("key", "--window", window, "8")
            alerts = settled("alerts", first)
            screen.tool("key", "shift+slash")
            settled("keys", alerts)
            screen.tool("key", "Escape")
            screen.tool("key", "ctrl+q")
            assert console.wait(patience(20)) == 0
        finally:
            if console.poll() is None:
                console.kill()
            errors = console.communicate()[1]
    assert "Traceback" not in errors and "QThread" not in errors, errors
