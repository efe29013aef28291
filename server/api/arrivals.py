"""Limits what callers make the server hold before a call has begun: connections, and messages that
have arrived only in part. Both are limited in total and for each host.

gRPC holds the part that has arrived, and reports a message only when it is complete. So the bytes
held are those that the kernel has received on the connection, minus those that were handed to
calls. A message is read only once its call has a place and its caller is allowed to make the call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from server.ops.own_sockets import OwnSocket
from server.request.caller import host_of
from server.request.status import Refused, bad_input
from server.types import Fault
from server.values import MIB

logger = logging.getLogger(__name__)

LOOK_S = 0.05  # time between checks of what has arrived, while a call waits for a message
COUNT_S = 1.0  # time between counts of all connections
LOG_EVERY_S = 60.0
# For a call with one message: 16 MiB in this time are 1.1 Mbit/s.
LONGEST_ARRIVAL_S = 120.0
RETRY_AFTER_S = 1.0
# Bytes that arrive with a message of n bytes: metadata of the usual size, HTTP/2 frames and TLS
# records (less than n / 64 together).
HEAD_BYTES = 1024
FRAMING = 64


class Sockets(Protocol):
    """What Arrivals needs of server/ops/own_sockets.py."""

    def look(self) -> Mapping[str, OwnSocket]: ...

    def received(self, peers: Iterable[str]) -> dict[str, int]: ...

    def end(self, peer: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class ArrivalLimits:
    """Limits of the bytes of messages that have begun to arrive, and of connections, in all and for
    one host."""

    bytes_in_all: int
    bytes_of_host: int
    connections_in_all: int
    connections_of_host: int
    message_bytes: int  # the limit of one message


@dataclass(eq=False, slots=True)
class PendingRead:
    task: asyncio.Task[Any]
    since: float
    one_message: bool  # the call consists of this message
    fault: Fault | None = None  # why it was cut off


@dataclass(slots=True)
class PeerConnection:
    """One connection. `handed`: the bytes on the wire that belong to messages already handed to
    calls, with their overhead."""

    host: str
    handed: int = 0
    reads: set[PendingRead] = field(default_factory=set)
    holds: int = 0  # bytes waiting for the rest of their message, at the last check

    def settle(self, received: int, message_bytes: int) -> None:
        """# Invariant: 0 <= holds <= bytes that all pending messages could have."""
        if not self.reads:
            self.handed = received
        # What was handed is estimated; an estimate above the truth must not hide later bytes.
        self.handed = min(self.handed, received)
        self.holds = min(received - self.handed, message_bytes * len(self.reads))


@dataclass(eq=False)
class Arrivals:
    """`sockets` None: the connections cannot be read (a unix socket, or another operating system),
    so that only the time is limited."""

    limits: ArrivalLimits
    sockets: Sockets | None = None
    clock: Callable[[], float] = time.monotonic
    longest_s: float = LONGEST_ARRIVAL_S

    def __post_init__(self) -> None:
        self._connections: dict[str, PeerConnection] = {}
        self._counted_at = 0.0
        self._logged_at = -math.inf
        self._reading = asyncio.Event()  # set while a call may wait for a message
        self.open = 0  # number of connections
        self.refused: Counter[str] = Counter()

    @property
    def holds(self) -> int:
        """Bytes of messages that have only begun to arrive."""
        return sum(one.holds for one in self._connections.values())

    async def read(self, context: Any, one_message: bool) -> Any:
        """The next message of the call, or grpc.aio.EOF. Raises Refused when too many bytes are
        arriving, or the message takes too long."""
        task = asyncio.current_task()
        assert task is not None
        peer = context.peer()
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = PeerConnection(host_of(peer))
        read = PendingRead(task, self.clock(), one_message)
        connection.reads.add(read)
        self._reading.set()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if read.fault is None or task.uncancel():
                raise
            raise Refused(read.fault) from None
        finally:
            connection.reads.discard(read)
        size = 0
        if message is not grpc.aio.EOF:
            size = len(message) if isinstance(message, bytes) else message.ByteSize()
        connection.handed += size + size // FRAMING + HEAD_BYTES
        return message

    async def one(self, context: Any) -> Any:
        """The only message of the call."""
        message = await self.read(context, one_message=True)
        if message is grpc.aio.EOF:
            raise Refused(bad_input("request", "NO_MESSAGE", "the call ended without a message"))
        return message

    async def all(self, context: Any) -> AsyncIterator[Any]:
        while (message := await self.read(context, one_message=False)) is not grpc.aio.EOF:
            yield message

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNT_S):
                    await self._reading.wait()
                await asyncio.sleep(LOOK_S)
            try:
                self.look()
            # The edge of the loop: without it the limits would no longer be checked.
            except Exception:
                logger.exception("messages in arrival could not be counted")

    def look(self) -> None:
        now = self.clock()
        received = self._received(now)
        for peer, connection in self._connections.items():
            connection.settle(received.get(peer, connection.handed), self.limits.message_bytes)
        self._cut_the_late(now)
        self._cut_the_largest()
        # A connection that is gone, or that the kernel never listed, needs no further record.
        gone = [p for p, c in self._connections.items() if not c.reads and p not in received]
        for peer in gone:
            del self._connections[peer]
        if not any(one.reads for one in self._connections.values()):
            self._reading.clear()

    def _received(self, now: float) -> Mapping[str, int]:
        if self.sockets is None:
            return {}
        if now - self._counted_at < COUNT_S:
            idle = [peer for peer, one in self._connections.items() if not one.reads]
            waiting = [peer for peer, one in self._connections.items() if one.reads]
            handed = {peer: self._connections[peer].handed for peer in idle}
            return handed | self.sockets.received(waiting)
        self._counted_at = now
        found = self.sockets.look()
        self._end_surplus(found)
        return {peer: own.received for peer, own in found.items()}

    # ---- what is too much --------------------------------------------------------------------

    def _end_surplus(self, found: Mapping[str, OwnSocket]) -> None:
        """End the newest connections of a host that has too many, and then of all, as the older
        ones are in use. Among those found in one check, connections without a call go first."""
        self.open = len(found)
        hosts: dict[str, list[str]] = {}
        for peer in sorted(found, key=lambda peer: self._age(peer, found[peer])):
            hosts.setdefault(host_of(peer), []).append(peer)
        limits, left = self.limits, []
        for host, peers in hosts.items():
            self._end(peers[limits.connections_of_host :], host, "--max-connections-peer")
            left += peers[: limits.connections_of_host]
        left.sort(key=lambda peer: self._age(peer, found[peer]))
        self._end(left[limits.connections_in_all :], "this server", "--max-connections")

    def _end(self, surplus: list[str], whose: str, flag: str) -> None:
        if not surplus:
            return
        assert self.sockets is not None
        self.refused["connections"] += sum(self.sockets.end(peer) for peer in surplus)
        if self._counted_at - self._logged_at >= LOG_EVERY_S:
            self._logged_at = self._counted_at
            text = "%s has %d connections more than %s allows: the newest were ended"
            logger.warning(text, whose, len(surplus), flag)

    def _age(self, peer: str, own: OwnSocket) -> tuple[int, bool, int]:
        return own.first_look, peer not in self._connections, own.number

    def _cut_the_late(self, now: float) -> None:
        text = f"a message that has not arrived after {self.longest_s:g} s"
        fault = Fault("DEADLINE_EXCEEDED", "request", "MESSAGE_TOO_SLOW", text)
        for connection in self._connections.values():
            late = [r for r in connection.reads if now - r.since > self.longest_s]
            self._cut((r for r in late if r.one_message), fault)

    def _cut_the_largest(self) -> None:
        limits = self.limits
        hosts: Counter[str] = Counter()
        for connection in self._connections.values():
            hosts[connection.host] += connection.holds
        for host, held in hosts.items():
            if held > limits.bytes_of_host:
                of_host = [c for c in self._connections.values() if c.host == host]
                self._shrink(of_host, limits.bytes_of_host, "of one host", "--arriving-peer-mb")
        self._shrink(self._connections.values(), limits.bytes_in_all, "in all", "--arriving-mb")

    def _shrink(self, among: Iterable[PeerConnection], limit: int, whose: str, flag: str) -> None:
        """Cut off calls, starting with the connection that holds most, until the rest is within the
        limit."""
        largest = sorted(among, key=lambda one: one.holds, reverse=True)
        held = sum(one.holds for one in largest)
        for connection in largest:
            if held <= limit:
                return
            text = f"messages that have only begun to arrive hold {held / MIB:.0f} MiB; the limit "
            text += f"is {limit / MIB:.0f} MiB {whose}; {flag} raises it"
            fault = Fault("RESOURCE_EXHAUSTED", "request", "MESSAGES_ARRIVING", text, RETRY_AFTER_S)
            # A stream may wait long for its next message without having received a byte of it.
            whole = [read for read in connection.reads if read.one_message]
            self._cut(whole or list(connection.reads), fault)
            held -= connection.holds
            connection.holds = 0

    def _cut(self, reads: Iterable[PendingRead], fault: Fault) -> None:
        for read in reads:
            if read.fault is None:
                read.fault = fault
                read.task.cancel()
                self.refused["messages"] += 1


class CountedContext:
    """The context of a call, with the `read` of Arrivals; everything else is gRPC's."""

    def __init__(self, context: Any, arrivals: Arrivals) -> None:
        self._context = context
        self._arrivals = arrivals

    async def read(self) -> Any:
        return await self._arrivals.read(self._context, one_message=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
