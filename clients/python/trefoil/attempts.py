"""One call made as often as it takes: on which server, how often, until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from trefoil.errors import Overloaded, TrefoilError, Unavailable, error_of
from trefoil.retries import Deadline, Retries
from trefoil.servers import Server, Servers

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Attempts:
    """Used for one call of the client, texts that are continued elsewhere included."""

    servers: Servers
    retries: Retries
    session: str
    deadline: Deadline
    only: Server | None = None  # no other server can answer
    made: int = 0
    _in_vain: set[str] = field(default_factory=set)

    async def until_answered(self, ask: Callable[[Server], Awaitable[Answer]]) -> Answer:
        """What `ask` returns. `ask` raises AioRpcError or TrefoilError; this raises the latter."""
        while True:
            server = self.next_server()
            try:
                with server.at_work():
                    answer = await ask(server)
            except (grpc.aio.AioRpcError, TrefoilError) as error:
                await self.after(error, server)
            else:
                self.servers.note(server, reached=True)
                return answer

    def next_server(self) -> Server:
        self.made += 1
        return self.only or self.servers.choose(self.session, self._in_vain)

    async def after(self, error: Exception, server: Server) -> None:
        """Returns when it is time for another attempt; raises when there is none."""
        found = error_of(error, server.address)
        found.attempts = self.made
        if isinstance(found, Unavailable):  # also one that warms up or shuts down
            self.servers.note(server, reached=False)
        elif found.reason:
            self.servers.note(server, reached=True)
        elsewhere = self._elsewhere(found, server)
        wait_s = self.retries.wait_s(found, self.made, elsewhere)
        if wait_s is None or not self.deadline.allows(wait_s):
            raise found from None
        if wait_s:
            self._in_vain.clear()
            await asyncio.sleep(wait_s)

    def _elsewhere(self, error: TrefoilError, server: Server) -> bool:
        """Can another server be asked at once? A session waits for its full server."""
        if isinstance(error, Overloaded) and self.session:
            return False
        self._in_vain.add(server.address)
        return self.only is None and self.servers.other_than(self._in_vain)
