"""What the host, its GPUs and the replicas use: read in a thread, kept as plain figures.

Nothing here is needed to serve. What cannot be read is None, and a host without NVIDIA's library
or without `nvidia-ml-py` (the extra `gpu`) has no GPU.
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
GUEST = 8  # from here on: time that is in the first fields already


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """One GPU as NVML reports it. Each figure is None where this GPU does not report it."""

    index: int  # as NVML counts them
    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilisation: float | None = None  # 0 to 1: share of the last sample in which a kernel ran
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    index: int
    cpu_s: float | None  # of the process, its decoders, and those that ended


@dataclass(frozen=True, slots=True)
class HostFigures:
    """At one moment. In a control group with a limit, CPU and memory are those of the group."""

    unix_s: float
    cpu_share: float | None = None  # 0 to 1, of `cores`, since the reading before
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
                continue  # it has fallen off the bus
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
        """None where this GPU has no answer: a figure it lacks, a slice of one, a lost driver."""
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
    """Reads once a call; keeps what the next call compares with. `data` is a path on the file
    system that is looked at; `root` holds proc and sys; `clock` is monotonic seconds."""

    data: Path
    gpus: Nvml | None = None
    root: Path = Path("/")
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._cpu: tuple[float, float] | None = None  # seconds used, of seconds there were
        self._spent: dict[int, float] = {}  # pid -> CPU seconds

    def read(self, replicas: Sequence[ReplicaStatus] = ()) -> HostFigures:
        """Takes 1 ms, and some for each GPU; longer where the disk hangs."""
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
        """Of (seconds used, seconds there were) since some start: the share since the reading
        before. None at the first one."""
        before, self._cpu = self._cpu, now
        if before is None or now is None or now[1] <= before[1]:
            return None
        return min(max((now[0] - before[0]) / (now[1] - before[1]), 0.0), 1.0)

    def _group_time(self, cores: float) -> tuple[float, float] | None:
        used_s = control_group.cpu_used_s(self.root)
        return None if used_s is None else (used_s, self.clock() * cores)

    def _host_time(self) -> tuple[float, float] | None:
        """Of all processors, by every process."""
        try:
            first = (self.root / "proc/stat").read_text().partition("\n")[0]
        except OSError:
            return None
        ticks = [int(count) for count in first.split()[1 : GUEST + 1]]
        idle = ticks[IDLE] + ticks[IO_WAIT]
        return (sum(ticks) - idle) / TICKS, sum(ticks) / TICKS

    def _replica(self, status: ReplicaStatus) -> ReplicaFigures:
        cpu_s = cpu_seconds(status.pid, self.root) if status.pid else None
        if cpu_s is not None:  # a decoder that ends between two files is in neither or in both
            cpu_s = self._spent[status.pid] = max(cpu_s, self._spent.get(status.pid, 0.0))
        return ReplicaFigures(status.index, cpu_s)


def host_reader(data: Path) -> HostReader:
    """A reader with the GPUs of this host. Takes seconds where the driver has to start them."""
    gpus, reason = nvml()
    if host.has_gpu():
        logger.info("%s", reason)
    return HostReader(data, gpus)


@dataclass(eq=False)
class HostWatch:
    """Keeps the latest figures of a server. `make_reader` and what it makes run in a thread,
    `replicas` on the event loop."""

    make_reader: Callable[[], HostReader]
    replicas: Callable[[], Sequence[ReplicaStatus]]
    every_s: float = READ_S

    def __post_init__(self) -> None:
        self.latest: HostFigures | None = None  # until the first reading

    async def run(self) -> None:
        reader = await asyncio.to_thread(self.make_reader)
        while True:
            replicas = self.replicas()
            self.latest = await asyncio.to_thread(reader.read, replicas)
            await asyncio.sleep(self.every_s)


def cpu_seconds(pid: int, root: Path = Path("/")) -> float | None:
    """CPU time of a process, of those it has waited for and of its descendants that run; None
    where it is gone. Without CONFIG_PROC_CHILDREN descendants count when they have ended."""
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
            continue  # that thread is gone


def _memory(root: Path) -> tuple[int | None, int | None]:
    """(bytes used, bytes there are): of the tightest control group, or else of the host."""
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
    """(bytes free, bytes there are) where `path` is, or would be made."""
    try:
        usage = shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists()))
    except (OSError, StopIteration):
        return None, None
    return usage.free, usage.total
