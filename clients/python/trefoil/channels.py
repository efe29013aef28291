"""The channels of a client: one to each server, or one over all of them with gRPC's ring hash."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Sequence
from typing import Any

import grpc

from proto import inference_pb2_grpc
from trefoil.access import Access
from trefoil.servers import Server

RENDEZVOUS = "rendezvous"
RING_HASH = "ring_hash"
# gRPC reads it when a channel with such a configuration is made, not when it is imported.
RING_HASH_SWITCH = "GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"
RING_HASH_CONFIG = {
    "loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": "session-id"}}]
}
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.primary_user_agent", "trefoil-python"),
    # A server that vanished without a word is noticed; servers allow a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Connecting may take so long, and is tried so often.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Ours know the deadline, the other servers and what was delivered already.
    ("grpc.enable_retries", 0),
)


def open_servers(addresses: Sequence[str], access: Access | None, balance: str) -> list[Server]:
    """Raises ValueError for what cannot be balanced so."""
    if not addresses or len(set(addresses)) < len(addresses):
        raise ValueError("servers: at least one address is needed, each once")
    if balance == RING_HASH:
        return [_ring(addresses, access)]
    if balance != RENDEZVOUS:
        raise ValueError(f"balance: {balance!r} is neither {RENDEZVOUS} nor {RING_HASH}")
    return [_server(address, address, access, OPTIONS) for address in addresses]


def _ring(addresses: Sequence[str], access: Access | None) -> Server:
    if access is not None and not access.name:
        raise ValueError("access: over a ring hash the name in the certificates must be given")
    os.environ[RING_HASH_SWITCH] = "true"  # else every call fails: "hash attribute not present"
    options = (*OPTIONS, ("grpc.service_config", json.dumps(RING_HASH_CONFIG)))
    return _server(",".join(addresses), ring_target(addresses), access, options)


def ring_target(addresses: Sequence[str]) -> str:
    """A list of addresses as gRPC resolves it: numbers only, all of one family."""
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


def _server(
    name: str, target: str, access: Access | None, options: tuple[tuple[str, Any], ...]
) -> Server:
    if access is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        if access.name:
            options = (*options, ("grpc.ssl_target_name_override", access.name))
        channel = grpc.aio.secure_channel(target, access.credentials(), options=options)
    return Server(name, channel, inference_pb2_grpc.InferenceStub(channel))  # type: ignore[no-untyped-call]
