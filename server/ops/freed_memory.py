"""Returns memory that a burst of requests has left behind to the system.

The C library keeps freed memory between blocks in use for as long as the process lives. After 120
half-sent messages the front stayed at 208 MiB; with this it returns to 76.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable

from server import host
from server.values import MIB

# This much is kept for the next requests, which then need not fault it in again page by page.
KEPT_BYTES = 32 * MIB
# Time between two attempts. While attempts free nothing and the size stays, the memory is in use,
# and the time doubles up to the longest. An attempt takes 3 to 40 ms and holds the allocator's
# locks.
EVERY_S, LONGEST_S = 5.0, 60.0
# Beyond this, and while attempts free something, the time is an eighth: under attack the front lays
# by 110 MiB in 2 s.
MUCH_BYTES = 96 * MIB


def trimmer() -> Callable[[int], int] | None:
    """malloc_trim of malloc.h; None with a C library that lacks it."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class FreedMemory:
    """`look` is called on the event loop from time to time, and reads only the size of the process:
    mallinfo2 would report the free memory, but takes 20 ms during which every call waits."""

    def __init__(
        self,
        trim: Callable[[int], int] | None = None,
        size: Callable[[], int] = host.rss_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim = trim or trimmer()
        self._size = size
        self._clock = clock
        self._least = math.inf  # smallest size of the process so far, in bytes
        self._wait_s = EVERY_S
        self._tried = -math.inf
        self._left = 0  # size of the process after the last attempt, in bytes
        self.trying: threading.Thread | None = None
        self.tries = 0

    def look(self) -> None:
        if self._trim is None:
            return
        now, size = self._clock(), self._size()
        self._least = min(self._least, size)
        if abs(size - self._left) > KEPT_BYTES / 2:
            self._wait_s = EVERY_S
        soon = size > self._least + MUCH_BYTES and self._wait_s == EVERY_S
        wait_s = EVERY_S / 8 if soon else self._wait_s
        if size <= self._least + KEPT_BYTES or now < self._tried + wait_s:
            return
        if self.trying is not None and self.trying.is_alive():
            return
        self._tried = now
        self.tries += 1
        self.trying = threading.Thread(target=self._try, name="freed-memory", daemon=True)
        self.trying.start()

    def _try(self) -> None:
        assert self._trim is not None
        before = self._size()
        self._trim(0)
        self._left = self._size()
        gave = before - self._left > MIB
        self._wait_s = EVERY_S if gave else min(2 * self._wait_s, LONGEST_S)
