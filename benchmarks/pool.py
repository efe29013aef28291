"""Memory and cold start of warm pools of different sizes, forked and not.

    python -m benchmarks.pool [--sizes 1,2,4] [--rounds 2] [--against DIR/.venv/bin/server]

Each start is a new server on the embedded bundle; kinds and sizes take turns within a round. The
time is from the start of the program until every replica serves. Memory is the sum of PSS over the
front, the fork server and the replicas, read when all serve: a page that several processes use
counts once. CPU is the time that all of them used until then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serve import cpu_s, free_port
from server import host

READY = " ready: "
WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Start:
    seconds: float
    cpu_s: float
    pss_bytes: int


def start(command: list[str], size: int, folder: str) -> Start:
    flags = ["--warm-pool", str(size), "--device", "cpu", "--no-telemetry", "--data", folder]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *flags, "--listen", f"127.0.0.1:{free_port()}"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        took_s = _served(process, size, began)
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        cpu = sum(map(cpu_s, family))
        uses = [host.memory_use(Path(f"/proc/{one.pid}/smaps_rollup")) for one in family]
        pss = sum(use.private + use.shared for use in uses)
        return Start(took_s, cpu, pss)
    finally:
        process.terminate()
        process.wait()


def _served(process: subprocess.Popen[str], size: int, began: float) -> float:
    """Seconds from the start until all replicas served."""
    assert process.stdout is not None
    served = 0
    for line in process.stdout:
        served += "replica" in line and READY in line
        took_s = time.monotonic() - began
        if served == size:
            return took_s
        if took_s > WITHIN_S:
            break
    raise SystemExit(f"{served} of {size} replicas served within {WITHIN_S:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", help="a `server` program of another checkout")
    arguments = parser.parse_args()
    ours = [sys.executable, "-P", "-m", "server.main"]
    kinds = {
        "forked": ours,
        "another" if arguments.against else "alone": (
            [arguments.against] if arguments.against else [*ours, "--no-fork-server"]
        ),
    }
    sizes = [int(size) for size in arguments.sizes.split(",")]
    found: dict[tuple[str, int], list[Start]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for size in sizes:
                for kind, command in kinds.items():
                    load = psutil.getloadavg()[0]
                    one = start(command, size, f"{folder}/{kind}-{size}-{number}")
                    found[kind, size].append(one)
                    print(
                        f"round {number + 1}, {kind} x{size}: {one.seconds:.1f} s, "
                        f"CPU {one.cpu_s:.1f} s, {one.pss_bytes / host.MIB:.0f} MiB "
                        f"(load {load:.1f} before)",
                        flush=True,
                    )
    print(
        f"\n{'':8} {'pool':>4} {'all serve s':>11} {'CPU s':>6} {'MiB':>5} {'MiB each further':>17}"
    )
    for kind in kinds:
        for place, size in enumerate(sizes):
            seconds = statistics.median(one.seconds for one in found[kind, size])
            cpu = statistics.median(one.cpu_s for one in found[kind, size])
            pss = statistics.median(one.pss_bytes for one in found[kind, size])
            each = ""
            if place:
                before = statistics.median(one.pss_bytes for one in found[kind, sizes[place - 1]])
                each = f"{(pss - before) / (size - sizes[place - 1]) / host.MIB:.0f}"
            print(f"{kind:8} {size:4} {seconds:11.1f} {cpu:6.1f} {pss / host.MIB:5.0f} {each:>17}")


if __name__ == "__main__":
    main()
