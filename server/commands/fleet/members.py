"""The servers of a fleet as an operator's command sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from proto import admin_pb2, observe_pb2
from server.commands.client import CommandConnection
from server.commands.connection import reason_of
from trefoil import TrefoilError

UNREACHABLE = "UNREACHABLE"
TAKES_TRAFFIC = ("READY", "DEGRADED")
SHORT = 12


@dataclass
class Member:
    """One server and what it last reported. `roles` maps each stamp in its memory and in its store
    to its roles: serves, standby, loaded, canary; current, previous."""

    address: str
    client: CommandConnection
    name: str = ""
    state: str = UNREACHABLE
    stamp: str = ""
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    async def look(self, timeout_s: float) -> None:
        """Ask the server. A server that does not answer is UNREACHABLE, with the error as its
        note."""
        try:
            async with asyncio.timeout(timeout_s):
                snapshot = (await self.client.state(timeout_s)).snapshot
                listed = await self.client.unary(
                    self.client.admin.Bundles, admin_pb2.BundlesRequest()
                )
        except (TrefoilError, TimeoutError) as error:
            self.state, self.roles = UNREACHABLE, {}
            self.note = why(error, timeout_s)
            return
        self.name = snapshot.server
        self.state = observe_pb2.ServerState.Name(snapshot.state)
        self.note = "" if self.state == "READY" else snapshot.reason
        self.roles = {one.stamp: tuple(one.roles) for one in listed.bundles}
        # Callers that ask at nearly the same time share a snapshot, so it may be older than a
        # switch. For a bundle that is not in the store it is the only source.
        self.stamp = self.having("serves") or snapshot.stamp

    def load(self, path: str) -> AsyncIterator[admin_pb2.Progress]:
        """Load the bundle at `path`, a directory on the server's host."""
        return self.client.stream(self.client.admin.Load, admin_pb2.LoadRequest(path=path))

    async def activate(self, request: admin_pb2.ActivateRequest) -> None:
        await self.client.unary(self.client.admin.Activate, request)

    async def roll_back(self, reason: str) -> None:
        request = admin_pb2.RollbackRequest(reason=reason)
        await self.client.unary(self.client.admin.Rollback, request)

    @property
    def label(self) -> str:
        return self.name or self.address

    def having(self, role: str) -> str:
        """The stamp with this role, "" if there is none. A canary's role is followed by its
        share."""
        for stamp, roles in self.roles.items():
            if any(one.startswith(role) for one in roles):
                return stamp
        return ""

    def full_stamp(self, prefix: str) -> str:
        """The one stamp in its memory or store with this prefix; "" when there is none or more than
        one."""
        known = {stamp for stamp in (*self.roles, self.stamp) if stamp.startswith(prefix)}
        return known.pop() if len(known) == 1 else ""


def why(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TrefoilError):
        return reason_of(error) if error.unreachable else error.message or error.code
    return f"no answer within {timeout_s:g} s"


async def look_all(members: Sequence[Member], timeout_s: float) -> None:
    await asyncio.gather(*(member.look(timeout_s) for member in members))


def verdict(members: Sequence[Member]) -> tuple[bool, str]:
    """(whether every server serves one stamp and takes traffic, the sentence)."""
    stamps = {member.stamp for member in members if member.state != UNREACHABLE}
    out = [member.label for member in members if member.state not in TAKES_TRAFFIC]
    if len(stamps) > 1:
        counts = ", ".join(
            f"{stamp[:SHORT] or 'nothing'} on {sum(m.stamp == stamp for m in members)}"
            for stamp in sorted(stamps)
        )
        return False, f"MIXED: {counts} of {len(members)} servers"
    if out:
        return False, f"{len(members) - len(out)} of {len(members)} serve; not: {', '.join(out)}"
    return True, f"{min(stamps)[:SHORT]} on {len(members)} of {len(members)} servers"
