"""Parses --listen: HOST:PORT, :PORT for every address, [V6]:PORT, unix:/PATH.

Refuses to listen beyond this machine in plaintext without --insecure.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.errors import ServerError

UNIX = "unix:"
LONGEST_PATH = 107  # bytes of sun_path on Linux, without its terminating zero


class CannotListen(ServerError):
    """The address is in use, malformed, or open to the network without --insecure."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`host` as a resolver accepts it, "" for every address; or the `path` of a socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def target(self) -> str:
        """The address in gRPC's notation. For every address it is the IPv6 one, which includes
        IPv4."""
        if self.path:
            return UNIX + self.path
        return f"{_bracketed(self.host or '::')}:{self.port}"

    def bound_to(self, port: int) -> str:
        """The address that clients on this machine use, once the port is known."""
        if self.path:
            return UNIX + self.path
        return f"{_bracketed(self.host) or '127.0.0.1'}:{port}"

    @property
    def local(self) -> bool:
        """Whether the traffic stays on this machine."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def release(self) -> None:
        """Remove the socket's file: the next start would take it for a running server."""
        if self.path and _is_socket(self.path):
            os.unlink(self.path)


def listen_address(listen: str, anywhere: bool, flag: str = "--listen") -> ListenAddress:
    """Parse an address. Raises CannotListen unless it is well-formed, and local or allowed
    `anywhere`."""
    if listen.startswith(UNIX):
        return _unix(listen, flag)
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise CannotListen(f"{flag} {listen!r} is not HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH")
    address = ListenAddress(host.strip("[]"), int(port))
    if not (anywhere or address.local):
        name = host or "every address of this host"
        message = f"{name} can be reached from the network and nothing would be encrypted"
        raise CannotListen(f"{flag} {listen}: {message}; --insecure accepts that")
    return address


def check_free(listen: str, address: ListenAddress, flag: str = "--listen") -> None:
    """Check that the address can be bound, as gRPC does not suffice: when a bind fails it logs the
    reason without returning it; it accepts one address of a name while another server uses the
    other one; and it removes the socket of a running server. Raises CannotListen."""
    if address.path:
        if why := _path_fault(address.path):
            raise taken(listen, why, flag)
        return
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise taken(listen, error.strerror or str(error), flag) from None
    faults = [fault for family, _, _, _, at in found if (fault := _fault(family, at))]
    # IPv6 may be disabled: an address that cannot be bound is ignored if another can.
    if len(faults) == len(found) or any(f.errno == errno.EADDRINUSE for f in faults):
        raise taken(listen, faults[0].strerror or str(faults[0]), flag)


def taken(listen: str, why: str, flag: str = "--listen") -> CannotListen:
    return CannotListen(f"cannot listen on {listen}: {why} ({flag} HOST:PORT chooses another)")


def _unix(listen: str, flag: str) -> ListenAddress:
    path = os.path.abspath(listen.removeprefix(UNIX)) if listen != UNIX else ""
    if not path or len(os.fsencode(path)) > LONGEST_PATH:
        raise CannotListen(
            f"{flag} {listen!r}: a socket's path has 1 to {LONGEST_PATH} bytes, as in "
            "unix:/run/trefoil.sock"
        )
    return ListenAddress(path=path)


def _path_fault(path: str) -> str:
    """Why a socket cannot be created there, "" if it can. A socket left by a dead server is not a
    fault."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"{folder} is not a directory"
    if not os.access(folder, os.W_OK):
        return f"{folder} cannot be written"
    if not os.path.lexists(path):
        return ""
    if not _is_socket(path):
        return "there is a file of another kind"
    return "" if _refuses(lambda to: to.connect(path)) else "Address already in use"


def _refuses(connect: Callable[[socket.socket], None]) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        try:
            connect(attempt)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _fault(family: int, address: Any) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            attempt.bind(address)
    except OSError as error:
        return error
    return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
