"""The front has two heaps of the C library, however many threads allocate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from tests.support.running import program
from trefoil import Client, text

HEAP_BYTES = 64 << 20  # HEAP_MAX_SIZE of glibc on 64 bits


def heaps(pid: int) -> int:
    """The heaps besides the one that grows by brk: what is in use, and reserved up to the size."""
    areas = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, rights, _, _, inode = line.split()[:5]
        start, end = (int(address, 16) for address in area.split("-"))
        areas.append((start, end, rights, inode))
    return sum(
        (used[2], rest[2], used[3], rest[3]) == ("rw-p", "---p", "0", "0")
        and used[1] == rest[0]
        and rest[1] - used[0] == HEAP_BYTES
        for used, rest in pairwise(areas)
    )


def test_all_threads_of_the_front_share_two_heaps(tiny_bundle: Path) -> None:
    """The limit was set when sixteen existed, and then it is not read any more."""
    with program("--bundle", str(tiny_bundle)) as running, Client(running.address) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: client.predict(text(f"hum {n}"), timeout_s=60), range(64)))
        assert heaps(running.process.pid) == 1, "besides that of brk"
