"""Gives memory that a flood has left behind back to the system.

The C library keeps what was freed between blocks that are still in use, for as long as the process
lives: after 120 half-sent messages the front stayed at 208 MiB, with this it goes back to 76.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable

from server import host
from server.values import MIB

# Less is kept for the next requests, which need not fault it in again page by page.
KEPT_BYTES = 32 * MIB
# Between two tries. While tries give nothing back and the size stays, memory is in use, and the
# time doubles up to the longest. A try takes 3 to 40 ms and the locks of the allocator.
EVERY_S, LONGEST_S = 5.0, 60.0


def trimmer() -> Callable[[int], int] | None:
    """malloc_trim of malloc.h; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class FreedMemory:
    """`look` is called on the event loop now and then, and asks only for the size of the process:
    mallinfo2 would say what is free, but walks it in 20 ms while every call waits."""

    def __init__(
        self,
        trim: Callable[[int], int] | None = None,
        size: Callable[[], int] = host.rss_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim = trim or trimmer()
        self._size = size
        self._clock = clock
        self._least = math.inf  # bytes of the process
        self._wait_s = EVERY_S
        self._tried = -math.inf
        self._left = 0  # bytes of the process after the last try
        self.trying: threading.Thread | None = None
        self.tries = 0

    def look(self) -> None:
        if self._trim is None:
            return
        now, size = self._clock(), self._size()
        self._least = min(self._least, size)
        if abs(size - self._left) > KEPT_BYTES / 2:
            self._wait_s = EVERY_S
        if size <= self._least + KEPT_BYTES or now < self._tried + self._wait_s:
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
