"""Compares a pool with one copy of the weights for each device with a pool with one copy for each
replica: memory, a killed replica, a killed holder."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.measure import arguments, head, left, row, show
from benchmarks.gpu.served import Gpu
from benchmarks.serve import Ours, memory, serving, status
from server.pool.readiness import SERVING

_HELD = re.compile(r"held by process (\d+)")


def holder_of(ours: Ours) -> int:
    """The process that holds the weights; 0 if they are not shared."""
    found = _HELD.search(weights_of(ours))
    return int(found[1]) if found else 0


def weights_of(ours: Ours) -> str:
    return str(status(ours.target).get("reasons", {}).get("weights", ""))


def pids(ours: Ours) -> tuple[int, ...]:
    return tuple(one["pid"] for one in status(ours.target)["replicas"])


def until_serving(ours: Ours, replicas: int, within: float, but: tuple[int, ...] = ()) -> float:
    """Seconds until this many replicas serve, warm or slow, in processes other than `but`."""
    began = time.perf_counter()
    while time.perf_counter() - began < within:
        every = status(ours.target).get("replicas", [])
        found = [one for one in every if one["state"] in SERVING and one["pid"] not in but]
        if len(found) >= replicas:
            return time.perf_counter() - began
        time.sleep(0.2)
    return float("nan")


def killed(ours: Ours, pid: int, replaced: tuple[int, ...], replicas: int, within: float) -> float:
    """Seconds from the kill of `pid` until the processes `replaced` have been replaced."""
    os.kill(pid, signal.SIGKILL)
    return until_serving(ours, replicas, within, replaced)


def pool(given: Any, gpu: Gpu, replicas: int, flags: list[str]) -> None:
    before = gpu.used_mib()
    with serving(given.bundle, replicas, flags) as ours:
        until_serving(ours, replicas, left(given.budget))
        held, why = holder_of(ours), weights_of(ours)
        host = "+".join(f"{mib:.0f}" for mib in memory(ours.process.pid)[1])
        one = pids(ours)[:1]
        again = killed(ours, one[0], one, replicas, left(given.budget))
        kept, lost, every = holder_of(ours) == held, float("nan"), pids(ours)
        if held:
            lost = killed(ours, held, every, replicas, left(given.budget))
        last = holder_of(ours)
    freed = not last or not Path(f"/proc/{last}").exists()
    row(
        "shared" if held else "own",
        f"{gpu.used_mib() - before:.0f}",
        host,
        f"{again:.1f}",
        ("kept" if kept else "lost") if held else "-",
        f"{lost:.1f}",
        "ended" if freed else "still there",
    )
    show(why)


def main() -> None:
    given = arguments(replicas=4)
    replicas, kind = 2 if given.small else given.replicas, str(given.device).partition(":")[0]
    # On a CPU, weights are shared if they run in another dtype than the stored one.
    flags = ["--device", kind, *(["--dtype", "bfloat16"] if kind == "cpu" else [])]
    gpu = Gpu()
    show(f"### {replicas} replicas of {given.bundle}")
    head(
        "weights",
        "GPU MiB",
        "replica host MiB",
        "killed: back s",
        "holder",
        "holder killed: back s",
        "after the end",
    )
    for more in ([], ["--no-share-weights"]):
        if left(given.budget) < 25:
            show("no time left")
            return
        pool(given, gpu, replicas, [*flags, *more])


if __name__ == "__main__":
    main()
