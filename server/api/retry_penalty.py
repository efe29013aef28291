"""Slows down callers whose calls are refused, so that the refusals do not use up the capacity they
protect: a connection that ignores RetryInfo, and a host whose requests are wrong or too many.

A connection that ignores RetryInfo: a call that comes too early is held until the time that
RetryInfo gave. Callers would answer immediate refusals with immediate retries.

A connection may carry many callers, each with its own time. So it may have as many refusals
outstanding as it has had calls open at once; a call beyond these is early. This is a leaky bucket,
as in the generic cell rate algorithm (ITU-T I.371).

A host whose requests are wrong or that has too many calls open: its refusals leave at a limited
rate. Only they wait, never a call that is served, which may come from another program at the same
address.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp

# How long a connection keeps the largest number of callers that it had at once, after the time of
# its last refusal has come: until then, callers that wait have no call open.
CALLERS_KEPT_S = 10.0
# Each holds its call and the bytes that gRPC receives of an unread request (api/listener.py).
MOST_HELD = 256
KEPT_S = 0.1  # this much of a caller's deadline is left, so that it can read the reason, ...
MOST_SHARE = 0.5  # ... or this share of it, whichever is less


@dataclass(slots=True)
class _Peer:
    """`outstanding`: refusals whose time has not come, at the moment `at`."""

    outstanding: float = 0.0
    asked_s: float = 1.0
    callers: float = 1.0
    at: float = 0.0
    open: int = 0

    def pass_time(self, now: float) -> None:
        passed_s = now - self.at
        waited_s = min(passed_s, self.outstanding * self.asked_s / self.callers)
        self.outstanding -= waited_s * self.callers / self.asked_s
        kept = exp(-(passed_s - waited_s) / CALLERS_KEPT_S)
        self.callers = max(self.callers * kept, self.open, 1.0)
        self.at = now

    @property
    def early_s(self) -> float:
        """Seconds until its next caller is due."""
        return max(self.outstanding - self.callers + 1, 0.0) * self.asked_s / self.callers


@dataclass(eq=False)
class _Holding:
    """Invariant: at most `most_held` calls sleep at the same time."""

    most_held: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        self.held = 0

    async def _held(self, wait_s: float) -> bool:
        """Sleep; False at once when there is nothing to wait for, or no room."""
        if wait_s <= 0 or self.held >= self.most_held:
            return False
        self.held += 1
        try:
            await self.sleep(wait_s)
        finally:
            self.held -= 1
        return True


@dataclass(eq=False)
class RetryPenalty(_Holding):
    """Invariant: at most `most_peers` entries and `most_held` sleeping calls, so that the penalty
    itself cannot be overloaded; beyond that, calls are not held."""

    most_held: int = MOST_HELD
    longest_s: float = 1.0
    most_peers: int = 4096
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        super().__post_init__()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._latest = 0.0  # no connection is early after this time

    @property
    def active(self) -> bool:
        """Whether any connection could be early now."""
        return self.clock() < self._latest

    @contextmanager
    def open_call(self, peer: str) -> Iterator[None]:
        """Count a call of this connection while it is open."""
        known = self._known(peer)
        known.open += 1
        if known.open > known.callers:
            known.callers = known.open
        try:
            yield
        finally:
            known.open -= 1

    def refused(self, peer: str, retry_after_s: float) -> None:
        """Note that a call of this connection was refused, with a time to retry after."""
        now = self.clock()
        known = self._known(peer)
        self._peers.move_to_end(peer)
        known.pass_time(now)
        known.asked_s = max(retry_after_s, 1e-3)
        known.outstanding += 1
        self._latest = max(self._latest, now + known.outstanding * known.asked_s)

    def early_s(self, peer: str) -> float:
        """How many seconds too early this connection is; 0 if it waited as long as RetryInfo
        asked."""
        known = self._peers.get(peer)
        if known is None or not known.outstanding:
            return 0.0
        known.pass_time(self.clock())
        return known.early_s

    def asked_s(self, peer: str) -> float:
        """The time that this connection was last asked to wait; 0 if it was not asked."""
        known = self._peers.get(peer)
        return known.asked_s if known is not None and known.outstanding else 0.0

    async def hold(self, peer: str, remaining_s: float | None) -> bool:
        """Wait until a call that comes too early is due; False if it was not held.

        `remaining_s` is the time left until the caller's deadline. Nearly all of it may be spent
        here, but the caller must receive the reason and not DEADLINE_EXCEEDED.
        """
        return await self._held(_within(min(self.early_s(peer), self.longest_s), remaining_s))

    def _known(self, peer: str) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer(at=self.clock())
            while len(self._peers) > self.most_peers:
                self._peers.popitem(last=False)
        return known


@dataclass(eq=False)
class RefusalPace(_Holding):
    """`per_s` refusals a second of one host leave, after `burst` that leave at once. One refusal
    costs the front 0.5 to 2 ms, nearly all of it gRPC's (docs/benchmarks.md).

    Invariant: as of RetryPenalty; a refusal that cannot be held leaves at once.
    """

    most_held: int = 1024
    per_s: float = 100.0
    burst: int = 50
    longest_s: float = 10.0
    most_hosts: int = 4096
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        super().__post_init__()
        self._due: OrderedDict[str, float] = OrderedDict()  # host -> when its last refusal was due

    async def hold(self, host: str, remaining_s: float | None) -> None:
        """Return when a refusal of this host may leave."""
        now = self.clock()
        due = max(self._due.get(host, now), now) + 1 / self.per_s
        wait_s = due - now - self.burst / self.per_s
        # One that leaves earlier than its turn takes none from those that come later.
        self._due[host] = min(due, now + self.longest_s + self.burst / self.per_s)
        self._due.move_to_end(host)
        if len(self._due) > self.most_hosts:
            self._due.popitem(last=False)
        await self._held(_within(min(wait_s, self.longest_s), remaining_s))


def _within(wait_s: float, remaining_s: float | None) -> float:
    """As much of it as the caller's deadline allows, so that the caller still reads the reason."""
    if remaining_s is None:
        return wait_s
    return min(wait_s, max(remaining_s - KEPT_S, remaining_s * MOST_SHARE))
