"""Compares two checkouts, measured in turn: their pipelines, or with --callers their servers.

    python -m benchmarks.against OTHER_CHECKOUT [--rounds 9] [--jobs prepare,forward8]
    python -m benchmarks.against OTHER_CHECKOUT --callers 1 64 [--rounds 9] [--seconds 4]

Prints medians and the ratio of this checkout to the other: CPU milliseconds of each job, with one
process for each checkout and one thread; or requests a second, latency and CPU for each request of
two servers that stay loaded, and then the memory of each of their processes. Both use the embedded
bundle of their own tree; the other checkout needs its own `.venv`. `--this` names another checkout
to measure in place of this one; a checkout against itself shows the difference between two starts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.serve import ROOT, Figures, LoadClient, Ours, serving

NEW_TOKENS = 24
# Runs of each job in one turn.
JOBS = {
    "prepare": 6,
    "forward1": 10,
    "forward8": 4,
    "classify1": 8,
    "classify8": 4,
    "write1": 4,
    "write8": 2,
}


def jobs(root: str) -> dict[str, Callable[[], object]]:
    """The jobs by name, from the checkout that this process imports."""
    from benchmarks.support.bound import sample
    from benchmarks.support.payloads import pool
    from pipelines.pipeline import Pipeline

    bundle = f"{root}/pipelines/triage/bundle"
    pipeline = Pipeline.load(bundle, device="cpu", threads=1, allow_dirty=True)
    samples = [sample(i, example) for i, example in enumerate(pool(8))]
    rows = [pipeline.prepare(one) for one in samples]
    asked = [replace(one, task="generate", max_new_tokens=NEW_TOKENS) for one in samples]
    texts = [pipeline.prepare(one) for one in asked]

    def forward(count: int) -> Callable[[], object]:
        staged = pipeline.collate(rows[:count])
        return lambda: pipeline.forward(staged)

    def classify(count: int) -> object:
        return pipeline.finish(pipeline.forward(pipeline.collate(rows[:count])))

    def write(count: int) -> None:
        writing = pipeline.writing()
        pipeline.start(writing, texts[:count])
        while writing.live:
            writing.step()

    return {
        "prepare": lambda: [pipeline.prepare(one) for one in samples[:4]],
        "forward1": forward(1),
        "forward8": forward(8),
        "classify1": lambda: classify(1),
        "classify8": lambda: classify(8),
        "write1": lambda: write(1),
        "write8": lambda: write(8),
    }


def work(root: str) -> None:
    found = jobs(root)
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        began = time.process_time()
        for _ in range(int(count)):
            found[name]()
        print((time.process_time() - began) / int(count) * 1e3, flush=True)


def start(root: Path) -> subprocess.Popen[str]:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import importlib.util as u; s = u.spec_from_file_location('against', sys.argv[2]); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.work(sys.argv[1])"
    )
    process = subprocess.Popen(
        [str(root / ".venv/bin/python"), "-c", script, str(root), __file__],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{root}: the worker ended with {process.wait()}")
    return process


def ask(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{name} {JOBS[name]}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measured(server: Ours, load: LoadClient, callers: int, seconds: float) -> Figures:
    before = sum(server.cpu_s())
    found = load.measure([server.target], callers, seconds, "unary" if callers == 1 else "stream")
    found["cpu_ms"] = (sum(server.cpu_s()) - before) * 1e3 / max(1.0, found["requests"])
    return found


def served(given: argparse.Namespace) -> None:
    with ExitStack() as running:
        load = running.enter_context(LoadClient())
        servers = {}
        for name, root in (("other", given.other.resolve()), ("this", given.this.resolve())):
            bundle = str(root / "pipelines/triage/bundle")
            ours = serving(bundle, given.replicas, ["--no-telemetry"], root=root)
            servers[name] = running.enter_context(ours)
        print(f"load average {psutil.getloadavg()[0]:.1f}")
        for callers in given.callers:
            found: dict[str, list[Figures]] = {name: [] for name in servers}
            for turn in range(given.rounds):
                for name in servers if turn % 2 else reversed(servers):
                    found[name].append(measured(servers[name], load, callers, given.seconds))
            compare(found, f"{callers} callers, {given.rounds} rounds of {given.seconds:g} s")
        for name, server in servers.items():
            print(f"\nmemory of {name}, MiB")
            for one in psutil.Process(server.process.pid).children(recursive=True):
                full = one.memory_full_info()
                module = next((word for word in one.cmdline() if word.startswith("server.")), "")
                pss, uss = full.pss / 2**20, full.uss / 2**20
                print(f"  {module:30} pss {pss:6.1f}  unique {uss:6.1f}")


def compare(found: dict[str, list[Figures]], title: str) -> None:
    print(f"\n{title}, medians")
    for name, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"  {name:8}" + "  ".join(f"{key} {value:.2f}" for key, value in middle.items()))
    for key in ("rps", "p50_ms", "cpu_ms"):
        ratios = [
            this[key] / other[key]
            for other, this in zip(found["other"], found["this"], strict=True)
        ]
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"  this/other {key}: median {statistics.median(ratios):.3f} ({shown})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--this", type=Path, default=ROOT)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--callers", type=int, nargs="+", help="load two servers with these")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--replicas", type=int, default=2, help="of each server")
    given = parser.parse_args()
    if given.callers:
        served(given)
    else:
        in_process(given)


def in_process(given: argparse.Namespace) -> None:
    both = [start(given.other.resolve()), start(given.this.resolve())]
    names = given.jobs.split(",")
    got: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for turn in range(given.rounds):
        for name in names:
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                got[name][which].append(ask(both[which], name))
    print("| job | other, CPU ms | this, CPU ms | ratio |\n|---|---|---|---|")
    for name, found in got.items():
        other, ours = map(statistics.median, found)
        print(f"| {name} | {other:.2f} | {ours:.2f} | {ours / other:.3f} |")
    for process in both:
        process.kill()


if __name__ == "__main__":
    main()
