"""What the host, its GPUs and the replicas use: read in a thread, kept as plain figures.

Serving does not depend on any of it. A figure that cannot be read is None. A host without NVIDIA's
library or without `nvidia-ml-py` (the extra `gpu`) counts as having no GPU.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from server import control_group, host
from server.types import ReplicaStatus

logger = logging.getLogger(__name__)

READ_S = 2.0
TICKS = os.sysconf("SC_CLK_TCK")
# Fields of the first line of /proc/stat that are not work: idle, and waiting for a disk.
IDLE, IO_WAIT = 3, 4
GUEST = 8  # from here on, fields count time that the first fields already include


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """One GPU as NVML reports it. A figure that this GPU does not report is None."""

    index: int  # NVML's index
    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    # 0 to 1: the share of the last sample during which a kernel ran.
    utilisation: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    index: int
    cpu_s: float | None  # CPU time of the process, its decoders, and those that ended


@dataclass(frozen=True, slots=True)
class HostFigures:
    """The figures at one moment. In a control group with a limit, CPU and memory are those of the
    group."""

    unix_s: float
    cpu_share: float | None = None  # 0 to 1 of `cores`, since the previous reading
    cores: float = 0.0
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    disk_free_bytes: int | None = None  # for this user, on the file system of --data
    disk_total_bytes: int | None = None
    gpus: tuple[GpuFigures, ...] = ()
    replicas: tuple[ReplicaFigures, ...] = ()


class Nvml:
    """NVML through the module `pynvml` of nvidia-ml-py."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def read(self) -> Iterator[GpuFigures]:
        ask = self._library
        for index in range(self._asked(ask.nvmlDeviceGetCount) or 0):
            handle = self._asked(ask.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                continue  # the GPU is no longer reachable
            memory = self._asked(ask.nvmlDeviceGetMemoryInfo, handle)
            rates = self._asked(ask.nvmlDeviceGetUtilizationRates, handle)
            milliwatts = self._asked(ask.nvmlDeviceGetPowerUsage, handle)
            celsius = self._asked(ask.nvmlDeviceGetTemperature, handle, ask.NVML_TEMPERATURE_GPU)
            yield GpuFigures(
                index=index,
                name=str(self._asked(ask.nvmlDeviceGetName, handle) or ""),
                memory_used_bytes=None if memory is None else int(memory.used),
                memory_total_bytes=None if memory is None else int(memory.total),
                utilisation=None if rates is None else rates.gpu / 100,
                power_w=None if milliwatts is None else milliwatts / 1000,
                temperature_c=None if celsius is None else float(celsius),
            )

    def _asked(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None if this GPU has none: a figure it lacks, a MIG slice, a lost
        driver."""
        try:
            return question(*arguments)
        except self._library.NVMLError:
            return None


def nvml() -> tuple[Nvml | None, str]:
    """(NVML, the reason): None without its Python module or without the driver's library."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, "no GPU figures: pip install 'trefoil-serve[gpu]'"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"no GPU figures: {error}"
    return Nvml(pynvml), "GPU figures by NVML"


@dataclass(eq=False)
class HostReader:
    """Reads when called, and keeps the values that the next reading compares with. `data` is a path
    on the file system to report; `root` holds proc and sys; `clock` is monotonic seconds."""

    data: Path
    gpus: Nvml | None = None
    root: Path = Path("/")
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._cpu: tuple[float, float] | None = None  # seconds used, seconds available
        self._spent: dict[int, float] = {}  # pid -> CPU seconds

    def read(self, replicas: Sequence[ReplicaStatus] = ()) -> HostFigures:
        """Takes 1 ms, and more for each GPU; longer where the disk hangs."""
        cores, quota = float(os.cpu_count() or 1), control_group.cpu_quota(self.root)
        if quota is not None and quota < cores:
            cores, cpu = quota, self._group_time(quota)
        else:
            cpu = self._host_time()
        memory_used, memory_total = _memory(self.root)
        disk_free, disk_total = _disk(self.data)
        found = tuple(self._replica(one) for one in replicas)
        running = {one.pid for one in replicas}
        self._spent = {pid: s for pid, s in self._spent.items() if pid in running}
        return HostFigures(
            unix_s=self.wall(),
            cpu_share=self._share(cpu),
            cores=cores,
            memory_used_bytes=memory_used,
            memory_total_bytes=memory_total,
            disk_free_bytes=disk_free,
            disk_total_bytes=disk_total,
            gpus=tuple(self.gpus.read()) if self.gpus is not None else (),
            replicas=found,
        )

    def _share(self, now: tuple[float, float] | None) -> float | None:
        """`now` is (seconds used, seconds available) since some start. Returns the share since the
        previous reading; None for the first one."""
        before, self._cpu = self._cpu, now
        if before is None or now is None or now[1] <= before[1]:
            return None
        return min(max((now[0] - before[0]) / (now[1] - before[1]), 0.0), 1.0)

    def _group_time(self, cores: float) -> tuple[float, float] | None:
        used_s = control_group.cpu_used_s(self.root)
        return None if used_s is None else (used_s, self.clock() * cores)

    def _host_time(self) -> tuple[float, float] | None:
        """CPU time used and available, over all processors and processes."""
        try:
            first = (self.root / "proc/stat").read_text().partition("\n")[0]
        except OSError:
            return None
        ticks = [int(count) for count in first.split()[1 : GUEST + 1]]
        idle = ticks[IDLE] + ticks[IO_WAIT]
        return (sum(ticks) - idle) / TICKS, sum(ticks) / TICKS

    def _replica(self, status: ReplicaStatus) -> ReplicaFigures:
        cpu_s = cpu_seconds(status.pid, self.root) if status.pid else None
        # A decoder that ends between the reads of two files is counted in neither or in both.
        if cpu_s is not None:
            cpu_s = self._spent[status.pid] = max(cpu_s, self._spent.get(status.pid, 0.0))
        return ReplicaFigures(status.index, cpu_s)


def host_reader(data: Path) -> HostReader:
    """A reader with the GPUs of this host. Takes seconds where the driver must initialise them."""
    gpus, reason = nvml()
    if host.has_gpu():
        logger.info("%s", reason)
    return HostReader(data, gpus)


@dataclass(eq=False)
class HostWatch:
    """Keeps the latest figures of a server. `make_reader` and the reader run in a thread,
    `replicas` on the event loop."""

    make_reader: Callable[[], HostReader]
    replicas: Callable[[], Sequence[ReplicaStatus]]
    every_s: float = READ_S

    def __post_init__(self) -> None:
        self.latest: HostFigures | None = None  # None until the first reading

    async def run(self) -> None:
        reader = await asyncio.to_thread(self.make_reader)
        while True:
            replicas = self.replicas()
            self.latest = await asyncio.to_thread(reader.read, replicas)
            await asyncio.sleep(self.every_s)


def cpu_seconds(pid: int, root: Path = Path("/")) -> float | None:
    """CPU time of a process, of the children it has waited for and of its running descendants; None
    if it is gone. Without CONFIG_PROC_CHILDREN, descendants count only once they have ended."""
    try:
        fields = (root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    own_s = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    return own_s + sum(cpu_seconds(child, root) or 0.0 for child in _children(pid, root))


def _children(pid: int, root: Path) -> Iterator[int]:
    for file in (root / f"proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, file.read_text().split())
        except OSError:
            continue  # the thread is gone


def _memory(root: Path) -> tuple[int | None, int | None]:
    """(bytes used, total bytes) of the tightest control group, or else of the host."""
    group = control_group.memory_use(root)
    if group is not None:
        return group
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    return (None, None) if total is None or free is None else (total - free, total)


def _disk(path: Path) -> tuple[int | None, int | None]:
    """(bytes free, total bytes) of the file system where `path` is, or would be created."""
    try:
        usage = shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists()))
    except (OSError, StopIteration):
        return None, None
    return usage.free, usage.total
