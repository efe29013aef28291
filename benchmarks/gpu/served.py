"""A real server on the device: start, throughput, tails, memory, a killed replica."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import thinker
from benchmarks.gpu.measure import arguments, head, left, row, show
from benchmarks.serve import LoadClient, Ours, memory, serving, status

KIND = "embedded"  # or random-3b


class Gpu:
    """Memory and utilisation of the first device, from NVML if available."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._utilisation: list[int] = []
        self._ended = threading.Event()
        try:
            import pynvml  # of nvidia-ml-py, if installed
        except ImportError as error:
            show(f"no NVML: {error}")
            return
        try:
            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        # No driver, or no permission: then the figures are missing.
        except pynvml.NVMLError as error:
            show(f"no NVML: {error}")

    def used_mib(self) -> float:
        if self._handle is None:
            return float("nan")
        return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used / 2**20)

    def watch(self) -> None:
        self._ended.clear()
        self._utilisation = []
        threading.Thread(target=self._sample, daemon=True).start()

    def busy(self) -> str:
        self._ended.set()
        found = self._utilisation
        return f"{statistics.mean(found):.0f} %" if found else "-"

    def _sample(self) -> None:
        while self._handle is not None and not self._ended.wait(0.1):
            rates = self._nvml.nvmlDeviceGetUtilizationRates(self._handle)
            self._utilisation.append(rates.gpu)


def load(loads: list[LoadClient], ours: Ours, callers: int, seconds: float) -> dict[str, float]:
    """Several processes that share the callers, as a single one would be the bottleneck."""
    used = loads[:callers]
    for number, worker in enumerate(used):
        share = callers // len(used) + (number < callers % len(used))
        worker.send(targets=[ours.target], callers=share, seconds=seconds, mode="stream")
    found = [worker.answer() for worker in used]
    requests = sum(one["requests"] for one in found)
    weighted = {
        name: sum(one[name] * one["requests"] for one in found) / requests
        for name in ("p50_ms", "p99_ms")
    }
    return weighted | {name: sum(one[name] for one in found) for name in ("rps", "failed")}


def until_warm(ours: Ours, replicas: int, within: float) -> float:
    """Seconds until this many replicas are warm."""
    began = time.perf_counter()
    while time.perf_counter() - began < within:
        if int(status(ours.target).get("warm_replicas", 0)) >= replicas:
            return time.perf_counter() - began
        time.sleep(0.2)
    return float("nan")


def killed(ours: Ours, replicas: int, within: float) -> float:
    """Seconds from the kill of a replica until all are warm again."""
    pid = status(ours.target)["replicas"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    return 0.5 + until_warm(ours, replicas, within)


def pools(bundle: str, given: Any, gpu: Gpu, loads: list[LoadClient]) -> None:
    device = str(given.device).partition(":")[0]
    head(
        "pool",
        "callers",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "failed",
        "GPU",
        "replica host MiB",
        "GPU MiB",
    )
    for replicas in map(int, given.pools.split(",")):
        if left(given.budget) < 25:
            show(f"no time left before a pool of {replicas}")
            return
        before = gpu.used_mib()
        with serving(bundle, replicas, ["--device", device]) as ours:
            warm = until_warm(ours, replicas, left(given.budget))
            for callers in map(int, given.callers.split(",")):
                load(loads, ours, callers, 1.0)
                gpu.watch()
                found = load(loads, ours, callers, given.seconds)
                busy = gpu.busy()
                host = "+".join(f"{mib:.0f}" for mib in memory(ours.process.pid)[1])
                row(
                    replicas,
                    callers,
                    f"{found['rps']:.0f}",
                    f"{found['p50_ms']:.1f}",
                    f"{found['p99_ms']:.1f}",
                    f"{found['failed']:.0f}",
                    busy,
                    host,
                    f"{gpu.used_mib() - before:.0f}",
                )
            again = killed(ours, replicas, left(given.budget)) if replicas > 1 else float("nan")
            reasons = status(ours.target).get("reasons", {})
            show(
                f"first answer {ours.first_answer_s:.1f} s (with the start of a client), all "
                f"warm {warm:.1f} s later; one killed: all warm again after {again:.1f} s"
            )
            show({name: reasons.get(name) for name in ("batch", "texts", "memory", "dtype")})


def main() -> None:
    given = arguments(kind=KIND, pools="1,2,4", callers="1,64,256", seconds=4.0, loads=4)
    if given.small:
        given.pools, given.callers, given.seconds, given.loads = "1", "2", 1.0, 1
    with ExitStack() as running:
        loads = [running.enter_context(LoadClient()) for _ in range(given.loads)]
        bundle = given.bundle
        if given.kind != KIND:
            bundle = str(Path(running.enter_context(tempfile.TemporaryDirectory())) / "bundle")
            thinker.write(Path(bundle), given.small, torch.device(given.device))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        pools(bundle, given, Gpu(), loads)


if __name__ == "__main__":
    main()
