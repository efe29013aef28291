"""What this machine has: cores, memory that may still be used, and what this process uses."""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from server import control_group

MIB = 1 << 20
# Python, torch and transformers before any weight: of one replica that imports them itself, or of
# the fork server, whose pages all replicas share (measured, CPU build: 290 MiB unique, 420 MiB
# resident).
RUNTIME_BYTES = 300 * MIB
# What a forked replica has changed of these pages, and its own objects (measured: 62 MiB).
FORKED_BYTES = 60 * MIB
# The decoders beside each replica (measured with two: 37 MiB).
DECODERS_BYTES = 40 * MIB
# Activations, decoded payloads and what the allocator keeps, per replica.
WORKING_BYTES = 100 * MIB
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# glibc maps a block above 128 kB afresh and gives it back when freed, so every payload is faulted
# in page by page. 32 MiB is the most it accepts as the threshold; more is ignored without a word.
KEPT_BLOCK_BYTES = 32 * MIB
# In the front, where a large upload is held once and rarely: its blocks are given back.
FRONT_BLOCK_BYTES = 4 * MIB
KEPT_TOP_BYTES = 16 * MIB  # free memory at the top of the heap that is not given back
# Every thread that allocates would get a heap of its own and keep what it once held: at 64 callers
# 144 MiB resident without this, 114 with.
HEAPS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# A third of the usual weight: on a full machine a load still ends, in three times its time.
GIVING_WAY = 5


def cores(root: Path = Path("/")) -> tuple[int, str]:
    """(cores to compute with, the reason): the CPU quota of a container rounds down, since threads
    beyond it are stopped in the middle of a forward."""
    found = len(os.sched_getaffinity(0))
    quota = control_group.cpu_quota(root)
    if quota is None or quota >= found:
        return found, f"{found} cores"
    return max(1, int(quota)), f"a CPU quota of {quota:g} of {found} cores"


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of this process: `private` to it (USS), and its part of what it shares with others (PSS
    - USS), a page that four processes use counting a quarter in each."""

    private: int
    shared: int


def memory_use(rollup: Path = Path("/proc/self/smaps_rollup")) -> MemoryUse:
    """Takes 3 ms in a replica: the kernel walks every page. Zeros where it does not report it."""
    try:
        lines = rollup.read_text().splitlines()[1:]
    except OSError:
        return MemoryUse(0, 0)
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return MemoryUse(private * 1024, (kilobytes["Pss"] - private) * 1024)


def keep_freed_memory() -> tuple[bool, str]:
    """Let this process reuse large blocks. Returns (done, reason)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False, "this C library has no mallopt"
    settings = (
        (_M_MMAP_THRESHOLD, FRONT_BLOCK_BYTES),
        (_M_TRIM_THRESHOLD, KEPT_TOP_BYTES),
        (_M_ARENA_MAX, HEAPS),
    )
    done = [mallopt(name, value) for name, value in settings]
    return all(done), f"blocks up to {FRONT_BLOCK_BYTES // MIB} MiB are reused"


def give_way(pid: int, yielding: bool) -> tuple[bool, str]:
    """Let a process group of its own run behind the others for a while, or beside them.

    Replicas are sessions of their own, so where the kernel has autogroups switched on only the
    group's weight counts, else only that of the threads: both are set. Going back needs privilege;
    without it nothing is changed. Returns (done, reason).
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
    """How many processes the kernel has killed for want of memory since it started; 0 where that
    cannot be read."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def processor_ticks(pid: int) -> int | None:
    """Hundredths of a second that a process has computed so far, in all of its threads; None where
    that cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


def descriptors(wanted: int) -> int:
    """How many descriptors this process may have, after asking for as many as `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    most = wanted if hard == endless else min(wanted, hard)
    if soft != endless and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == endless else soft


def descriptor_trouble() -> str:
    """One sentence when nine of ten descriptors are in use, else ""."""
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
    """Why so many replicas do not fit into host memory, with the numbers; "" when they do. `forked`
    ones share the libraries, and `mapped` weights are in memory once."""
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
