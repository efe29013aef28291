"""Which server a call goes to.

Rendezvous hashing, with the same hash function as the server: every (session, server) pair has a
weight, and the heaviest server that is not down wins. A server that goes down moves only its own
sessions, and they return with it. Calls without a session go to the server with the fewest calls in
flight.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

FIRST_DOWN_S = 0.1
LONGEST_DOWN_S = 5.0


@dataclass(slots=True)
class Server:
    """One channel and the state of the server behind it."""

    address: str
    channel: Any
    stub: Any
    identity: str = ""  # sessions are placed by it; the address until the server's name is known
    leaving: bool = False  # it reported that it no longer serves
    calls: int = 0  # calls in flight
    failures: int = 0  # consecutive failures
    down_until: float = 0.0

    def __post_init__(self) -> None:
        self.identity = self.identity or self.address

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


@dataclass(frozen=True, slots=True)
class Servers:
    members: list[Server]
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def choose(self, session: str, exclude: Collection[str] = ()) -> Server:
        """Chooses a server; the addresses in `exclude` have just failed and are used only if there
        is no other."""
        now = self.clock()
        left = [s for s in self.members if s.address not in exclude] or self.members
        up = [s for s in left if s.down_until <= now and not s.leaving]
        up = up or [s for s in left if s.down_until <= now] or left
        if session:
            home = rank(session, (s.identity for s in up))[0]
            return next(s for s in up if s.identity == home)
        return min(up, key=lambda s: (s.calls, self.draw()))

    def other_than(self, tried: Collection[str]) -> bool:
        """Whether there is a server that is not down and was not tried."""
        now = self.clock()
        return any(s.address not in tried and s.down_until <= now for s in self.members)

    def mark(self, server: Server, reached: bool) -> None:
        """Records the result of a call. A server that was not reached is left out for a while, each
        time twice as long."""
        now = self.clock()
        if reached:
            server.failures, server.down_until = 0, 0.0
        elif server.down_until <= now:  # many calls fail at once: only the first one counts
            server.down_until = now + min(LONGEST_DOWN_S, FIRST_DOWN_S * 2**server.failures)
            server.failures += 1


def rank(session: str, members: Iterable[str]) -> list[str]:
    """Members from the most to the least preferred, the same on every machine."""
    return sorted(members, key=lambda member: _weight(session, member), reverse=True)


def _weight(session: str, member: str) -> bytes:
    return blake2b(f"{member}\0{session}".encode(), digest_size=8).digest()
