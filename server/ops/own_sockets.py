"""The connections of one port of this process, from the kernel.

gRPC reports neither how many connections a host has nor how much of a message has arrived. The
kernel reports both for every descriptor of this process.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DESCRIPTORS = Path("/proc/self/fd")
# struct tcp_info of linux/tcp.h: tcpi_state is its first byte, tcpi_bytes_received is there since
# Linux 4.1. TCP_CLOSE is in include/net/tcp_states.h.
BYTES_RECEIVED_AT = 128
BYTES_RECEIVED = struct.Struct("@Q")
TCP_CLOSE = 7


@dataclass(frozen=True, slots=True)
class OwnSocket:
    """`received`: bytes since the connection began, TLS and HTTP/2 included. `number` is unique
    among the sockets of this host, but does not order them by age: Linux gives each CPU numbers in
    blocks of 1,024, so a later connection accepted by another CPU may have a smaller one."""

    descriptor: int
    number: int
    received: int
    first_look: int  # the number of the check that found it first


Known = tuple[str, OwnSocket]  # with its peer


class OwnSockets:
    """Connections by peer, named as gRPC names it. Without /proc there are none."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: dict[str, OwnSocket] = {}
        self._looks = 0

    def look(self) -> Mapping[str, OwnSocket]:
        """All connections of the port. For each descriptor of the process about 10 us, and 3 us
        for a connection that is known: its peer cannot change."""
        try:
            names = os.listdir(DESCRIPTORS)
        except OSError:  # there is no /proc, or no descriptor left to read it
            names = []
        self._looks += 1
        known = {own.descriptor: (peer, own) for peer, own in self._known.items()}
        found = (_again(known, int(name)) or self._connection(int(name)) for name in names)
        self._known = dict(filter(None, found))
        return self._known

    def received(self, peers: Iterable[str]) -> dict[str, int]:
        """Bytes received from each of these peers; closed connections are left out."""
        peers = list(peers)
        if any(peer not in self._known for peer in peers):
            self.look()
        found = {}
        for peer in peers:
            own = self._known.get(peer)
            now = _now(own) if own is not None else None
            if now is not None:
                found[peer] = now.received
        return found

    def end(self, peer: str) -> bool:
        """Shut the connection down; its owner in gRPC then finds it closed."""
        own = self._known.get(peer)
        if own is None:
            return False
        try:
            # A new descriptor: the number may be another connection's by now.
            copy = os.dup(own.descriptor)
        except OSError:
            return False
        try:
            end = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            return False
        with end, suppress(OSError):
            if _peer_of(end) == peer:
                end.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _connection(self, descriptor: int) -> Known | None:
        try:
            # Borrowed: it does no harm if this number has just become another socket.
            end = socket.socket(fileno=descriptor)
        except OSError:
            return None  # not a socket, or closed in between
        try:
            if end.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if end.getsockname()[1] != self._port:
                return None
            number, received = os.fstat(descriptor).st_ino, _received(end)
            if received is None:
                return None
            return _peer_of(end), OwnSocket(descriptor, number, received, self._looks)
        except OSError:
            return None  # it is listening, or not connected any more
        finally:
            end.detach()


def _again(known: Mapping[int, Known], descriptor: int) -> Known | None:
    """A connection that was known before, if this descriptor is still it."""
    before = known.get(descriptor)
    own = _now(before[1]) if before is not None else None
    return (before[0], own) if before is not None and own is not None else None


def _now(own: OwnSocket) -> OwnSocket | None:
    """The same connection now; None when it is closed, or its descriptor is something else."""
    try:
        if os.fstat(own.descriptor).st_ino != own.number:
            return None
        # Borrowed, as below; with all three numbers given it takes no system call.
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=own.descriptor)
    except OSError:
        return None
    try:
        received = _received(end)
    except OSError:
        return None
    finally:
        end.detach()
    return None if received is None else replace(own, received=received)


def _peer_of(end: socket.socket) -> str:
    """The peer of a socket. Raises OSError when it is not connected."""
    name: tuple[Any, ...] = end.getpeername()
    address = ipaddress.ip_address(name[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if address.version == 4 or mapped is not None:
        return f"ipv4:{mapped or address}:{name[1]}"
    return f"ipv6:%5B{name[0]}%5D:{name[1]}"


def _received(end: socket.socket) -> int | None:
    """Bytes received, 0 where the kernel does not count them; None for a closed connection."""
    size = BYTES_RECEIVED_AT + BYTES_RECEIVED.size
    info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    if info[0] == TCP_CLOSE:
        return None
    if len(info) < size:
        return 0
    number: int = BYTES_RECEIVED.unpack_from(info, BYTES_RECEIVED_AT)[0]
    return number
