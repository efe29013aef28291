"""The console against what it must reach: `python benchmarks/console.py [--gigabytes 1]`.

Needs a display (Xvfb will do) for figures that mean anything. Every part runs in a process of its
own, so that one's memory is not another's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SERVERS = 20
MIXES = ("text", "image+text", "audio+image+text")


def big_cache(path: Path, gigabytes: float, now: float) -> None:
    """Latency rows of the last six hours and predictions, until the file is as large as asked."""
    from console.cache.insert import Names, insert
    from console.cache.schema import open_for_writing
    from console.domain import Event, PredictionRow, ServerSnapshot

    db = open_for_writing(path)
    db.execute("PRAGMA synchronous = OFF")
    names = Names(db)
    rng = np.random.default_rng(1)
    for number in range(SERVERS):
        snapshot = ServerSnapshot(
            server=f"gpu-{number:02d}", state="ready", warm_replicas=4, wanted_replicas=4,
            slo_ms=250.0, stamp="a" * 64, stamp_parts={"weights": "a" * 64},
        )  # fmt: skip
        insert(db, names, [Event(address(number), 1, "x", now * 1000, now * 1000, snapshot)])
    for begin in range(int(now - 6 * 3600), int(now), 600):
        rows = [
            Event(address(number), 0, "", 0, now * 1000, bucket(at, mix, rng))
            for at in range(begin, begin + 600, 10)
            for number in range(SERVERS)
            for mix in MIXES
        ]
        insert(db, names, rows)
    row = PredictionRow(
        "", 0, "a" * 64, "text", "ok", slices={"site": "a", "region": "lon"}, session="s",
        trace_id="t" * 32, features=tuple(float(x) for x in range(40)), task="classify",
        client="camera", company=("x" * 20,) * 4,
    )  # fmt: skip
    made = 0
    from dataclasses import replace

    while path.stat().st_size < gigabytes * 1e9:
        found = [
            replace(row, prediction_id=f"p{made + n}", at_unix_ms=int(now * 1000) - made - n)
            for n in range(20_000)
        ]
        insert(db, names, [Event(address(0), 0, "", 0, 0, r) for r in found])
        made += len(found)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def address(number: int) -> str:
    return f"10.0.0.{number}:8500"


def bucket(at: float, mix: str, rng: np.random.Generator, width_s: int = 10) -> object:
    from console.domain import LatencyRow

    counts = np.zeros(64, int)
    counts[26:36] = rng.poisson(20, 10)
    total = float(counts.sum() * 35)
    return LatencyRow(
        bucket_unix_ms=int(at * 1000), width_s=width_s, stamp="a" * 64, mix=mix,
        requests=int(counts.sum()), counts=tuple(int(c) for c in counts), forward_ms=total * 0.7,
        queue_ms=total * 0.2, total_ms=total,
    )  # fmt: skip


def first_paint(cache: Path) -> dict[str, float]:
    """Seconds from the start of the process to the first painted window that shows figures."""
    from PySide6.QtWidgets import QApplication

    from console.board import View
    from console.bridge import Bridge
    from console.panels.look import Look
    from console.timeaxis import TimeAxis
    from console.window import Window

    application = QApplication([])
    application.setStyle("Fusion")
    bridge = Bridge(cache, None)
    window = Window(bridge, TimeAxis(View()), Look())
    window.use_theme("dark")
    window.resize(1600, 960)
    bridge.look(window.axis.view)
    bridge.start()
    window.show()
    while window.board is None or window.board.latency is None or not window.isVisible():
        application.processEvents()
    window.repaint()
    window.latency.percentiles.repaint()
    application.processEvents()
    painted = time.time() - psutil.Process().create_time()
    cpu = time.process_time()  # what a machine with nothing else to do would need, nearly
    memory = psutil.Process().memory_info().rss / 2**20
    window.close()
    return {"first painted window s": painted, "CPU until then s": cpu, "RSS MiB": memory}


def ten_hertz(cache: Path, seconds: float) -> dict[str, float]:
    """Twenty servers that send ten times a second; the UI thread's share of a core and its gaps."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from console.board import View
    from console.bridge import Bridge
    from console.panels.look import Look
    from console.timeaxis import TimeAxis
    from console.window import Window

    servers = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    assert servers.stdout is not None
    addresses = json.loads(servers.stdout.readline())
    sys.setswitchinterval(0.001)
    application = QApplication([])
    application.setStyle("Fusion")
    bridge = Bridge(cache, addresses)
    window = Window(bridge, TimeAxis(View()), Look())
    window.use_theme("dark")
    window.resize(1600, 960)
    bridge.look(window.axis.view)
    bridge.start()
    window.show()
    spin(application, 10)
    gaps: list[float] = []
    busy: list[float] = []
    last = [time.perf_counter(), time.thread_time()]

    def turn() -> None:
        now, used = time.perf_counter(), time.thread_time()
        gaps.append((now - last[0]) * 1000)
        busy.append((used - last[1]) * 1000)
        last[0], last[1] = now, used

    timer = QTimer()
    timer.timeout.connect(turn)
    timer.start(10)
    boards, before, began = bridge.boards, time.thread_time(), time.perf_counter()
    process = psutil.Process()
    cpu = process.cpu_times()
    spin(application, seconds)
    wall = time.perf_counter() - began
    used = time.thread_time() - before
    after = process.cpu_times()
    events = {
        "UI thread % of a core": 100 * used / wall,
        "whole console % of a core": 100
        * (after.user + after.system - cpu.user - cpu.system)
        / wall,
        "UI work between two turns p99 ms": float(np.quantile(busy, 0.99)),
        "UI work between two turns max ms": max(busy),
        "UI gap p99 ms": float(np.quantile(gaps, 0.99)),
        "UI gap max ms": max(gaps),
        "boards a second": (bridge.boards - boards) / wall,
        "RSS MiB": process.memory_info().rss / 2**20,
        "read ms": window.board.usage.read_ms if window.board is not None else 0.0,
    }
    timer.stop()
    window.close()
    servers.terminate()
    servers.wait(20)
    return events


def spin(application: object, seconds: float) -> None:
    """The real event loop, not a loop around processEvents, which would be busy by itself."""
    from PySide6.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(int(seconds * 1000), loop.quit)
    loop.exec()


def serve() -> None:
    from dataclasses import replace

    from tests.fleet_story import FLEET
    from tests.observe_stand_in import Fleet, StandIn

    characters = [replace(FLEET[n % 5], name=f"gpu-{n:02d}") for n in range(SERVERS)]
    with Fleet([StandIn(who, past_s=120, hertz=10) for who in characters]) as fleet:
        print(json.dumps(fleet.addresses), flush=True)
        while True:
            time.sleep(1)


def many_points(cache: Path) -> dict[str, float]:
    """A window of a hundred thousand latency rows: reading it, and painting it."""
    from PySide6.QtWidgets import QApplication

    from console.board import View
    from console.cache import rows
    from console.cache.reading import Reading
    from console.panels.charts import Percentiles
    from console.panels.heatmap import HeatMap
    from console.panels.look import Look
    from console.timeaxis import TimeAxis

    application = QApplication([])
    db = rows.open_for_reading(cache)
    assert db is not None
    now = db.execute("SELECT max(bucket_ms) FROM latency").fetchone()[0] / 1000
    count = db.execute("SELECT count(*) FROM latency WHERE bucket_ms > ?", ((now - 16_800) * 1000,))
    points = count.fetchone()[0]
    reading = Reading(db)
    import console.cache.latency as module

    module.MOST_ROWS = 200_000  # the console would read summed rows here; this is the worst case
    view = View(window_s=16_800, end_s=now)
    began = time.perf_counter()
    board = reading.board(view, now, None, frozenset())
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(5):
        board = reading.board(view, now, None, frozenset())
    again = (time.perf_counter() - began) / 5
    found = {
        "rows in the window": float(points),
        "first read s": first,
        "next read ms": again * 1e3,
    }
    for kind, name in ((Percentiles, "percentiles"), (HeatMap, "heat map")):
        axis, look = TimeAxis(view), Look()
        plot = kind(look, axis) if kind is Percentiles else HeatMap(look, axis)
        plot.resize(700, 300)
        plot.show()
        plot.show_board(board)
        began = time.perf_counter()
        for _ in range(20):
            plot.repaint_layer()
            plot.repaint()
        found[f"paint {name} ms"] = (time.perf_counter() - began) / 20 * 1000
        plot.close()
    application.processEvents()
    return found


def a_day(cache: Path) -> dict[str, float]:
    """24 hours of twenty servers through the writer as fast as it takes them."""
    from console.board import View
    from console.cache import rows
    from console.cache.reading import Reading
    from console.cache.writer import Writer
    from console.domain import Event, ServerSnapshot

    start = 1_790_000_000.0
    at = [start]
    writer = Writer(cache, lambda tables: None, clock=lambda: at[0])
    writer.start()
    rng = np.random.default_rng(2)
    pool = [bucket(0, mix, rng) for mix in MIXES for _ in range(20)]
    from dataclasses import replace

    process, memory, reads, total = psutil.Process(), [], [], 0
    began = time.perf_counter()
    reading: Reading | None = None
    for hour in range(24):
        for minute in range(60):
            now = start + hour * 3600 + minute * 60
            found = [
                Event(
                    address(n),
                    total + 1,
                    "x",
                    now * 1000,
                    now * 1000,
                    replace(
                        pool[(n + m * 20) % len(pool)],  # type: ignore[type-var]
                        bucket_unix_ms=int((now + s) * 1000),
                    ),
                )  # fmt: skip
                for s in range(0, 60, 10)
                for n in range(SERVERS)
                for m in range(3)
            ]
            found += [
                Event(
                    address(n),
                    total + 1,
                    "x",
                    now * 1000,
                    now * 1000,
                    ServerSnapshot(server=f"gpu-{n}", state="ready"),
                )  # fmt: skip
                for n in range(SERVERS)
            ]
            total += len(found)
            at[0] = now + 60
            writer.put(found)
            while writer.backlog > 20_000:
                time.sleep(0.01)
        while writer.backlog:
            time.sleep(0.02)
        db = rows.open_for_reading(cache) if reading is None else None
        reading = Reading(db) if db is not None else reading
        assert reading is not None
        once = time.perf_counter()
        reading.board(View(), at[0], None, frozenset())
        reads.append((time.perf_counter() - once) * 1000)
        memory.append(process.memory_info().rss / 2**20)
    wall = time.perf_counter() - began
    writer.close(30)
    return {
        "rows": float(total),
        "rows a second": total / wall,
        "faster than life": 86_400 / wall,
        "RSS MiB after 3 h": memory[2],
        "RSS MiB after 24 h": memory[-1],
        "read ms, hours 2-6": float(np.median(reads[1:6])),
        "read ms, hours 20-24": float(np.median(reads[19:])),
        "file MB": cache.stat().st_size / 1e6,
    }


PARTS = {"first_paint": first_paint, "many_points": many_points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only", default="", help="first_paint, many_points, ten_hertz or a_day")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    if arguments.part:
        print(json.dumps(run_part(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="trefoil-console-") as folder:
        big = Path(folder) / "big.db"
        if arguments.only in ("", "first_paint", "many_points"):
            began = time.perf_counter()
            big_cache(big, arguments.gigabytes, time.time())
            size = big.stat().st_size / 1e9
            print(f"cache of {size:.2f} GB made in {time.perf_counter() - began:.0f} s", flush=True)
        for part in ("first_paint", "first_paint", "many_points", "ten_hertz", "a_day"):
            if arguments.only in ("", part):
                path = big if part in PARTS else Path(folder) / f"{part}.db"
                report(part, path, arguments.seconds)


def run_part(arguments: argparse.Namespace) -> dict[str, float]:
    if arguments.part == "ten_hertz":
        return ten_hertz(arguments.cache, arguments.seconds)
    if arguments.part == "a_day":
        return a_day(arguments.cache)
    return PARTS[arguments.part](arguments.cache)


def report(part: str, cache: Path, seconds: float) -> None:
    command = [sys.executable, __file__, "--part", part, "--cache", str(cache)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(part, "failed:", done.stderr[-2000:])
        return
    load = psutil.getloadavg()[0]
    print(f"\n{part} (load of the machine {load:.1f})")
    for name, value in json.loads(done.stdout.splitlines()[-1]).items():
        print(f"  {name:36s} {value:12,.2f}", flush=True)


if __name__ == "__main__":
    main()
