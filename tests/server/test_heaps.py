"""The front has two heaps of the C library, however many threads allocate."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, os, tempfile, threading
import server.main
assert len(os.listdir("/proc/self/task")) == 1, "no thread before the limit is set"
from server import host
assert host.keep_freed_memory()[0]
from server.commands import serve
kept = []
threads = [threading.Thread(target=lambda: kept.extend(bytearray(5000) for _ in range(500))) for _ in range(32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(file.read().decode().count("<heap nr="))
"""


def test_all_threads_of_the_front_share_two_heaps() -> None:
    """The limit was set after sixteen heaps existed, and then it is not read any more."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2
