"""The front has two heaps of the C library, however many threads allocate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.running import program
from trefoil import Client, text

HEAP_BYTES = 64 << 20  # HEAP_MAX_SIZE of glibc on 64 bits; a heap begins at a multiple of it


def heaps(pid: int) -> int:
    """The heaps besides the one that grows by brk."""
    starts = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, rights, *_, inode = line.split()[:5]
        start = int(area.partition("-")[0], 16)
        if rights == "rw-p" and inode == "0" and start % HEAP_BYTES == 0:
            starts.add(start)
    return len(starts)


def test_all_threads_of_the_front_share_two_heaps(tiny_bundle: Path) -> None:
    """The limit was set when sixteen existed, and then it is not read any more."""
    with program("--bundle", str(tiny_bundle)) as running, Client(running.address) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: client.predict(text(f"hum {n}"), timeout_s=60), range(64)))
        assert heaps(running.process.pid) == 1
