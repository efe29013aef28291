"""A sink that keeps the rows of a feed, and functions that wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from console.state.domain import ReceivedRow
from tests.support.patience import patience


class Kept:
    """A sink that keeps everything in memory."""

    def __init__(self) -> None:
        self.events: list[ReceivedRow] = []
        self.offsets: dict[str, float] = {}
        self.backlog = 0

    def put(self, events: Sequence[ReceivedRow]) -> None:
        self.events.extend(events)

    def set_offset(self, server: str, offset_ms: float) -> None:
        self.offsets[server] = offset_ms

    def rows(self, kind: type, server: str = "") -> list[object]:
        return [e.row for e in tuple(self.events)
                if isinstance(e.row, kind) and server in ("", e.server)]  # fmt: skip


def until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    """Wait for something that is certain to come; fail when it does not."""
    end = time.monotonic() + patience(seconds)
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
