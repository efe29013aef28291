"""The attempts of one call: on which server, how many, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from trefoil.errors import Overloaded, TrefoilError, Unavailable, error_of
from trefoil.retry_policy import Deadline, RetryPolicy
from trefoil.servers import Server, Servers

Answer = TypeVar("Answer")


@dataclass(slots=True)
class RetryLoop:
    """One for each call of the client; a text that continues on another server keeps its loop."""

    servers: Servers
    policy: RetryPolicy
    session: str
    deadline: Deadline
    only: Server | None = None  # no other server can answer
    # Call it to find servers that were added meanwhile.
    look_again: Callable[[Server], None] | None = None
    attempts: int = 0
    _failed: set[str] = field(default_factory=set)  # addresses that failed since the last wait

    async def run(self, call: Callable[[Server], Awaitable[Answer]]) -> Answer:
        """The result of `call`, which raises AioRpcError or TrefoilError. Raises TrefoilError."""
        while True:
            server = self.next_server()
            try:
                with server.in_flight():
                    answer = await call(server)
            except (grpc.aio.AioRpcError, TrefoilError) as error:
                await self.wait_or_raise(error, server)
            else:
                self.servers.mark(server, reached=True)
                return answer

    def next_server(self) -> Server:
        self.attempts += 1
        return self.only or self.servers.choose(self.session, self._failed)

    async def wait_or_raise(self, error: Exception, server: Server) -> None:
        """Returns when it is time for the next attempt; raises the error when there is none."""
        failure = error_of(error, server.address)
        failure.attempts = self.attempts
        # This includes a server that is warming up or shutting down.
        if isinstance(failure, Unavailable):
            self.servers.mark(server, reached=False)
            if self.look_again is not None:
                self.look_again(server)
        elif failure.reason:
            self.servers.mark(server, reached=True)
        elsewhere = self._another_is_left(failure, server)
        wait_s = self.policy.wait_s(failure, self.attempts, elsewhere)
        if wait_s is None or not self.deadline.allows(wait_s):
            raise failure from None
        if wait_s:
            self._failed.clear()
            await asyncio.sleep(wait_s)

    def _another_is_left(self, error: TrefoilError, server: Server) -> bool:
        """Whether another server can be tried at once. A session waits for its full server."""
        if isinstance(error, Overloaded) and self.session:
            return False
        self._failed.add(server.address)
        return self.only is None and self.servers.other_than(self._failed)
