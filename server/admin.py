"""trefoil.v1.Admin: so far Drain. Load, Activate, Rollback and Rehearse belong here too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from proto import admin_pb2 as pb
from server.answers import stamp_message
from server.engine import Engine
from server.envelope import message_of

PROGRESS_S = 0.2


@dataclass(frozen=True, slots=True)
class Admin:
    """`leave` ends the server once it is drained; it must return at once."""

    engine: Engine
    grace_s: float
    leave: Callable[[], None]

    async def Drain(self, data: bytes, _context: Any) -> AsyncIterator[pb.Progress]:
        request = message_of(pb.DrainRequest, data)
        draining = asyncio.create_task(self.engine.drain(request.grace_s or self.grace_s))
        # The drain goes on when whoever asked for it goes away.
        if request.exit:
            draining.add_done_callback(lambda _: self.leave())
        waiting = most = self._left()
        while not draining.done():
            most = max(most, waiting)
            done_share = 1 - waiting / most if most else 1.0
            yield self._progress("draining", done_share, f"{waiting} rows left")
            await asyncio.wait([draining], timeout=PROGRESS_S)
            waiting = self._left()
        await draining
        yield self._progress("drained", 1.0, "exiting" if request.exit else "serving nothing")

    def _left(self) -> int:
        now = self.engine.snapshot()
        return now.queued + now.in_flight

    def _progress(self, step: str, fraction: float, detail: str) -> pb.Progress:
        return pb.Progress(
            step=step,
            fraction=fraction,
            detail=detail,
            done=step == "drained",
            stamp=stamp_message(self.engine.facts),
        )
