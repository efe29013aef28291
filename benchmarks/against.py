"""Two checkouts beside each other in one process each, job by job in turn:

    python -m benchmarks.against OTHER_CHECKOUT [--rounds 9] [--jobs prepare,forward8]

Prints CPU milliseconds a run, medians, and the ratio of this checkout to the other. Both use the
embedded bundle and one thread; the other checkout needs its own `.venv`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.serve import ROOT

NEW_TOKENS = 24
# Runs of each job in a turn.
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
    """By name; of whatever checkout this process imports."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jobs", default=",".join(JOBS))
    given = parser.parse_args()
    both = [start(given.other.resolve()), start(ROOT)]
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
