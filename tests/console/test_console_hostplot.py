"""The plot of what the hosts use, as the window paints it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from console.app.window import Window
from console.cache.insert import TextIds, insert
from console.cache.schema import open_for_writing
from console.plots.hostplot import ALONE, LINES
from console.state import glossary
from console.state.dashboard import View
from console.state.domain import GpuSnapshot, HostSnapshot, ReceivedRow, ServerSnapshot
from tests.console.test_console_window import T0, make
from tests.support.painted_text import PaintedText, texts_of
from tests.support.patience import patience_ms

__all__ = ["make"]  # its fixture
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


def test_names_of_host_lines_stay_apart_in_large_text_and_the_legend_is_explained(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path
) -> None:
    path = tmp_path / "cache.db"
    gpu = GpuSnapshot(0, "H200", 80 << 30, 139 << 30, 0.61, 410.0, 54.0)
    host = HostSnapshot(int((T0 - 30) * 1000), 0.42, 8, 12 << 30, 24 << 30, 3, 4, (gpu,))
    with closing(open_for_writing(path)) as db:
        snapshot = ServerSnapshot(server="gpu-01", host=host)
        insert(db, TextIds(db), [ReceivedRow("a:1", 1, "x", T0 * 1000, snapshot)])
        db.execute("UPDATE server SET offset_ms = 0")
    window = make(None, path, View(window_s=120, end_s=T0), clock=lambda: T0)
    window.resize(1600, 1200)
    window.use_zoom(2.0)
    window.focus_panel("latency")
    window.latency.show_hosts()
    window.plan.maximise(window.latency)
    named = tuple(f"{text} " for _, text, _ in LINES)

    def names() -> list[PaintedText]:
        found = [t for t in texts_of(window) if t.text.startswith(named)]
        return sorted(found, key=lambda painted: painted.place.top())

    qtbot.waitUntil(lambda: len(names()) == len(LINES), timeout=patience_ms(5))
    for above, below in pairwise(names()):
        assert below.place.top() - above.place.top() >= above.place.height() - 1, below.text
    plot = window.latency.host
    ((place, text),) = plot.captions
    assert text == ALONE
    assert plot.tip_at(place.center().x(), place.center().y()) == glossary.fact(ALONE) != ""
