"""Figures of this machine: cores, available memory, and the memory that this process uses."""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from server import control_group

MIB = 1 << 20
# Memory of Python, torch and transformers before any weights: of one replica that imports them
# itself, or of the fork server, whose pages all replicas share (measured, CPU build: 290 MiB
# unique, 420 MiB resident).
RUNTIME_BYTES = 300 * MIB
# The pages that a forked replica changes, and its own objects (measured: 62 MiB).
FORKED_BYTES = 60 * MIB
# The decoders beside each replica (measured with two: 37 MiB).
DECODERS_BYTES = 40 * MIB
# For each replica: activations, decoded payloads and memory that the allocator keeps.
WORKING_BYTES = 100 * MIB
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# glibc maps a block above 128 kB from the kernel and returns it when freed, so every payload causes
# page faults. 32 MiB is the highest threshold it accepts; it silently ignores a higher one.
KEPT_BLOCK_BYTES = 32 * MIB
# In the front, which rarely holds a large upload: its blocks are returned.
FRONT_BLOCK_BYTES = 4 * MIB
KEPT_TOP_BYTES = 16 * MIB  # free memory at the top of the heap that is kept
# Otherwise every allocating thread would get its own heap and keep its memory: at 64 callers 144
# MiB resident without this setting, 114 with it. Beside hostile callers the free pieces between
# blocks in use grew by 1.6 MiB a minute in 16 heaps.
HEAPS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# A third of the default weight: on a fully loaded machine a load still completes, in three times
# the time.
GIVING_WAY = 5


def cores(root: Path = Path("/")) -> tuple[int, str]:
    """(cores to compute with, the reason). A container's CPU quota is rounded down, as the kernel
    would stop threads beyond it in the middle of a forward."""
    found = len(os.sched_getaffinity(0))
    quota = control_group.cpu_quota(root)
    if quota is None or quota >= found:
        return found, f"{found} cores"
    return max(1, int(quota)), f"a CPU quota of {quota:g} of {found} cores"


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of this process: `private` to it (USS), and its share of what it shares with others
    (PSS - USS); a page that four processes use counts a quarter in each."""

    private: int
    shared: int


def memory_use(rollup: Path = Path("/proc/self/smaps_rollup")) -> MemoryUse:
    """Takes 3 ms in a replica, as the kernel walks every page. Zeros if the kernel does not report
    it."""
    try:
        lines = rollup.read_text().splitlines()[1:]
    except OSError:
        return MemoryUse(0, 0)
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return MemoryUse(private * 1024, (kilobytes["Pss"] - private) * 1024)


def keep_freed_memory() -> None:
    """Let this process reuse large blocks and use few heaps, with a C library that can.

    The heaps are limited only where no other thread has run: a heap that a thread has got stays,
    and the limit is read once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, FRONT_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_TOP_BYTES)
    mallopt(_M_ARENA_MAX, HEAPS)


def give_way(pid: int, yielding: bool) -> tuple[bool, str]:
    """Let a process group run with lower priority for a while, or with normal priority again.

    Replicas are sessions of their own. So where the kernel has autogroups enabled only the group's
    weight counts, otherwise only that of the threads: both are set. Raising the priority again
    needs privilege; without it nothing is changed. Returns (done, reason).
    """
    if os.geteuid() != 0:
        return False, "only root may undo it"
    by, group = GIVING_WAY if yielding else 0, Path(f"/proc/{pid}/autogroup")
    try:
        os.setpriority(os.PRIO_PGRP, pid, os.getpriority(os.PRIO_PROCESS, 0) + by)
        if group.exists():
            group.write_text(str(by))
    except OSError as error:
        return False, error.strerror or "refused"
    return True, "behind the others" if yielding else "beside the others"


def available_bytes(root: Path = Path("/")) -> tuple[int, str]:
    """(bytes that can still be used, the source): the kernel's estimate or the control group."""
    meminfo = (root / "proc/meminfo").read_text().splitlines()
    line = next(line for line in meminfo if line.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024
    left = control_group.memory_left(root)
    if left is not None and left < free:
        return left, "left in this control group"
    return free, "available on this host"


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for lack of memory since boot; 0 if that cannot be
    read."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def processor_ticks(pid: int) -> int | None:
    """Hundredths of a second of CPU time of a process, over all its threads; None if that cannot be
    read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


def descriptors(wanted: int) -> int:
    """The number of descriptors this process may have, after asking for `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    most = wanted if hard == endless else min(wanted, hard)
    if soft != endless and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == endless else soft


def descriptor_trouble() -> str:
    """A sentence when nine of ten descriptors are in use, otherwise ""."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return ""
    except OSError:
        used = most
    if most == resource.RLIM_INFINITY or used < 0.9 * most:
        return ""
    return f"{used} of {most} descriptors are in use: no file, connection or replica can be opened"


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def misfit(
    weights_bytes: int,
    replicas: int,
    available: tuple[int, str],
    forked: bool = False,
    mapped: bool = False,
) -> str:
    """Why this many replicas do not fit into host memory, with the numbers; "" if they do. `forked`
    replicas share the libraries, and `mapped` weights are in memory once."""
    each = (FORKED_BYTES if forked else RUNTIME_BYTES) + DECODERS_BYTES + WORKING_BYTES
    each += 0 if mapped else weights_bytes
    once = (RUNTIME_BYTES if forked else 0) + (weights_bytes if mapped else 0)
    free, reason = available
    if once + each * replicas <= free:
        return ""
    return (
        f"{replicas} replicas need about {each / MIB:,.0f} MiB each and share "
        f"{once / MIB:,.0f} MiB (weights: {weights_bytes / MIB:,.0f} MiB "
        f"{'once' if mapped else 'each'}), {(once + each * replicas) / MIB:,.0f} MiB together; "
        f"{free / MIB:,.0f} MiB are {reason}: at most {max(0, free - once) // each} fit"
    )


def version() -> str:
    try:
        return metadata.version("trefoil-serve")
    except metadata.PackageNotFoundError:
        return "not installed"
