"""How a server is reached: plain or TLS, with or without a token."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio


@dataclass(frozen=True, slots=True)
class Access:
    """Files are read when a channel is opened, in the I/O thread."""

    tls: bool = False
    ca_file: Path | None = None
    token_file: Path | None = None


_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Our own backoff decides when to try again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def unprotected(address: str, access: Access) -> bool:
    """Plaintext that leaves this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if access.tls or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def open_channel(address: str, access: Access) -> aio.Channel:
    """Raises OSError when a file of `access` cannot be read."""
    if not access.tls:
        return aio.insecure_channel(address, options=_OPTIONS)
    roots = access.ca_file.read_bytes() if access.ca_file else None
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return aio.secure_channel(address, credentials, options=_OPTIONS)


def metadata(access: Access) -> tuple[tuple[str, str], ...]:
    """The token as gRPC metadata. Read anew for every call: tokens are rotated."""
    if access.token_file is None:
        return ()
    return (("authorization", f"Bearer {access.token_file.read_text().strip()}"),)
