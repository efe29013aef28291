"""What the sections share: times, profiles, the ceilings of a device, the arguments."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.serve import ROOT

BEGAN = time.perf_counter()
# Calls of the CUDA runtime that make the host wait for the device.
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel")


def arguments(**more: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU computes in seconds")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds")
    for name, value in more.items():
        parser.add_argument(f"--{name}", default=value, type=type(value))
    given = parser.parse_args()
    if given.small:
        torch.set_num_threads(1)  # at these sizes a second thread only waits
    return given


def left(budget: float) -> float:
    return budget - (time.perf_counter() - BEGAN)


def show(*parts: object) -> None:
    print(*parts, flush=True)


def row(*cells: object) -> None:
    show("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*names: str) -> None:
    row(*names)
    show("|" + "---|" * len(names))


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    work: Callable[[], object], device: torch.device, seconds: float, least: int = 5
) -> list[float]:
    """Sorted milliseconds of each run, including the wait for the device, after two warm-up
    runs."""
    for _ in range(2):
        work()
    settle(device)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < least:
        start = time.perf_counter()
        work()
        settle(device)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)


def p50(times: Sequence[float]) -> float:
    return statistics.median(times)


def p99(times: Sequence[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of a mean run. `busy_ms` is the time in which any kernel or copy ran; 0 on a
    CPU."""

    busy_ms: float
    launches: float
    waits: float
    kernels: tuple[tuple[str, float, float], ...]  # (name, count, microseconds), the longest first


def profile(work: Callable[[], object], device: torch.device, runs: int = 5) -> Profile:
    """Runs under the profiler. On a CPU it counts nothing, so one run only tries it."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    else:
        runs = 1
    work()
    settle(device)
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(runs):
            work()
        settle(device)
    spans: list[tuple[float, float]] = []
    calls, counts, times = Counter[str](), Counter[str](), Counter[str]()
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            spans.append((event.time_range.start, event.time_range.end))
            counts[event.name] += 1
            times[event.name] += event.time_range.end - event.time_range.start
        else:
            calls[event.name] += 1
    launches = sum(n for name, n in calls.items() if name.startswith(_LAUNCHES))
    kernels = tuple((name, counts[name] / runs, us / runs) for name, us in times.most_common(12))
    waits = sum(calls[name] for name in _WAITS)
    return Profile(_covered(spans) / 1e3 / runs, launches / runs, waits / runs, kernels)


def _covered(spans: list[tuple[float, float]]) -> float:
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def copy_bytes_s(device: torch.device, small: bool) -> float:
    """Bytes read and written in one second by a copy on the device."""
    source = torch.randn(1 << (22 if small else 29), device=device)
    target = torch.empty_like(source)
    return 2e3 * source.nbytes / timed(lambda: target.copy_(source), device, 0.3)[0]


def product_flops(device: torch.device, dtype: torch.dtype, small: bool) -> float:
    """Operations a second of a square matrix product: the highest rate of this device."""
    size = 512 if small else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2e3 * size**3 / timed(lambda: a @ b, device, 0.5)[0]


def show_kernels(title: str, found: Profile) -> None:
    counts = f"{found.launches:.0f} launches, {found.waits:.0f} waits"
    show(f"\n{title}: busy {found.busy_ms:.2f} ms, {counts}")
    for name, count, us in found.kernels:
        show(f"  {us:9.1f} us {count:7.1f} x {name[:100]}")
