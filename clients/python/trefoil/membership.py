"""The servers behind a name that changes: it is resolved again and again, and each server is asked
whether it serves.

A server that is gone gets no new calls, and its channel is closed once its calls have ended. A
server that reports NOT_SERVING is left out while another one serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from trefoil._proto import inference_pb2 as pb
from trefoil.discovery import resolve
from trefoil.servers import Server, Servers

logger = logging.getLogger(__name__)

# A server that shuts down still serves for 5 s after it reports NOT_SERVING: at this interval the
# client asks twice within that time.
HEALTH_EVERY_S = 2.0
ANSWER_WITHIN_S = 1.0
# Kubernetes publishes a new address within seconds, and resolvers keep one for up to 30 s.
RESOLVE_EVERY_S = 10.0
# After a call that reached no server the name is resolved again, but not for every such call.
RESOLVE_AGAIN_S = 1.0
# Grace for calls to a server that the name no longer lists: the server's default deadline.
LAST_CALLS_S = 60.0
# grpc.health.v1.Health/Check as bytes, so that the client needs no generated code for it.
CHECK = "/grpc.health.v1.Health/Check"
READY_REQUEST = b"\n\x0dtrefoil.ready"  # HealthCheckRequest(service="trefoil.ready")
SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING)


@dataclass(slots=True)
class Membership:
    """`open_server` makes the channel of an address. Nothing is resolved before `ready` is
    awaited."""

    targets: Sequence[str]
    servers: Servers
    open_server: Callable[[str], Server]
    clock: Callable[[], float] = time.monotonic
    _resolved_at: float = float("-inf")
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _first: asyncio.Task[None] | None = None
    _watching: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Returns once the servers are known. Raises OSError when none can be found."""
        if self._watching is not None:
            return
        if self._first is None:
            self._first = asyncio.create_task(self._look())
        first = self._first
        try:
            await asyncio.shield(first)
        except OSError:
            self._first = None  # the next call tries again
            raise
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def look_again(self, server: Server) -> None:
        """Report that a call did not reach this server. It is left out until it reports that it
        serves, as without calls in flight every caller would choose it. The name is resolved again
        too."""
        server.leaving = True
        if self.clock() - self._resolved_at >= RESOLVE_AGAIN_S:
            self._hurry.set()

    async def close(self) -> None:
        for task in (self._first, self._watching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), HEALTH_EVERY_S)
            hurried = self._hurry.is_set()
            self._hurry.clear()
            if hurried or self.clock() - self._resolved_at >= RESOLVE_EVERY_S:
                try:
                    await self._look()
                    continue
                except (OSError, ValueError) as error:
                    self._resolved_at = self.clock()
                    logger.warning("the servers found before are kept: %s", error)
            await self._ask_all()

    async def _look(self) -> None:
        found = await resolve(self.targets)
        self._resolved_at = self.clock()
        if not found:
            raise OSError(f"{', '.join(self.targets)}: no server is named there")
        known = {server.address for server in self.servers.members}
        for server in [*self.servers.members]:
            if server.address not in found:
                self.servers.members.remove(server)
                self._close_later(server)
        added = [self.open_server(address) for address in found if address not in known]
        # Its identity must be known before it gets a session: all clients must place a session
        # alike.
        await asyncio.gather(*(_learn(server) for server in added))
        self.servers.members.extend(added)
        await self._ask_all()

    async def _ask_all(self) -> None:
        await asyncio.gather(*(_ask(server) for server in [*self.servers.members]))

    def _close_later(self, server: Server) -> None:
        # Without a grace period the close would cancel the calls in flight.
        task = asyncio.create_task(server.channel.close(grace=LAST_CALLS_S))
        CLOSING.add(task)
        task.add_done_callback(CLOSING.discard)


CLOSING: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to tasks


async def _learn(server: Server) -> None:
    """Asks the server for its name. If it does not answer, its address remains its identity."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        response = await server.stub.Describe(pb.DescribeRequest(), timeout=ANSWER_WITHIN_S)
        server.identity = response.server_name or server.address


async def _ask(server: Server) -> None:
    """Asks whether the server serves. A missing answer means nothing; a failed connection
    counts."""
    try:
        response = await server.channel.unary_unary(CHECK)(READY_REQUEST, timeout=ANSWER_WITHIN_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            server.leaving = error.code() is grpc.StatusCode.UNAVAILABLE
        return
    server.leaving = response != SERVING
    if server.identity == server.address:
        await _learn(server)
