"""Finds the servers: a fixed list, the lines of a file, or what a DNS name resolves to.

HOST:PORT              this server
dns:///HOST:PORT       a server at each address of the name, such as a headless service's
file:PATH              HOST:PORT on each line; empty lines and those with # are skipped
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

DNS = "dns:"
FILE = "file:"


def changes(targets: Sequence[str]) -> bool:
    """Whether these targets may resolve to other servers later."""
    return any(target.startswith((DNS, FILE)) for target in targets)


def tls_name(targets: Sequence[str]) -> str:
    """The name in the certificates of servers found by DNS; "" without such a target."""
    names = {_dns_name(target)[0] for target in targets if target.startswith(DNS)}
    return names.pop() if len(names) == 1 else ""


async def resolve(targets: Sequence[str]) -> tuple[str, ...]:
    """HOST:PORT of every server, in order and without repeats.

    Raises OSError when a name or a file cannot be read, ValueError for a malformed target. A caller
    that resolves again keeps the servers found before.
    """
    found = [await _addresses(target) for target in targets]
    return tuple(dict.fromkeys(address for addresses in found for address in addresses))


async def _addresses(target: str) -> list[str]:
    if target.startswith(FILE):
        return _lines(Path(target.removeprefix(FILE).removeprefix("//")))
    if not target.startswith(DNS):
        return [target]
    host, port = _dns_name(target)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = sorted({str(address[0]) for _, _, _, _, address in found})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


def _dns_name(target: str) -> tuple[str, int]:
    host, colon, port = target.removeprefix(DNS).lstrip("/").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError(f"servers: {target!r} is not dns:///HOST:PORT")
    return host.strip("[]"), int(port)


def _lines(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]
