"""All servers switch, or none. Check each, switch all at once, and after a failure go back on those
that switched. If the state of a vanished server is unknown, the report has the command to run for
it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proto import admin_pb2 as pb
from server.commands.fleet.members import SHORT, TAKES_TRAFFIC, UNREACHABLE, Member, look_all, why
from trefoil import TrefoilError

Report = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Switched:
    """`whole`: every server serves the requested bundle. `same`: every server that answers serves
    what it served before. If neither holds, `left` names the servers to look at."""

    whole: bool
    same: bool
    reason: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    members: Sequence[Member]
    timeout_s: float
    report: Report

    async def activate(
        self, prefix: str, canary_share: float, canary_minutes: float, reason: str = ""
    ) -> Switched:
        """Each server must have the stamp in memory: loaded, or warm as its standby."""
        await look_all(self.members, self.timeout_s)
        stamps = {member.full_stamp(prefix) for member in self.members} - {""}
        if len(stamps) != 1:
            found = "no server has it" if not stamps else f"{len(stamps)} stamps begin so"
            return Switched(False, True, f"{prefix}: {found}; see: server fleet status")
        stamp = stamps.pop()
        faults = [f for member in self.members if (f := _not_ready_for(member, stamp))]
        if faults:
            return Switched(False, True, "; ".join(faults))
        asked = [member for member in self.members if member.stamp != stamp]
        request = pb.ActivateRequest(
            stamp=stamp,
            canary_share=canary_share,
            canary_minutes=canary_minutes,
            reason=reason,
        )

        def done(member: Member) -> bool:
            if canary_share:
                return stamp == member.having("canary")
            return stamp == member.stamp

        async def forth(member: Member) -> Any:
            return await member.activate(request)

        async def back(member: Member, reason: str) -> Any:
            return await member.roll_back(reason)

        how = "canary of " if canary_share else ""
        return await self._all_or_none(f"{how}{stamp[:SHORT]}", asked, forth, back, done)

    async def roll_back(self, reason: str) -> Switched:
        """Each server must keep the same previous bundle warm."""
        await look_all(self.members, self.timeout_s)
        canaries = [member for member in self.members if member.having("canary")]
        targets = {member.having("standby") for member in self.members}
        before = {member.address: member.stamp for member in self.members}
        if not canaries and ("" in targets or len(targets) > 1):
            rows = ", ".join(
                f"{m.label}: {m.having('standby')[:SHORT] or m.note or 'none'}"
                for m in self.members
            )
            return Switched(False, True, f"the servers do not keep one bundle warm: {rows}")
        target = "" if canaries else targets.pop()

        def done(member: Member) -> bool:
            return not member.having("canary") if canaries else member.stamp == target

        async def forth(member: Member) -> Any:
            return await member.roll_back(reason)

        async def back(member: Member, _reason: str) -> Any:
            if not canaries:  # a canary that was ended is not started again
                await member.activate(pb.ActivateRequest(stamp=before[member.address]))

        name = f"back to {target[:SHORT]}" if target else "the end of the canary"
        return await self._all_or_none(name, canaries or self.members, forth, back, done)

    async def _all_or_none(
        self,
        name: str,
        asked: Sequence[Member],
        forth: Callable[[Member], Awaitable[Any]],
        back: Callable[[Member, str], Awaitable[Any]],
        done: Callable[[Member], bool],
    ) -> Switched:
        errors = await self._each(asked, forth)
        # An answer may be lost, so look at what each server serves.
        await look_all(asked, self.timeout_s)
        failed = [m for m in asked if not done(m)]
        for member in asked:
            error = errors.get(member.address) or member.note or "it did not switch"
            self.report(f"{member.label}: {'switched' if done(member) else error}")
        if not failed:
            return Switched(True, False, f"{name} on {len(asked)} servers")
        first = failed[0]
        cause = errors.get(first.address) or first.note or "it did not switch"
        reason = f"fleet: {name} failed on {first.label}: {cause}"
        switched = [m for m in asked if done(m)]
        stuck = await self._each(switched, lambda member: back(member, reason))
        await look_all(switched, self.timeout_s)
        left = [m for m in switched if done(m) or m.state == UNREACHABLE]
        left += [m for m in failed if m.state == UNREACHABLE]
        for member in switched:
            self.report(f"{member.label}: {stuck.get(member.address) or 'went back'}")
        return Switched(False, not left, reason, tuple(m.label for m in left))

    async def _each(
        self, members: Sequence[Member], call: Callable[[Member], Awaitable[Any]]
    ) -> dict[str, str]:
        """Address -> error, for the servers where the call failed."""

        async def one(member: Member) -> str:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await call(member)
            except (TrefoilError, TimeoutError) as error:
                return why(error, self.timeout_s)
            return ""

        found = await asyncio.gather(*(one(member) for member in members))
        return {m.address: error for m, error in zip(members, found, strict=True) if error}


def _not_ready_for(member: Member, stamp: str) -> str:
    """Why this server cannot switch to the stamp now; "" if it can."""
    if member.state not in TAKES_TRAFFIC:
        return f"{member.label} is {member.state}: {member.note}"
    if member.stamp == stamp:
        return ""
    roles = member.roles.get(stamp, ())
    if not any(role.startswith(("loaded", "standby", "canary")) for role in roles):
        return f"{member.label} has not loaded {stamp[:SHORT]} (server fleet load BUNDLE)"
    return ""
