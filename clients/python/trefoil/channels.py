"""The channels of a client: one to each server, or one over all of them with gRPC's ring hash."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Sequence
from typing import Any

import grpc

from trefoil._proto import inference_pb2_grpc
from trefoil.access import Access
from trefoil.servers import Server

RENDEZVOUS = "rendezvous"
RING_HASH = "ring_hash"
# gRPC reads this variable when it makes a channel with such a configuration, not on import.
RING_HASH_SWITCH = "GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"
RING_HASH_CONFIG = {
    "loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": "session-id"}}]
}
USER_AGENT = "trefoil-python"
Options = tuple[tuple[str, Any], ...]
OPTIONS: Options = (
    ("grpc.max_receive_message_length", -1),
    # Detects a server that vanished without closing; servers allow a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # How long one attempt to connect may take, and the waits between attempts.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # gRPC's retries are off: this client's own know the deadline, the other servers and what was
    # delivered already.
    ("grpc.enable_retries", 0),
)


def open_channel(
    target: str, access: Access | None, user_agent: str = USER_AGENT, more: Options = ()
) -> grpc.aio.Channel:
    """Raises OSError when a file of `access` cannot be read."""
    options = (*OPTIONS, ("grpc.primary_user_agent", user_agent), *direct(target), *more)
    if access is None:
        return grpc.aio.insecure_channel(target, options=options)
    if access.name:
        options = (*options, ("grpc.ssl_target_name_override", access.name))
    return grpc.aio.secure_channel(target, access.credentials(), options=options)


def direct(target: str) -> Options:
    """Options to bypass a proxy. gRPC calls `http_proxy` for every target that `no_proxy` does not
    list. A proxy cannot reach the caller's own loopback, and an address that the client has
    resolved itself is used as it is."""
    addresses = target.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    names = [one for one in addresses if not _is_literal(one) and not one.startswith("localhost:")]
    return () if names else (("grpc.enable_http_proxy", 0),)


def _is_literal(address: str) -> bool:
    try:
        return bool(_family(address))
    except ValueError:
        return False


def open_servers(addresses: Sequence[str], access: Access | None, balance: str) -> list[Server]:
    """Raises ValueError when the addresses cannot be balanced this way."""
    if not addresses or len(set(addresses)) < len(addresses):
        raise ValueError("servers: give at least one address, and each address once")
    if balance == RING_HASH:
        return [_ring(addresses, access)]
    if balance != RENDEZVOUS:
        raise ValueError(f"balance: {balance!r} is neither {RENDEZVOUS} nor {RING_HASH}")
    return [open_server(address, access) for address in addresses]


def open_server(address: str, access: Access | None) -> Server:
    return _server(address, open_channel(address, access))


def _ring(addresses: Sequence[str], access: Access | None) -> Server:
    if access is not None and not access.name:
        raise ValueError("access: over a ring hash the name in the certificates must be given")
    # Without it every call fails: "hash attribute not present".
    os.environ[RING_HASH_SWITCH] = "true"
    more = (("grpc.service_config", json.dumps(RING_HASH_CONFIG)),)
    return _server(",".join(addresses), open_channel(ring_target(addresses), access, more=more))


def ring_target(addresses: Sequence[str]) -> str:
    """The list of addresses in gRPC's form: numeric addresses only, all of one family."""
    families = {_family(address) for address in addresses}
    if len(families) > 1:
        raise ValueError("servers: IPv4 and IPv6 cannot be on one ring")
    return f"{families.pop()}:{','.join(addresses)}"


def _family(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return f"ipv{ipaddress.ip_address(host).version}"
    except ValueError:
        raise ValueError(
            f"servers: a ring hash takes numeric addresses, {host!r} is a name"
        ) from None


def _server(name: str, channel: grpc.aio.Channel) -> Server:
    return Server(name, channel, inference_pb2_grpc.InferenceStub(channel))  # type: ignore[no-untyped-call]
