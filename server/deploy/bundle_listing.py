"""The contents of a store of bundles, for display: sizes, ages and the roles of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proto import admin_pb2 as pb
from server.deploy.bundle_store import BundleStore, Stored
from server.routing.pool_set import PoolSet
from server.routing.router import stamp_of


@dataclass(frozen=True, slots=True)
class BundleListing:
    """`roles` are the roles on disk: what a restart, and a rollback after it, would serve."""

    stored: Stored
    bytes: int
    added: float  # unix seconds
    roles: tuple[str, ...]


def list_bundles(store: BundleStore) -> list[BundleListing]:
    """The bundles, newest first. Raises OSError."""
    linked = {"current": store.link_path("current"), "previous": store.link_path("previous")}
    found = []
    for stored in store.bundles():
        size = sum(path.stat().st_size for path in stored.path.rglob("*") if path.is_file())
        roles = tuple(role for role, path in linked.items() if path == stored.path)
        found.append(BundleListing(stored, size, stored.path.stat().st_mtime, roles))
    return sorted(found, key=lambda one: -one.added)


def roles(pool_set: PoolSet) -> dict[str, list[str]]:
    """The roles of each stamp in memory."""
    found: dict[str, list[str]] = {}
    branch, canary = pool_set.branch, pool_set.canary
    second = branch.pool if branch is not None else None
    other = "rolling in" if canary is None else f"canary {canary.share:.0%}"
    pools = ((pool_set.active, "serves"), (pool_set.standby, "standby"), (second, other))
    for pool, role in (*pools, (pool_set.candidate if second is None else None, "loaded")):
        if pool is not None and stamp_of(pool):
            found.setdefault(stamp_of(pool), []).append(role)
    return found


def bundle_message(one: BundleListing) -> pb.StoredBundle:
    return pb.StoredBundle(
        name=one.stored.name,
        stamp=one.stored.stamp,
        bytes=one.bytes,
        added_unix_ms=int(one.added * 1000),
        roles=one.roles,
        path=str(one.stored.path),
    )


def rows(bundles: Sequence[pb.StoredBundle]) -> list[tuple[str, ...]]:
    """(name, stamp, MiB, roles)."""
    return [
        (one.name, one.stamp, f"{one.bytes / (1 << 20):.1f}", ", ".join(one.roles) or "-")
        for one in bundles
    ]
