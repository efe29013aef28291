"""The offset of a server's clock to this machine's. It uses NTP's midpoint rule on the quickest of
the last eight round trips: a slow trip says little about when the server read its clock."""

from __future__ import annotations

import math
from collections import deque


class ClockOffset:
    def __init__(self, keep: int = 8) -> None:
        self._trips: deque[tuple[float, float]] = deque(maxlen=keep)  # (rtt, offset), ms

    def add(self, sent_ms: float, server_ms: float, received_ms: float) -> None:
        """Add one round trip; `sent` and `received` by this machine's clock, `server` by the
        server's, unix ms."""
        rtt = received_ms - sent_ms
        if rtt >= 0 and server_ms > 0:
            self._trips.append((rtt, server_ms - (sent_ms + received_ms) / 2))

    @property
    def offset_ms(self) -> float:
        """The server's clock minus this machine's; NaN before the first round trip."""
        return min(self._trips)[1] if self._trips else math.nan

    @property
    def rtt_ms(self) -> float:
        """The quickest round trip kept; half of it bounds the error of the offset."""
        return min(self._trips)[0] if self._trips else math.nan
