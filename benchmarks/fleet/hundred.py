"""A hundred servers with twenty replicas each, their console and the fleet's commands:

    python -m benchmarks.fleet.hundred [--servers 100] [--replicas 20] [--processes 4]

Every server is the real one (engine, pool, gRPC services, telemetry, bundle store, as
installers/ray/host.py has them), each on its own socket; only the replicas are stand-ins
(standin.py). Several servers share a process, so that two cores and a few GiB carry them. The
sockets are Unix ones: with TCP, each server scans the descriptors of its process once a second, and
here these are the descriptors of 25 servers. Prints a table; exits 1 when a command failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleet.standin import standin_spawn
from benchmarks.serve import ROOT, cpu_s
from installers.ray.host import EngineHost
from server.config import ServerConfig
from server.deploy.bundle_store import FOLDER, BundleStore, identify
from server.pool.pool import Pool
from tests.support.stub_bundles import stub_bundle
from trefoil import AsyncClient, text

NEW = "b" * 64
WITHIN_S = 1200.0  # on a machine with much other work


def address(folder: Path, number: int) -> str:
    return f"unix:{folder / str(number)}.sock"


# ---- the servers, some in a process ------------------------------------------------------------


async def one_server(number: int, replicas: int, folder: Path) -> EngineHost:
    data = folder / f"s{number}"
    store = BundleStore(data / FOLDER)
    first = store.add(folder / "right-a")
    store.activate(first)
    config = replace(
        ServerConfig(),
        name=f"host-{number:03}",
        listen=address(folder, number),
        bundle=first.path,
        data=data,
        warm_pool=replicas,
        slo_ms=50.0,
        memory_check=False,  # a stand-in uses no memory
    )

    def build(config: ServerConfig) -> Pool:
        return Pool(config, standin_spawn(identify(config.bundle)[1]))

    host = EngineHost(config, build)
    await host.start()
    return host


async def fronts(first: int, count: int, replicas: int, folder: Path) -> None:
    # A turn of one server's loop delays all other servers of the process.
    logging.disable(logging.WARNING)
    async with AsyncExitStack() as stack:
        for number in range(first, first + count):
            host = await one_server(number, replicas, folder)
            stack.push_async_callback(host.stop)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the parent closes it


# ---- what is asked ------------------------------------------------------------------------------


def fleet(folder: Path, *arguments: str) -> tuple[int, float, float, str]:
    """(exit code, seconds, CPU seconds, output) of `server fleet`."""
    began, before = time.monotonic(), _children_s()
    command = [sys.executable, "-m", "server.main", "fleet", *arguments]
    done = subprocess.run(
        [*command, "--timeout", str(WITHIN_S), "--servers", f"file:{folder / 'servers'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    took_s = time.monotonic() - began
    return done.returncode, took_s, _children_s() - before, done.stdout + done.stderr


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


async def traffic(addresses: Sequence[str], seconds: float, rows_per_s: float) -> int:
    """Sends rows at this rate to each server; returns how many were answered."""
    answered = 0

    async def one(number: int) -> None:
        nonlocal answered
        async with AsyncClient(addresses[number], timeout_s=WITHIN_S) as client:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await client.predict(text(f"pump {number} hums"))
                answered += 1
                await asyncio.sleep(1 / rows_per_s)

    await asyncio.gather(*(one(number) for number in range(len(addresses))))
    return answered


def watch(addresses: list[str], seconds: float) -> dict[str, float]:
    """Runs the whole console on these servers for a while, once it shows all of them."""
    from benchmarks.console import Turns, spin, window_on

    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        with window_on(Path(folder) / "cache.db", addresses) as (_, window):

            def heard() -> int:
                lines = window.board.servers if window.board is not None else ()
                return sum(line.snapshot is not None for line in lines)

            began = time.monotonic()
            spin(WITHIN_S, lambda: heard() == len(addresses))
            all_s, used_s = time.monotonic() - began, cpu_s(process)
            turns, began = Turns(), time.monotonic()
            spin(seconds)
            turns.stop()
            used_s = cpu_s(process) - used_s
            busy = sorted(turns.busy_ms)
            return {
                "shown": heard(),
                "all_s": all_s,
                "cores": used_s / (time.monotonic() - began),
                "rss_mib": process.memory_info().rss / (1 << 20),
                "ui_p99_ms": busy[int(0.99 * len(busy))],
                "ui_max_ms": busy[-1],
                "stamps": len({line.snapshot.stamp for line in window.board.servers}),
            }


# ---- all of it -----------------------------------------------------------------------------------


def started(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> list[Any]:
    """The processes that contain the servers, ready."""
    shares = [
        len(range(n, arguments.servers, arguments.processes)) for n in range(arguments.processes)
    ]
    processes, first = [], 0
    for count in shares:
        command = [sys.executable, "-m", "benchmarks.fleet.hundred", "--fronts", f"{first}:{count}"]
        command += ["--replicas", str(arguments.replicas), "--folder", str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
        stack.callback(process.kill)
        processes.append(process)
        first += count
    for process in processes:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a process with servers has ended")
    return processes


def measured(arguments: argparse.Namespace, folder: Path, rows: list[tuple[str, str]]) -> bool:
    count = arguments.servers
    addresses = [address(folder, number) for number in range(count)]
    (folder / "servers").write_text("".join(f"{one}\n" for one in addresses))
    stub_bundle(folder, "b")
    good = True
    for label, order in (
        ("status", ("status",)),
        ("load, 4 at a time", ("load", str(folder / "right-b"))),
        ("activate", ("activate", NEW[:12])),
        ("status", ("status",)),
        ("rollback", ("rollback", "--reason", "benchmark")),
    ):
        code, took_s, used_s, out = fleet(folder, *order)
        good = good and code == 0
        last = out.strip().splitlines()[-1] if out.strip() else ""
        rows.append((f"fleet {label}", f"exit {code}, {took_s:.1f} s, {used_s:.1f} s of CPU"))
        print(rows[-1], last[:100], flush=True)
    for label, rate in (("idle", 0.0), (f"{arguments.rows:g} rows/s on each", arguments.rows)):
        command = [sys.executable, "-m", "benchmarks.fleet.hundred", "--watch", *addresses]
        watching = subprocess.Popen(
            [*command, "--seconds", str(arguments.seconds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={"QT_QPA_PLATFORM": "offscreen", **os.environ},
        )
        if rate:
            asyncio.run(traffic(addresses, arguments.seconds + 10.0, rate))
        out, _ = watching.communicate(timeout=WITHIN_S)
        found = json.loads(out.strip().splitlines()[-1])
        good = good and found["shown"] == count
        rows.append(
            (
                f"console, {label}",
                f"{found['shown']} of {count} servers shown after {found['all_s']:.1f} s; "
                f"{found['cores']:.0%} of a core, {found['rss_mib']:.0f} MiB; UI thread "
                f"p99 {found['ui_p99_ms']:.1f} ms, most {found['ui_max_ms']:.1f} ms",
            )
        )
        print(rows[-1], flush=True)
    return good


def run(arguments: argparse.Namespace, folder: Path) -> int:
    rows: list[tuple[str, str]] = []
    stub_bundle(folder, "a")
    with ExitStack() as stack:
        began = time.monotonic()
        processes = [psutil.Process(one.pid) for one in started(arguments, folder, stack)]
        took_s, used_s = time.monotonic() - began, sum(map(cpu_s, processes))
        memory = sum(one.memory_info().rss for one in processes) / (1 << 20)
        rows.append(
            (
                f"{arguments.servers} servers x {arguments.replicas} stand-ins in "
                f"{arguments.processes} processes",
                f"ready in {took_s:.0f} s, {memory:.0f} MiB, "
                f"{memory / arguments.servers:.1f} MiB a server",
            )
        )
        time.sleep(10.0)
        idle = (sum(map(cpu_s, processes)) - used_s) / 10.0
        rows.append(("all servers together, without a watcher", f"{idle:.0%} of a core"))
        good = measured(arguments, folder, rows)
        memory = sum(one.memory_info().rss for one in processes) / (1 << 20)
        rows.append(("the servers at the end", f"{memory:.0f} MiB"))
    print(f"\nload average {os.getloadavg()[0]:.1f}\n\n| what | found |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--servers", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=20)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rows", type=float, default=1.0, help="a second on each server (1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="that the console is watched")
    parser.add_argument("--fronts", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--watch", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        print(json.dumps(watch(arguments.watch, arguments.seconds)))
        return 0
    if arguments.fronts:
        first, count = (int(part) for part in arguments.fronts.split(":"))
        asyncio.run(fronts(first, count, arguments.replicas, arguments.folder))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return run(arguments, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
