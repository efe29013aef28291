"""What decoding in processes of its own costs: this tree against another one, in turn.

    python -m benchmarks.decoding --before DIR [--rounds 6] [--seconds 4] [--callers 1 64]

Both servers stay loaded for the whole run, and the same client drives one after the other in each
round. Prints the median throughput and latency of each, the CPU time of a request (front, replicas
and decoders) and the ratios of the rounds; then what each process of this tree takes of memory.
`--before` is a tree with an environment of its own (.venv); without it this tree is measured
against itself, which shows what two starts differ by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serve import ROOT, Worker, free_port

MIB = 1 << 20


@dataclass(slots=True)
class Server:
    name: str
    tree: Path
    process: subprocess.Popen[str]
    target: str

    def cpu_s(self) -> float:
        """Of the front and of all processes below it, until now."""
        front = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (front, *front.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


def start(name: str, tree: Path, data: str, replicas: int) -> Server:
    target = f"127.0.0.1:{free_port()}"
    command = [str(tree / ".venv/bin/python"), "-m", "server.main", "--listen", target]
    command += ["--warm-pool", str(replicas), "--data", data, "--no-telemetry"]
    log = open(Path(data) / "server.log", "w")
    process = subprocess.Popen(command, cwd=tree, stdout=log, stderr=log, text=True)
    return Server(name, tree, process, target)


def wait_until_served(server: Server, load: Worker) -> None:
    began = time.perf_counter()
    while True:
        load.send(targets=[server.target], callers=1, seconds=0.0001, mode="unary")
        if load.answer()["failed"] == 0:
            return
        if server.process.poll() is not None or time.perf_counter() - began > 300:
            raise SystemExit(f"{server.name} does not serve")
        time.sleep(0.2)


def measured(server: Server, load: Worker, callers: int, seconds: float) -> dict[str, float]:
    before = server.cpu_s()
    mode = "unary" if callers == 1 else "stream"
    load.send(targets=[server.target], callers=callers, seconds=seconds, mode=mode)
    found = load.answer()
    found["cpu_ms"] = (server.cpu_s() - before) * 1e3 / max(1.0, found["rps"] * seconds)
    return found


def compare(
    servers: list[Server], load: Worker, callers: int, arguments: argparse.Namespace
) -> None:
    found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for turn in range(arguments.rounds):
        for server in servers if turn % 2 else servers[::-1]:
            found[server.name].append(measured(server, load, callers, arguments.seconds))
    print(f"\n{callers} callers, {arguments.rounds} rounds of {arguments.seconds:g} s, medians")
    for name, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"  {name:8}" + "  ".join(f"{key} {value:.2f}" for key, value in middle.items()))
    for key in ("rps", "p50_ms", "cpu_ms"):
        before, after = ([one[key] for one in found[server.name]] for server in servers)
        ratios = [new / old for old, new in zip(before, after, strict=True)]
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"  after/before {key}: median {statistics.median(ratios):.3f} ({shown})")


def memory(server: Server) -> None:
    print(f"\nmemory of {server.name}, MiB")
    for one in psutil.Process(server.process.pid).children(recursive=True):
        full = one.memory_full_info()
        module = next((word for word in one.cmdline() if word.startswith("server.")), "")
        print(
            f"  {module:30} rss {full.rss / MIB:6.1f}  pss {full.pss / MIB:6.1f}  "
            f"unique {full.uss / MIB:6.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, default=ROOT)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--replicas", type=int, default=2)
    arguments = parser.parse_args()
    load = Worker("benchmarks.support.load")
    load.wait_ready()
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        servers = [
            start("before", arguments.before.resolve(), old, arguments.replicas),
            start("after", ROOT, new, arguments.replicas),
        ]
        try:
            for server in servers:
                wait_until_served(server, load)
            print(json.dumps({"load average": psutil.getloadavg()[0]}))
            for callers in arguments.callers:
                compare(servers, load, callers, arguments)
            for server in servers:
                memory(server)
        finally:
            load.close()
            for server in servers:
                server.process.terminate()
                server.process.wait()


if __name__ == "__main__":
    main()
