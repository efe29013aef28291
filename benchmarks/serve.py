"""Throughput and latency of (b) this server against (a) the bound and (c) a plain server.

    python -m benchmarks.serve [--bundle DIR] [--seconds 5] [--rounds 3]

All three stay loaded for the whole run and are measured in turn within each round, so that other
work on this machine affects all of them alike. Read the ratios, not the absolute figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent
CALLERS = (1, 4, 16, 64)
Figures = dict[str, float]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Worker:
    """A subprocess that prints `ready`, then answers one JSON line for each JSON line."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise SystemExit(f"a worker ended with {self.process.wait()} before it was ready")

    def send(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Figures:
        assert self.process.stdout is not None
        return {
            key: float(value) for key, value in json.loads(self.process.stdout.readline()).items()
        }

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def __enter__(self) -> Self:
        self.wait_ready()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


class LoadClient(Worker):
    """The client that loads every server alike: support/load.py in a separate process."""

    def __init__(self) -> None:
        super().__init__("benchmarks.support.load")

    def measure(
        self, targets: list[str], callers: int, seconds: float, mode: str = "stream"
    ) -> Figures:
        self.send(targets=targets, callers=callers, seconds=seconds, mode=mode)
        return self.answer()


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest setting of the direct pipeline on this machine."""

    processes: int
    threads: int
    batch: int
    decoders: int
    rps: float


def start_bound(bundle: str, processes: int, threads: int) -> list[Worker]:
    workers = [
        Worker("benchmarks.support.bound", "--bundle", bundle, "--threads", str(threads))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.wait_ready()
    return workers


def bound_rps(workers: list[Worker], batch: int, decoders: int, seconds: float) -> float:
    for worker in workers:
        worker.send(batch=batch, decoders=decoders, seconds=seconds)
    return sum(worker.answer()["rps"] for worker in workers)


def find_best(bundle: str, cores: int, seconds: float) -> Best:
    found = []
    for processes, threads in sorted({(1, cores), (1, 1), (cores, 1)}):
        workers = start_bound(bundle, processes, threads)
        for batch in (4, 8, 16, 32):
            for decoders in (1, 2):
                rps = bound_rps(workers, batch, decoders, seconds)
                found.append(Best(processes, threads, batch, decoders, rps))
                print(
                    f"  bound: {processes} process(es) x {threads} thread(s), batch {batch:2d}, "
                    f"{decoders} decoder(s): {rps:6.1f} requests/s",
                    flush=True,
                )
        for worker in workers:
            worker.close()
    return max(found, key=lambda best: best.rps)


@dataclass(frozen=True, slots=True)
class Ours:
    process: subprocess.Popen[str]
    target: str
    first_answer_s: float

    def cpu_s(self) -> tuple[float, float]:
        """CPU time so far: (front, all processes below it)."""
        front = psutil.Process(self.process.pid)
        return cpu_s(front), sum(map(cpu_s, front.children(recursive=True)))


def cpu_s(process: psutil.Process) -> float:
    user, system = process.cpu_times()[:2]
    return float(user + system)


def start_ours(
    bundle: str,
    replicas: int,
    data: str,
    extra: Sequence[str],
    variables: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Ours:
    """Start the server and wait for its first correct answer. `variables` are added to its
    environment; `root` is the checkout of the server, with its own .venv if it has one."""
    target = f"127.0.0.1:{free_port()}"
    theirs = root / ".venv/bin/python"
    python = str(theirs) if root != ROOT and theirs.exists() else sys.executable
    command = [python, "-m", "server.main", "--warm-pool", str(replicas)]
    command += ["--listen", target, "--data", data, "--bundle", bundle, "--allow-dirty", *extra]
    began = time.perf_counter()
    log = open(Path(data) / "server.log", "w")
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(
        command, cwd=root, stdout=log, stderr=log, text=True, env=environment
    )
    with LoadClient() as load:
        while load.measure([target], 1, 0.0001, "unary")["failed"]:
            if process.poll() is not None or time.perf_counter() - began > 180:
                process.kill()
                raise SystemExit((Path(data) / "server.log").read_text())
            time.sleep(0.2)
    return Ours(process, target, time.perf_counter() - began)


@contextmanager
def serving(
    bundle: str,
    replicas: int,
    flags: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Iterator[Ours]:
    """`start_ours` with its own data folder. The server is ended afterwards; its log is printed if
    that failed."""
    with tempfile.TemporaryDirectory() as data:
        ours = start_ours(bundle, replicas, data, flags, variables, root)
        try:
            yield ours
        finally:
            ours.process.terminate()
            if ours.process.wait(60):
                print((Path(data) / "server.log").read_text(), file=sys.stderr)


@contextmanager
def plain_servers(bundle: str, count: int) -> Iterator[dict[str, psutil.Process]]:
    """(c): one process for each, by address."""
    with ExitStack() as running:
        peers = {}
        for port in [free_port() for _ in range(count)]:
            flags = ("--bundle", bundle, "--port", str(port))
            worker = Worker("benchmarks.support.peer", *flags)
            peers[f"127.0.0.1:{port}"] = psutil.Process(worker.process.pid)
            running.enter_context(worker)
        yield peers


def status(target: str, *flags: str) -> dict[str, Any]:
    """What `server status --json` prints; empty when it fails."""
    command = [sys.executable, "-m", "server.main", "status", "--json", "--server", target, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return found


def memory(pid: int) -> tuple[float, list[float]]:
    """RSS of the front and of each child, in MiB."""
    front = psutil.Process(pid)
    children = [child.memory_info().rss / 2**20 for child in front.children(recursive=True)]
    return front.memory_info().rss / 2**20, children


def measure(arguments: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    bundle = arguments.bundle
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print("Looking for the best direct setting:")
    best = find_best(bundle, cores, arguments.seconds / 2)
    print(f"Best: {best}")
    with ExitStack() as running:
        bound = start_bound(bundle, best.processes, best.threads)
        singles = {threads: start_bound(bundle, 1, threads)[0] for threads in sorted({1, cores})}
        for worker in (*bound, *singles.values()):
            running.callback(worker.close)
        peers = running.enter_context(plain_servers(bundle, cores))
        ours = running.enter_context(serving(bundle, cores, arguments.server_flag))
        print(f"Start to first correct answer, warm pool of {cores}: {ours.first_answer_s:.1f} s")
        load = running.enter_context(LoadClient())
        got: dict[tuple[str, int], list[Figures]] = defaultdict(list)
        targets = {"b": [ours.target], "c": list(peers)}
        for turn in range(arguments.rounds):
            for callers in CALLERS:
                rps = bound_rps(bound, best.batch, best.decoders, arguments.seconds)
                got["a", callers].append({"rps": rps})
                for name in ("b", "c") if turn % 2 == 0 else ("c", "b"):
                    figures = load.measure(
                        targets[name], callers, arguments.seconds, arguments.mode
                    )
                    got[name, callers].append(figures)
            for threads, single in singles.items():
                single.send(latency=True, seconds=arguments.seconds)
                got["direct", threads].append(single.answer())
        report(got, memory(ours.process.pid))


def report(got: dict[tuple[str, int], list[Figures]], rss: tuple[float, list[float]]) -> None:
    def median(name: str, callers: int, key: str) -> float:
        return statistics.median(figures[key] for figures in got[name, callers])

    columns = "(a) rps,(b) rps,(c) rps,b/a,b/c,b p50 ms,b p95 ms,b p99 ms,c p50 ms,c p99 ms"
    print(f"\n| callers | {columns.replace(',', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for callers in CALLERS:
        a, b, c = (median(name, callers, "rps") for name in ("a", "b", "c"))
        ms = [median("b", callers, key) for key in ("p50_ms", "p95_ms", "p99_ms")]
        ms += [median("c", callers, key) for key in ("p50_ms", "p99_ms")]
        cells = " | ".join(f"{value:.1f}" for value in ms)
        print(f"| {callers} | {a:.1f} | {b:.1f} | {c:.1f} | {b / a:.2f} | {b / c:.2f} | {cells} |")
    for other in ("a", "c"):
        pairs = zip(got["b", CALLERS[-1]], got[other, CALLERS[-1]], strict=True)
        ratios = [ours["rps"] / theirs["rps"] for ours, theirs in pairs]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"\nb/{other} at {CALLERS[-1]} callers: median of the rounds "
            f"{statistics.median(ratios):.2f} ({each})"
        )
    served = median("b", 1, "p50_ms")
    for threads in sorted(threads for name, threads in got if name == "direct"):
        direct = median("direct", threads, "p50_ms")
        print(
            f"One caller, p50: direct call with {threads} thread(s) {direct:.1f} ms, "
            f"served {served:.1f} ms ({served - direct:+.1f} ms)"
        )
    failed = sum(
        figures["failed"] for (name, _), rows in got.items() if name == "b" for figures in rows
    )
    print(f"Failed requests of (b): {failed:.0f}")
    replicas = ", ".join(f"{mib:.0f}" for mib in rss[1])
    print(f"RSS: front {rss[0]:.0f} MiB, replicas {replicas} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode", choices=("stream", "unary"), default="stream")
    parser.add_argument(
        "--server-flag", action="append", default=[], help="passed on to the server, repeatable"
    )
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
