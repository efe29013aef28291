"""How fast the latency objective's error budget burns, as one alert over two windows, as in the SRE
workbook. A single slow request does not open it, and it ends soon after the problem does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from server.telemetry.findings import Finding
from server.telemetry.record import Record

KEY = "latency/slo"
SHORT_S, LONG_S = 300.0, 3600.0
BUDGET = 0.01  # the objective is for the 99th percentile
# At 14.4, a 30-day budget loses 2 % in one hour: enough to page the operator.
FAST = 14.4
LEAST = 100  # requests in the short window; with fewer, a share means little
SLOT_S = 10.0
HOLD_S = 120.0


class SloBurn:
    """`slo_ms` 0: there is no objective, so no budget burns."""

    def __init__(self, slo_ms: float) -> None:
        self._slo_ms = slo_ms
        self._slots: deque[tuple[float, int, int]] = (
            deque()
        )  # (begin, requests, slow), oldest first

    def add(self, records: Iterable[Record], now: float) -> None:
        if self._slo_ms <= 0:
            return
        rows = [record.total_ms > self._slo_ms for record in records]
        begin = now // SLOT_S * SLOT_S
        if self._slots and self._slots[-1][0] >= begin:
            begin, requests, slow = self._slots.pop()
        else:
            requests = slow = 0
        self._slots.append((begin, requests + len(rows), slow + sum(rows)))
        while self._slots and self._slots[0][0] < now - LONG_S:
            self._slots.popleft()

    def finding(self, now: float) -> Finding:
        requests, short = self._rate(now, SHORT_S)
        _, long = self._rate(now, LONG_S)
        if self._slo_ms <= 0 or requests < LEAST or min(short, long) < FAST:
            return Finding(KEY, "latency", "", "", hold_s=HOLD_S)
        summary = (
            f"{short * BUDGET:.0%} of {requests:,} requests in 5 min and {long * BUDGET:.0%} in 1 h"
            f" took longer than {self._slo_ms:g} ms; the objective allows {BUDGET:.0%}"
        )
        return Finding(KEY, "latency", "critical", summary, hold_s=HOLD_S)

    def _rate(self, now: float, window_s: float) -> tuple[int, float]:
        """(requests, burn rate: how many times as fast as the budget allows)."""
        inside = [slot for slot in self._slots if now - window_s <= slot[0] <= now]
        requests = sum(slot[1] for slot in inside)
        slow = sum(slot[2] for slot in inside)
        return requests, slow / requests / BUDGET if requests else 0.0
