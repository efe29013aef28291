"""Limits what C libraries write to the standard error of a replica, and tags it with the rows that
are being decoded.

libmpg123 writes a line for each damaged frame, directly to file descriptor 2. One caller could fill
the disk of a server's log with that. So descriptor 2 becomes a pipe, from which a few lines a
minute are passed on, each of limited length. Python itself and its crash reports keep the real
descriptor.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

MOST_LINES = 10  # lines in a period
PERIOD_S = 60.0
LONGEST_LINE = 300  # bytes
MOST_IDS = 4
_BLOCK_BYTES = 1 << 16


@dataclass(eq=False)
class LineLimit:
    """Passes on the first lines of a period, and reports how many it dropped before the next
    period."""

    write: Callable[[str], object]
    decoding: Callable[[], Collection[str]]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._period_ends = 0.0
        self._passed = 0
        self.dropped = 0  # in this period
        self.lines = 0  # in total, passed on or not
        self._rest = b""

    def feed(self, block: bytes) -> None:
        """Take any piece of the output. An unfinished line is kept up to a limit."""
        *lines, rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._line(line)
        self._rest = rest[:LONGEST_LINE]

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        self.lines += 1
        now = self.clock()
        if now >= self._period_ends:
            if self.dropped:
                self.write(f"decoders: {self.dropped} more lines were dropped\n")
            self._period_ends, self._passed, self.dropped = now + PERIOD_S, 0, 0
        if self._passed >= MOST_LINES:
            self.dropped += 1
            return
        self._passed += 1
        text = line[:LONGEST_LINE].decode("ascii", "backslashreplace")
        shown = "".join(c if c.isprintable() else "?" for c in text)
        ids = " ".join(sorted(self.decoding())[:MOST_IDS])
        where = f" (decoding {ids})" if ids else ""
        self.write(f"decoder: {shown}{where}\n")


def limit_native_output(decoding: Callable[[], Collection[str]] = tuple) -> LineLimit:
    """Install the pipe for the rest of the process; `sys.stderr` keeps the real descriptor. Call it
    before other code stores `sys.stderr`."""
    real = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = real
    limit = LineLimit(real.write, decoding)
    threading.Thread(target=_pump, args=(reading, limit), name="native-stderr", daemon=True).start()
    return limit


def _pump(reading: int, limit: LineLimit) -> None:
    while block := os.read(reading, _BLOCK_BYTES):
        try:
            limit.feed(block)
        # The log has no reader: the pipe must be emptied all the same.
        except (OSError, ValueError):
            continue
