"""Channels to servers, and what a broken connection may mean."""

from __future__ import annotations

import ipaddress

import grpc
from grpc import aio

from console.state.access import ConnectionAccess

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # This module's own backoff decides when to connect again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def unprotected(address: str, access: ConnectionAccess) -> bool:
    """Whether plaintext leaves this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if access.tls or host == "localhost" or address.startswith("unix:"):
        return False
    found = _literal(host)
    return found is None or not found.is_loopback


def open_channel(address: str, access: ConnectionAccess) -> aio.Channel:
    """Raises OSError when a file of `access` cannot be read."""
    options = (*_OPTIONS, *direct(address))
    if not access.tls:
        return aio.insecure_channel(address, options=options)
    roots, key, certificate = (
        file.read_bytes() if file else None for file in (access.ca, access.key, access.cert)
    )
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    return aio.secure_channel(address, credentials, options=options)


def direct(address: str) -> tuple[tuple[str, int], ...]:
    """Channel options that bypass a proxy, as in the Python client: gRPC would use `http_proxy` for
    loopback and literal addresses too."""
    host = address.rpartition(":")[0].strip("[]")
    return (("grpc.enable_http_proxy", 0),) if host == "localhost" or _literal(host) else ()


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, or None if `host` is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def refused(message: str, access: ConnectionAccess) -> str:
    """What a broken TLS handshake may mean: the client sees no reason, only the server's log has
    it."""
    if "Socket closed" not in message and "Connection reset" not in message:
        return ""
    if "Stream removed" in message:  # the connection had worked, and was then cut
        return ""
    if not access.tls:
        return ". The server may require TLS: --tls --ca FILE"
    wanted = "another" if access.cert else "a"
    return f". The server may require {wanted} valid certificate that it trusts: --cert, --key"


def named(access: ConnectionAccess, actor: str) -> tuple[tuple[str, str], ...]:
    """The metadata plus the caller's name, which a server without credentials records."""
    plain = "".join(letter for letter in actor if " " < letter <= "~")[:100]
    return (*metadata(access), ("trefoil-client", plain or "console"))


def metadata(access: ConnectionAccess) -> tuple[tuple[str, str], ...]:
    """The token as gRPC metadata. It is read again for every call, as tokens are rotated."""
    if access.token_file is None:
        return ()
    return (("authorization", f"Bearer {access.token_file.read_text().strip()}"),)
