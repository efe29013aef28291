"""How far a server's clock is from ours: the midpoint rule of NTP, on the quickest of the last
eight round trips, because a slow one hardly shows when the server read its clock."""

from __future__ import annotations

import math
from collections import deque


class ClockOffset:
    def __init__(self, keep: int = 8) -> None:
        self._trips: deque[tuple[float, float]] = deque(maxlen=keep)  # (rtt, offset), ms

    def add(self, sent_ms: float, server_ms: float, received_ms: float) -> None:
        """One round trip; `sent` and `received` by our clock, `server` by theirs, unix ms."""
        rtt = received_ms - sent_ms
        if rtt >= 0 and server_ms > 0:
            self._trips.append((rtt, server_ms - (sent_ms + received_ms) / 2))

    @property
    def offset_ms(self) -> float:
        """Server minus us; NaN before the first round trip."""
        return min(self._trips)[1] if self._trips else math.nan

    @property
    def rtt_ms(self) -> float:
        """The quickest trip kept; half of it bounds the error of the offset."""
        return min(self._trips)[0] if self._trips else math.nan
