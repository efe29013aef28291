"""Limits how much one server may send. Above the limit the feed stops reading for a while, and
gRPC's flow control slows that server down. So a server that floods costs the others nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# A busy server (100 requests/s) sends 9 kB/s (docs/benchmarks.md, the price of telemetry); a day of
# its history is within the burst.
BYTES_PER_S = float(2 << 20)
ROWS_PER_S = 5_000.0
BURST_S = 30.0
LONGEST_WAIT_S = 4.0  # shorter than the silence after which a server counts as stale
ROW_BYTES = 256 << 10  # limit of one row on the wire; a profile of 4,096 cells has 40 kB
SNAPSHOT_BYTES = 4 << 20
BATCH_BYTES = 4 << 20  # limit of one batch handed on
CALM_S = 30.0  # after this long without a wait, the flood is over


@dataclass(eq=False)
class Allowance:
    """Token buckets for bytes and rows. Use it from one thread; `clock` is monotonic seconds."""

    clock: Callable[[], float] = time.monotonic
    bytes_per_s: float = BYTES_PER_S
    rows_per_s: float = ROWS_PER_S
    burst_s: float = BURST_S

    def __post_init__(self) -> None:
        self._bytes, self._rows = self.bytes_per_s * self.burst_s, self.rows_per_s * self.burst_s
        self._at = self.clock()
        self._held_at: float | None = None  # when reading was last paused
        self._since = 0.0
        self._seen_bytes = self._seen_rows = 0

    def wait_s(self, rows: int, size: int) -> float:
        """Count what arrived; returns for how long to stop reading."""
        now = self.clock()
        passed, self._at = now - self._at, now
        full = self.burst_s
        self._bytes = min(self._bytes + passed * self.bytes_per_s, self.bytes_per_s * full) - size
        self._rows = min(self._rows + passed * self.rows_per_s, self.rows_per_s * full) - rows
        short = max(-self._bytes / self.bytes_per_s, -self._rows / self.rows_per_s)
        if short > 0:
            if not self.flooding:
                self._since, self._seen_bytes, self._seen_rows = now, 0, 0
            self._held_at = now
        self._seen_bytes += size
        self._seen_rows += rows
        return min(max(short, 0.0), LONGEST_WAIT_S)

    @property
    def flooding(self) -> bool:
        return self._held_at is not None and self.clock() - self._held_at < CALM_S

    def message(self) -> str:
        """What the server sends and what is read, as a sentence; "" while there is no flood."""
        if not self.flooding:
            return ""
        seconds = max(self.clock() - self._since, 1.0)
        megabytes, rows = self._seen_bytes / seconds / 1e6, self._seen_rows / seconds
        limit = f"{self.rows_per_s:,.0f} rows/s or {self.bytes_per_s / 1e6:.1f} MB/s"
        read = f"{rows:,.0f} rows/s and {megabytes:.1f} MB/s are read, the rest waits"
        return f"sends more than {limit}; {read}"
