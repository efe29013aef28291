"""What the control groups of this process allow it: CPU time and memory, in versions 1 and 2.

A group may use no more than the groups above it, so the tightest limit on the path from the
process's own group to the root decides. Inside a container the root is the container's own group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("sys/fs/cgroup")
# Version 1's value for "no limit": the largest multiple of a page in 63 bits.
NO_LIMIT = 1 << 60


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time this process may use, in cores; None if it is not limited."""
    found = [quota for folder in _folders(root, "cpu") if (quota := _quota(folder))]
    return min(found, default=None)


def cpu_used_s(root: Path = Path("/")) -> float | None:
    """CPU time of all processes in the group that has the tightest quota; None without a quota."""
    found = [(quota, one) for one in _folders(root, "cpu") if (quota := _quota(one))]
    return _used_s(min(found)[1]) if found else None


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that may still be used, at least 0; None without a limit."""
    tightest = memory_use(root)
    return None if tightest is None else max(0, tightest[1] - tightest[0])


def memory_use(root: Path = Path("/")) -> tuple[int, int] | None:
    """(bytes used, the limit) of the group that has the least left; None without a limit."""
    found = [use for folder in _folders(root, "memory") if (use := _use(folder)) is not None]
    return min(found, key=lambda use: use[1] - use[0], default=None)


def _quota(folder: Path) -> float | None:
    """CFS bandwidth: quota microseconds in each period."""
    limits = _fields(folder / "cpu.max") or [
        *_fields(folder / "cpu.cfs_quota_us"),
        *_fields(folder / "cpu.cfs_period_us"),
    ]
    if len(limits) != 2 or not limits[0].isdigit() or not int(limits[1]):  # "max", or -1
        return None
    return int(limits[0]) / int(limits[1])


def _used_s(folder: Path) -> float | None:
    for line in _lines(folder / "cpu.stat"):
        name, _, count = line.partition(" ")
        if name == "usage_usec":
            return int(count) / 1e6
    # Mounted together with the controller, or missing.
    nanoseconds = _number(folder / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def _use(folder: Path) -> tuple[int, int] | None:
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= NO_LIMIT:
        return None
    return used, limit


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The process's group in each hierarchy with this controller, and the groups above it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            mounts = [MOUNT, MOUNT / "unified"]
        elif controller in controllers.split(","):
            mounts = [MOUNT / controllers, MOUNT / controller]
        else:
            continue
        top = next((root / mount for mount in mounts if (root / mount).is_dir()), None)
        if top is not None:
            group = top / path.strip("/")
            yield from (group, *(above for above in group.parents if above.is_relative_to(top)))


def _number(file: Path) -> int | None:
    fields = _fields(file)
    return int(fields[0]) if fields and fields[0].isdigit() else None


def _fields(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not mounted, or a group of another namespace
        return []
