"""How the window looks, and what it exports: pictures, figures, marks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage
from pytestqt.qtbot import QtBot

from console.app.actions import csv_of
from console.app.window import Window
from console.cache.insert import TextIds, insert
from console.cache.schema import open_for_writing
from console.state.dashboard import View
from console.state.domain import FeedRow, ReceivedRow, ServerSnapshot
from server.telemetry.rows import DeployRow
from tests.console.test_console_window import T0, actions_of, kept, make
from tests.support.blank_rows import blank
from tests.support.patience import patience, patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")

GOLDEN = Path(__file__).parent / "golden" / "console-overview.png"


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
    # And the comparison works: without any one of its panels it looks otherwise.
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
