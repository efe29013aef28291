"""trefoil.v1.Observe: what the console and `server status` watch.

Watch gives the state at once and again whenever it changes or the interval has passed. What a
journal keeps (latency, drift, alerts, predictions) joins the same stream with telemetry; the cursor
already counts every event of this instance.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from proto import observe_pb2 as pb
from server.engine import Engine
from server.envelope import message_of
from server.snapshot import Snapshots

DEFAULT_INTERVAL_S = 1.0
SHORTEST_INTERVAL_S = 0.1  # a watcher cannot make the server do nothing but report
LONGEST_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Observe:
    engine: Engine
    snapshots: Snapshots
    wall_ns: Callable[[], int] = time.time_ns
    _cursor: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def Watch(self, data: bytes, _context: Any) -> AsyncIterator[pb.WatchEvent]:
        request = message_of(pb.WatchRequest, data)
        interval_s = request.interval_s or DEFAULT_INTERVAL_S
        interval_s = min(max(interval_s, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)
        state = await self.engine.changed("")  # as it is now
        while True:
            yield self._event(self.snapshots.take())
            if request.once:
                return
            state = await self._changed(state, interval_s)

    async def _changed(self, seen: str, longest_s: float) -> str:
        """The engine's state, once it is no longer `seen` or `longest_s` have passed."""
        try:
            async with asyncio.timeout(longest_s):
                return await self.engine.changed(seen)
        except TimeoutError:
            return seen

    def _event(self, snapshot: pb.ServerSnapshot) -> pb.WatchEvent:
        return pb.WatchEvent(
            cursor=next(self._cursor),
            server_unix_ns=self.wall_ns(),
            instance=self.snapshots.identity.instance,
            snapshot=snapshot,
        )
