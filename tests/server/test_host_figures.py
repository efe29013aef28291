"""The figures of the host, of real processes, and of GPUs by NVML's own calls."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server import host
from server.api.model_statistics import ModelStatistics
from server.api.snapshot_messages import Snapshots
from server.ops.host_figures import (
    GpuFigures,
    HostFigures,
    HostReader,
    HostWatch,
    cpu_seconds,
    nvml,
)
from server.telemetry_port import NullTelemetry
from tests.server.test_control_group import written
from tests.support.patience import patience
from tests.support.running import IDENTITY, ROOT, idle_engine, until

GIB = 1 << 30


def test_this_host_has_memory_disk_and_after_two_readings_a_cpu_share(tmp_path: Path) -> None:
    reader = HostReader(tmp_path)
    first = reader.read()
    assert first.cpu_share is None
    assert first.memory_total_bytes and 0 < first.memory_used_bytes <= first.memory_total_bytes  # type: ignore[operator]
    assert first.disk_total_bytes and 0 < first.disk_free_bytes <= first.disk_total_bytes  # type: ignore[operator]
    end = time.monotonic() + patience(5.0)
    while (share := reader.read().cpu_share) is None:
        assert time.monotonic() < end, "the kernel's counts do not move"
        sum(range(10_000))
    assert 0.0 <= share <= 1.0


def test_the_share_is_what_was_busy_between_two_readings(tmp_path: Path) -> None:
    root = written(tmp_path, {"proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n"})
    reader = HostReader(tmp_path, root=root)
    reader.read()
    written(tmp_path, {"proc/stat": "cpu  130 0 70 840 60 0 0 0 20 0\n"})
    assert reader.read().cpu_share == 0.5
    (tmp_path / "proc/stat").unlink()
    assert reader.read().cpu_share is None


def test_without_a_limit_the_cores_are_those_that_the_share_is_of(tmp_path: Path) -> None:
    root = written(tmp_path, {"proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0\n"})
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert HostReader(tmp_path, root=root).read().cores == os.cpu_count()
    finally:
        os.sched_setaffinity(0, allowed)


def test_in_a_limited_group_the_figures_are_those_of_the_group(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pods/a"
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pods/a\n",
            "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
            f"{group}/cpu.max": "50000 100000\n",
            f"{group}/cpu.stat": "usage_usec 1000000\nuser_usec 900000\n",
            f"{group}/memory.max": "500000\n",
            f"{group}/memory.current": "100000\n",
        },
    )
    now = [10.0]
    reader = HostReader(tmp_path, root=root, clock=lambda: now[0])
    reader.read()
    now[0] = 14.0
    written(tmp_path, {f"{group}/cpu.stat": "usage_usec 2500000\n"})
    figures = reader.read()
    assert (figures.cores, figures.cpu_share) == (0.5, 0.75), "1.5 of 4 s on half a core"
    assert (figures.memory_used_bytes, figures.memory_total_bytes) == (100_000, 500_000)


def test_what_cannot_be_read_is_not_a_figure(tmp_path: Path) -> None:
    figures = HostReader(tmp_path / "gone", root=tmp_path / "empty").read()
    assert figures.memory_total_bytes is None and figures.memory_used_bytes is None
    assert figures.cpu_share is None and figures.gpus == ()
    assert figures.disk_free_bytes, "of the folder that --data is made in"
    assert cpu_seconds(os.getpid(), tmp_path) is None


def test_cpu_time_is_that_of_a_process_and_of_those_it_started() -> None:
    child = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', 'while 1: pass'])"
    with subprocess.Popen([sys.executable, "-c", child], start_new_session=True) as parent:
        try:
            end = time.monotonic() + patience(20.0)
            while (cpu_seconds(parent.pid) or 0.0) < 0.3:  # the parent alone takes a tenth of it
                assert time.monotonic() < end, "the child's time is not counted"
                time.sleep(0.02)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert cpu_seconds(parent.pid) is None


async def test_a_watch_opens_and_reads_beside_the_event_loop(tmp_path: Path) -> None:
    made: list[int] = []

    def reader() -> HostReader:
        made.append(threading.get_ident())
        return HostReader(tmp_path)

    watch = HostWatch(reader, lambda: ())
    assert watch.latest is None
    running = asyncio.create_task(watch.run())
    await until(lambda: watch.latest is not None)
    running.cancel()
    assert len(made) == 1 and made != [threading.get_ident()]


def test_a_figure_that_is_not_known_is_sent_as_0_bytes_or_nan() -> None:
    gpu = GpuFigures(1, "H200", memory_used_bytes=5, power_w=30.0)
    figures = HostFigures(2.0, cores=4.0, disk_free_bytes=7, gpus=(gpu,))
    engine, telemetry = idle_engine(), NullTelemetry()
    snapshots = Snapshots(engine, IDENTITY, ModelStatistics(), telemetry, lambda: figures)
    sent = snapshots.take().host
    assert (sent.at_unix_ms, sent.cores, sent.disk_free_bytes) == (2000, 4.0, 7)
    assert math.isnan(sent.cpu_share) and sent.memory_total_bytes == 0
    (shown,) = sent.gpus
    assert (shown.index, shown.name, shown.memory_used_bytes, shown.power_w) == (1, "H200", 5, 30)
    assert math.isnan(shown.utilisation) and shown.memory_total_bytes == 0


# The calls of NVIDIA's driver library that are used, as its headers declare them. GPU 1 has neither
# power nor temperature to report, as a part of a GPU has not.
DRIVER = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } rates_t;
static int handles[2];
#define SECOND(handle) ((int *)(handle) == &handles[1])
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int at, void **handle) {
  *handle = &handles[at]; return 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned int n) {
  strncpy(name, "H200", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
  memory->total = 141ull << 30; memory->used = 40ull << 30; memory->free = 101ull << 30; return 0; }
int nvmlDeviceGetUtilizationRates(void *handle, rates_t *rates) {
  rates->gpu = 75; rates->memory = 10; return 0; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) {
  if (SECOND(handle)) return 3;  /* NVML_ERROR_NOT_SUPPORTED */
  *milliwatts = 512500; return 0; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
  if (SECOND(handle)) return 15;  /* NVML_ERROR_GPU_IS_LOST */
  *celsius = 61; return 0; }
const char *nvmlErrorString(int code) { return "an error"; }
"""
READ = """
from dataclasses import astuple
from pathlib import Path
from server.ops.host_figures import HostReader, nvml
gpus, why = nvml()
assert gpus is not None, why
for gpu in HostReader(Path("/"), gpus).read().gpus:
    print(*astuple(gpu))
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
@pytest.mark.skipif(not importlib.util.find_spec("pynvml"), reason="nvidia-ml-py is not installed")
def test_gpus_are_read_through_the_calls_of_nvidias_library(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    build = ["gcc", "-shared", "-fPIC", "-w", "-o", str(library), str(tmp_path / "driver.c")]
    subprocess.run(build, check=True)
    shown = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    used, total = 40 * GIB, 141 * GIB
    assert shown == [
        f"0 H200 {used} {total} 0.75 512.5 61.0",
        f"1 H200 {used} {total} 0.75 None None",
    ]


@pytest.mark.skipif(host.has_gpu(), reason="this host has a GPU")
def test_without_a_driver_or_its_module_there_is_a_reason_and_no_gpu() -> None:
    gpus, why = nvml()
    assert gpus is None
    assert why.startswith("no GPU figures: ")
