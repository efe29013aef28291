"""Putting bundles into service: the store on disk and the pools in memory, in the right order.

The switch in memory comes first, the links on disk after it: a crash in between boots the bundle
that served before, which was good a moment ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from server.bundle_store import BundleStore, Stored, StoreRefused
from server.errors import DeployRefused
from server.lineup import Lineup, Step, Switch

# (what was done, the switch or None, in words): for the journal of deploys.
Told = Callable[[str, Switch | None, str], None]


def _nobody(_action: str, _switch: Switch | None, _detail: str) -> None:
    return None


@dataclass(slots=True)
class Deployment:
    lineup: Lineup
    store: BundleStore
    told: Told = _nobody

    async def load(self, path: Path) -> AsyncGenerator[Step, None]:
        """Copy a bundle into the store, then prove it beside the active one.

        Raises DeployRefused with the evidence.
        """
        yield Step("copying", 0.0, str(path))
        try:
            stored = await asyncio.to_thread(self.store.add, path)
        except (StoreRefused, OSError) as error:
            raise self._refused(DeployRefused("store", str(error))) from None
        try:
            async with aclosing(self.lineup.load(stored.path)) as steps:
                async for step in steps:
                    yield step
        except DeployRefused as refusal:
            raise self._refused(refusal) from None
        self.told("load", None, f"{stored.name} {stored.stamp} is ready")

    async def activate(self, stamp: str) -> Switch:
        """Raises DeployRefused."""
        stored = self._find(stamp)
        switch = self.lineup.activate(stored.stamp if stored else stamp)
        return await self._noted("activate", switch, "")

    async def roll_back(self, reason: str) -> Switch:
        """To the bundle kept warm. Raises DeployRefused."""
        return await self._noted("rollback", self.lineup.roll_back(), reason)

    async def _noted(self, action: str, switch: Switch, detail: str) -> Switch:
        self.told(action, switch, detail)
        stored = self._find(switch.stamp)
        if stored is not None:
            await asyncio.to_thread(self.store.activate, stored)
        return switch

    def _find(self, stamp: str) -> Stored | None:
        """None for a bundle that was started from outside the store."""
        try:
            return self.store.find(stamp)
        except StoreRefused:
            return None

    def _refused(self, refusal: DeployRefused) -> DeployRefused:
        self.told("refuse", None, str(refusal))
        return refusal
