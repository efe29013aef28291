"""Measures the console against its limits: `python -m benchmarks.console [--gigabytes 1]`.

Needs a display (Xvfb suffices) for meaningful figures. Every part runs in a separate process, so
that memory is not shared between parts. Each wall time comes with the CPU time of the thread that
matters: on a machine with other work, compare that figure.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import console_cache as made  # noqa: E402

DataTable = dict[str, float]
LIMITS = {  # the limits that the documentation promises
    "first painted window s": 1.5,
    "open and first read ms": 100.0,
    "UI thread % of a core": 25.0,
    "longest UI work ms": 50.0,
    "RSS MiB": 350.0,
    "scroll: longest UI work ms": 50.0,
    "paint percentiles ms": 50.0,
    "paint heat map ms": 50.0,
}


@contextmanager
def window_on(cache: Path, addresses: list[str] | None) -> Iterator[tuple[Any, Any]]:
    """The whole console as main() builds it: (application, window)."""
    from PySide6.QtWidgets import QApplication

    from console.app.bridge import Bridge
    from console.app.main import open_window
    from console.app.timeaxis import TimeAxis
    from console.plots.style import Style
    from console.state.dashboard import View

    sys.setswitchinterval(0.001)
    application = QApplication([])
    application.setStyle("Fusion")
    bridge = Bridge(cache, addresses)
    window = open_window(bridge, TimeAxis(View()), Style())
    window.given = frozenset({"size", "page", "theme"})
    window.use_theme("dark")
    window.resize(1600, 960)
    bridge.show_view(window.axis.view)
    bridge.start()
    window.show()
    gc.freeze()
    try:
        yield application, window
    finally:
        window.close()


class Turns:
    """CPU time of this thread and wall time between two turns of the event loop."""

    def __init__(self) -> None:
        from PySide6.QtCore import QTimer

        self.busy_ms: list[float] = []
        self.gaps_ms: list[float] = []
        self._last = (time.perf_counter(), time.thread_time())
        self._began = self._last
        self._timer = QTimer()
        self._timer.timeout.connect(self._turn)
        self._timer.start(5)

    def _turn(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        self.gaps_ms.append((now[0] - self._last[0]) * 1000)
        self.busy_ms.append((now[1] - self._last[1]) * 1000)
        self._last = now

    def stop(self) -> tuple[float, float]:
        """(wall s, CPU s of this thread)."""
        self._timer.stop()
        return time.perf_counter() - self._began[0], time.thread_time() - self._began[1]


def spin(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Run the real event loop. A loop around processEvents would itself use CPU time."""
    from PySide6.QtCore import QEventLoop, QTimer

    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        loop = QEventLoop()
        QTimer.singleShot(int(min(0.05, seconds) * 1000), loop.quit)
        loop.exec()


def first_paint(cache: Path, options: argparse.Namespace) -> DataTable:
    """Seconds from the start of the process to the first painted window with figures."""
    with window_on(cache, None) as (application, window):
        while window.board is None or window.board.latency is None or not window.isVisible():
            application.processEvents()
        window.repaint()
        window.latency.percentiles.repaint()
        application.processEvents()
        process = psutil.Process()
        return {
            "first painted window s": time.monotonic() - options.began,
            "CPU until then s": time.process_time(),
            "RSS MiB": process.memory_info().rss / 2**20,
        }


def opening(cache: Path, options: argparse.Namespace) -> DataTable:
    """From the path to the known servers: the work between the start and the first board."""
    from console.cache import rows

    walls, cpus = [], []
    for _ in range(7):
        began, used = time.perf_counter(), time.thread_time()
        db = rows.open_for_reading(cache)
        assert db is not None and len(rows.servers(db)) == made.SERVERS
        walls.append((time.perf_counter() - began) * 1000)
        cpus.append((time.thread_time() - used) * 1000)
        db.close()
    return {
        "file GB": cache.stat().st_size / 1e9,
        "open and first read ms": float(np.median(walls)),
        "the first of seven ms": walls[0],
        "CPU of it ms": float(np.median(cpus)),
    }


def ten_hertz(cache: Path, options: argparse.Namespace) -> DataTable:
    """Twenty servers that send ten times a second: the UI thread's share of a core, and its
    frames."""
    command = [sys.executable, "-m", "benchmarks.console", "--serve"]
    servers = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert servers.stdout is not None
    addresses = json.loads(servers.stdout.readline())
    process = psutil.Process()
    try:
        with window_on(cache, addresses) as (_, window):

            def settled() -> bool:
                board = window.board
                return board is not None and all(
                    line.link.state == "live" for line in board.servers
                )  # fmt: skip

            spin(240, settled)
            spin(5)
            boards, cpu, turns = window.bridge.boards, process.cpu_times(), Turns()
            spin(options.seconds)
            wall, used = turns.stop()
            after = process.cpu_times()
            whole = after.user + after.system - cpu.user - cpu.system
            return {
                "servers live": sum(s.link.state == "live" for s in window.board.servers),
                "UI thread % of a core": 100 * used / wall,
                "whole console % of a core": 100 * whole / wall,
                "UI work of a turn p99 ms": float(np.quantile(turns.busy_ms, 0.99)),
                "longest UI work ms": max(turns.busy_ms),
                "UI gap p99 ms (wall)": float(np.quantile(turns.gaps_ms, 0.99)),
                "boards a second": (window.bridge.boards - boards) / wall,
                "UI ms a board": 1000 * used / max(window.bridge.boards - boards, 1),
                "RSS MiB": process.memory_info().rss / 2**20,
            }
    finally:
        servers.terminate()
        servers.wait(30)


def serve() -> None:
    """Runs the servers of ten_hertz in a separate process, until it is ended."""
    from dataclasses import replace

    from tests.support.fleet_story import FLEET
    from tests.support.observe_stand_in import Fleet, StandIn

    characters = [replace(FLEET[n % 5], name=f"gpu-{n:02d}") for n in range(made.SERVERS)]
    with Fleet([StandIn(who, past_s=60, hertz=10) for who in characters]) as fleet:
        print(json.dumps(fleet.addresses), flush=True)
        while True:
            time.sleep(1)


def many_points(cache: Path, options: argparse.Namespace) -> DataTable:
    """A window of a hundred thousand latency rows: the time to read it and to paint it."""
    from PySide6.QtWidgets import QApplication

    from console.app.timeaxis import TimeAxis
    from console.cache import latency, rows
    from console.cache.build_board import BoardBuilder
    from console.plots.charts import Percentiles
    from console.plots.heatmap import HeatMap
    from console.plots.style import Style
    from console.state.dashboard import View

    application = QApplication([])
    db = rows.open_for_reading(cache)
    assert db is not None
    now = db.execute("SELECT max(bucket_ms) FROM latency").fetchone()[0] / 1000
    count = db.execute("SELECT count(*) FROM latency WHERE bucket_ms > ?", ((now - 16_800) * 1000,))
    # The console would read rolled-up rows here; this is the worst case.
    latency.MOST_ROWS = 200_000
    builder, view = BoardBuilder(db), View(window_s=16_800, end_s=now)
    found = {"rows in the window": float(count.fetchone()[0])}
    began = time.thread_time()
    board = builder.board(view, now, None, frozenset())
    found["first read, CPU ms"] = (time.thread_time() - began) * 1e3
    began = time.thread_time()
    for _ in range(5):
        board = builder.board(view, now, None, frozenset())
    found["next read, CPU ms"] = (time.thread_time() - began) / 5 * 1e3
    axis, style = TimeAxis(view), Style()

    def painted(plot: Percentiles | HeatMap) -> bool:
        return plot.windowHandle().isExposed() and plot._layer is not None

    for plot, name in (
        (Percentiles(style, axis), "percentiles"),
        (HeatMap(style, axis), "heat map"),
    ):
        plot.resize(700, 300)
        plot.show()
        plot.show_board(board)
        spin(20, partial(painted, plot))
        assert plot._layer is not None, "it was never painted"
        began = time.thread_time()
        for _ in range(20):
            plot.repaint_layer()
            plot.repaint()
        found[f"paint {name} ms"] = (time.thread_time() - began) / 20 * 1e3
        plot.close()
    application.processEvents()
    return found


def scroll(cache: Path, options: argparse.Namespace) -> DataTable:
    """Scroll through a million predictions by the page and by jumps: UI work in one turn, and how
    long a visible row stays empty."""
    with window_on(cache, None) as (_, window):
        spin(60, lambda: window.board is not None)
        window.axis.go(0.0, time.time())
        window.axis.change(window_s=90 * 86400.0)
        window.focus_panel("predictions")
        panel = window.predictions
        began = time.perf_counter()
        panel.search()
        spin(120, lambda: panel.model.rowCount() >= 1_000_000)
        found = {"rows": float(panel.model.rowCount()), "filter s": time.perf_counter() - began}
        spin(1)
        bar = panel.table.verticalScrollBar()
        turns = Turns()
        waits: list[float] = []

        def entry_at(row: int) -> bool:
            return panel.model.entry(row) is not None

        for step in range(240):
            # Lines of a wheel, then jumps of the scroll bar.
            far = step % 12 == 11
            bar.setValue((bar.value() + (bar.maximum() // 23 if far else 330)) % bar.maximum())
            top = panel.table.rowAt(4)
            asked = time.perf_counter()
            spin(2.0, partial(entry_at, top))
            waits.append((time.perf_counter() - asked) * 1000)
        wall, used = turns.stop()
        return {
            **found,
            "scroll: UI thread % of a core": 100 * used / wall,
            "scroll: UI ms a step": 1000 * used / 240,
            "scroll: longest UI work ms": max(turns.busy_ms),
            "row shown after, median ms (wall)": float(np.median(waits)),
            "row shown after, worst ms (wall)": max(waits),
            "RSS MiB": psutil.Process().memory_info().rss / 2**20,
        }


def a_day(cache: Path, options: argparse.Namespace) -> DataTable:
    """Twenty-four hours of twenty servers, written as fast as the writer takes them, and read once
    for each hour as the console reads."""
    from console.cache import rows
    from console.cache.build_board import BoardBuilder
    from console.cache.writer import CacheWriter
    from console.state.dashboard import View

    start = 1_790_000_000.0
    at = [start]
    writer = CacheWriter(cache, lambda tables: None, clock=lambda: at[0])
    writer.start()
    rng = np.random.default_rng(2)
    pool = [made.bucket(0, mix, rng) for mix in made.MIXES for _ in range(20)]
    process, memory, reads, total = psutil.Process(), [], [], 0
    began = time.perf_counter()
    builder: BoardBuilder | None = None
    for hour in range(options.hours):
        for minute in range(60):
            now = start + hour * 3600 + minute * 60
            found = made.minute(now, pool, hour * 60 + minute)
            total += len(found)
            at[0] = now + 60
            writer.put(found)
            while writer.backlog > 20_000:
                time.sleep(0.01)
        while writer.backlog:
            time.sleep(0.02)
        if builder is None:
            db = rows.open_for_reading(cache)
            assert db is not None
            builder = BoardBuilder(db)
        used = time.thread_time()
        builder.board(View(), at[0], None, frozenset({"drift", "alert"}))
        reads.append((time.thread_time() - used) * 1000)
        memory.append(process.memory_info().rss / 2**20)
    wall = time.perf_counter() - began
    writer.close(60)
    late = max(options.hours // 4, 1)
    return {
        "hours": float(options.hours),
        "rows": float(total),
        "faster than life": options.hours * 3600 / wall,
        f"RSS MiB after {late} h": memory[late - 1],
        f"RSS MiB after {options.hours} h": memory[-1],
        "read, CPU ms, early hours": float(np.median(reads[1 : late + 1])),
        "read, CPU ms, late hours": float(np.median(reads[-late:])),
        "file MB": cache.stat().st_size / 1e6,
    }


PARTS = {
    "first_paint": first_paint,
    "opening": opening,
    "many_points": many_points,
    "scroll": scroll,
    "ten_hertz": ten_hertz,
    "a_day": a_day,
}
ON_LARGE = ("first_paint", "many_points", "scroll")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="cache of most parts (1)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of ten_hertz (30)")
    parser.add_argument("--hours", type=int, default=24, help="of a_day (24)")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument(
        "--keep", type=Path, help="folder for the large caches, used again if there"
    )
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    if options.part:
        print(json.dumps(PARTS[options.part](options.cache, options)))
        return
    with tempfile.TemporaryDirectory(prefix="console-bench-") as folder:
        kept = [
            report(part, cache_for(part, options, Path(folder)), options) for part in options.only
        ]
    sys.exit(not all(kept))


def cache_for(part: str, options: argparse.Namespace, folder: Path) -> Path:
    """The file for this part, made when it is first needed."""
    large = options.keep or folder
    if part not in (*ON_LARGE, "opening"):
        return folder / f"{part}.db"
    gigabytes = 2 * options.gigabytes if part == "opening" else options.gigabytes
    path: Path = large / f"console-{gigabytes:g}gb.db"
    if not path.exists():
        large.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        smaller = large / f"console-{options.gigabytes:g}gb.db"
        if smaller != path and smaller.exists():
            shutil.copy(smaller, path)
            count = made.grow(path, gigabytes)
        else:
            count = made.make(path, gigabytes, time.time())
        size = path.stat().st_size / 1e9
        text = f"cache of {size:.2f} GB, {count:,} predictions, made in"
        print(f"{text} {time.perf_counter() - began:.0f} s", flush=True)
    return path


def report(part: str, cache: Path, options: argparse.Namespace) -> bool:
    """Prints the result of a part; False when it failed or exceeded a limit."""
    command = [sys.executable, "-m", "benchmarks.console", "--part", part, "--cache", str(cache)]
    command += ["--seconds", str(options.seconds), "--hours", str(options.hours)]
    # The kernel's start time of a process is up to a second off the wall clock.
    command += ["--began", str(time.monotonic())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(part, "failed:", done.stderr[-2000:])
        return False
    print(f"\n{part} (load of the machine {psutil.getloadavg()[0]:.1f})")
    found = json.loads(done.stdout.splitlines()[-1])
    for name, value in found.items():
        limit = LIMITS.get(name)
        word = "" if limit is None else f"  at most {limit:g}: {'ok' if value <= limit else 'NOT'}"
        print(f"  {name:36s} {value:12,.2f}{word}", flush=True)
    return all(value <= LIMITS[name] for name, value in found.items() if name in LIMITS)


if __name__ == "__main__":
    main()
