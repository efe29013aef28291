"""Puts bundles into service: the store on disk and the pools in memory, in the right order.

The switch in memory comes first, then the links on disk. After a crash in between, the next start
serves the bundle that served before, which was good until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from server.deploy.bundle_listing import roles
from server.deploy.bundle_store import SHORT, BundleStore, Progress, Stored, StoreRefused
from server.deploy.remote.fetch import Fetcher
from server.deploy.remote.location import FetchRefused, is_remote
from server.deploy.strategy import ROLLING, choose
from server.errors import DeployRefused
from server.request.actor import ACTOR, ITSELF
from server.routing.canary import Canary
from server.routing.canary_analysis import CanaryAnalysis
from server.routing.candidate_checks import step
from server.routing.pool_set import PoolSet
from server.routing.progress import Report, Step, Switch, activated, detached
from server.routing.router import stamp_of, switched
from server.types import Facts
from server.values import MIB

logger = logging.getLogger(__name__)

# (what was done, the switch or None, a message), for the deploy journal.
RecordDeploy = Callable[[str, Switch | None, str], None]
# The analysis of a candidate against the active bundle, from the facts of both.
Analyse = Callable[[Facts, Facts], CanaryAnalysis]
CANARY_LOOK_S = 1.0
COPY_LOOK_S = 0.2
DAMAGED = ("names", "kind", "manifest", "files", "format", "hash")  # checks of a bundle's files
COLD = "cold"  # the check that refuses a rollback without a warm standby


@dataclass(slots=True)
class Deployment:
    """`keep` unused bundles stay on disk besides those that are linked or loaded."""

    pool_set: PoolSet
    store: BundleStore
    record: RecordDeploy = lambda action, switch, detail: None
    analyse: Analyse = lambda active, candidate: CanaryAnalysis()
    keep: int = 5
    look_s: float = CANARY_LOOK_S
    fetcher: Fetcher = field(init=False)
    _copied: set[str] = field(default_factory=set, init=False)  # stamps being loaded into a pool
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    # The stamp that was rolled back from, until the next switch.
    _left: str = field(default="", init=False)
    _linking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        self.fetcher = Fetcher(self.store.root)

    async def load(self, source: Path | str, swap: str, activate: bool, report: Report) -> None:
        """Copy a bundle into the store, or fetch it from a URL, then prove it beside the active
        one; with `activate` also serve it. Raises DeployRefused with the evidence."""
        try:
            if is_remote(str(source)):
                stored = await self._fetched(str(source), report)
            else:
                adding = partial(self.store.add, Path(source))
                stored = await _in_thread("copying", str(source), adding, report)
        except (StoreRefused, FetchRefused) as error:
            raise self._refused(DeployRefused("store", str(error))) from None
        await self._load(stored, swap, activate, "activate", "", report)

    async def _fetched(self, url: str, report: Report) -> Stored:
        """Fetch a bundle. Unlike a copy it ends when its caller leaves: the next fetch continues
        with what has arrived."""
        stopped = threading.Event()

        def fetch(progress: Progress) -> Stored:
            return self.fetcher.into(self.store, url, progress, stopped)

        try:
            return await _in_thread("fetching", url, fetch, report)
        except OSError as error:
            raise StoreRefused(f"{url} cannot be kept: {error}") from None
        finally:
            stopped.set()

    async def roll_back_cold(self, reason: str, swap: str, report: Report) -> None:
        """Go back to the store's previous bundle, which must be loaded first. Raises
        DeployRefused."""
        previous = self.store.previous
        if previous is None:
            raise DeployRefused("rollback", "there is no previous bundle in the store")
        self._check_back(previous.stamp)
        await self._load(previous, swap, True, "rollback", reason, report)

    async def _load(
        self, stored: Stored, swap: str, activate: bool, action: str, reason: str, report: Report
    ) -> None:
        chosen = await self._choose(stored, swap, activate, report)
        await self._keep_active(report)
        if chosen == ROLLING:
            # It continues when its caller leaves: half a roll is not a state to stay in.
            rolled = self._journaled(self._rolled(stored, action, reason, report), stored)
            await detached(rolled, self._tasks)
        else:
            beside = self._beside(stored, activate, action, reason, report)
            await self._journaled(beside, stored)

    async def _choose(self, stored: Stored, swap: str, activate: bool, report: Report) -> str:
        """How the bundle replaces the active one; checks the memory for it. Raises
        DeployRefused."""
        pool_set = self.pool_set
        try:
            if stored.stamp == stamp_of(pool_set.active):
                raise DeployRefused("load", f"stamp {stored.stamp[:SHORT]} is being served already")
            pool_set.check_free()
            if (ending := pool_set.discard()) is not None:
                report(Step("room", 0.0, "the bundle that was loaded and not activated ends"))
                await ending
            misfit = pool_set.misfit(stored.path)
            if misfit and pool_set.standby is not None:
                report(Step("room", 0.0, f"the standby ends: {misfit}"))
                await pool_set.retire_standby()
                misfit = pool_set.misfit(stored.path)
            chosen, why = choose(swap, activate, misfit)
        except DeployRefused as refusal:
            raise self._refused(refusal) from None
        pool_set.notes["swap"] = f"{chosen}: {why}"
        report(Step("swap", 0.0, pool_set.notes["swap"]))
        return chosen

    async def _keep_active(self, report: Report) -> None:
        """Copy the active bundle if it came from outside the store, so that a rollback to it is
        possible."""
        facts = self.pool_set.active.facts
        if facts is None or facts.dirty or self._find(facts.stamp) is not None:
            return
        detail = f"{facts.stamp_name}, to be able to go back to it"
        try:
            await asyncio.to_thread(self.store.add, Path(facts.bundle_path))
        except StoreRefused as error:
            detail = f"NO COLD ROLLBACK, the active bundle cannot be kept: {error}"
        report(Step("keeping", 0.0, detail))

    async def _journaled(self, load: Coroutine[Any, Any, None], stored: Stored) -> None:
        try:
            await load
        except DeployRefused as refusal:
            await self._forget_damaged(stored, refusal)
            raise self._refused(refusal) from None

    async def _forget_damaged(self, stored: Stored, refusal: DeployRefused) -> None:
        """Remove a copy whose files do not match the manifest (as of a bundle that was still being
        written), so that the next load copies the complete bundle."""
        if refusal.check not in DAMAGED or stored.stamp in roles(self.pool_set):
            return
        try:
            await asyncio.to_thread(self.store.remove, stored)
        except OSError as error:
            logger.error("the damaged %s stays in the store: %s", stored.path, error)

    async def _beside(
        self, stored: Stored, activate: bool, action: str, reason: str, report: Report
    ) -> None:
        self._copied.add(stored.stamp)
        try:
            report(await self.pool_set.load(stored.path, report))
        finally:
            self._copied.discard(stored.stamp)
        self.record("load", None, f"{stored.name} {stored.stamp} is ready")
        if not activate:
            return
        switch = self.pool_set.activate(stored.stamp)
        if action == "rollback":
            self.pool_set.leave_sessions()
        report(await self._noted(action, activated(switch), reason))

    async def _rolled(self, stored: Stored, action: str, reason: str, report: Report) -> None:
        self._copied.add(stored.stamp)
        try:
            done = await self.pool_set.roll(stored.path, report)
            report(await self._noted(action, done, reason))
        finally:
            self._copied.discard(stored.stamp)

    async def activate(self, stamp: str, reason: str = "") -> Step:
        """Serve the bundle for all sessions at once; this ends its canary. Raises DeployRefused."""
        stored, canary = self._find(stamp), self.pool_set.canary
        evidence = f"canary ended: {canary.evidence()}" if canary is not None else ""
        done = activated(self.pool_set.activate(stored.stamp if stored else stamp))
        return await self._noted("activate", done, "; ".join(filter(None, (reason, evidence))))

    async def roll_back(self, reason: str, canary_only: bool = False) -> Step:
        """End the canary; without one, and unless `canary_only`, go back to the warm standby.

        Raises DeployRefused, with the check COLD when the previous bundle would have to be loaded
        first.
        """
        canary = self.pool_set.canary
        if canary is not None:
            return self._canary_back(canary, reason or "asked for")
        if canary_only:
            raise DeployRefused("canary", "no canary runs here: it was promoted or has ended")
        previous = self.store.previous
        self._check_back(stamp_of(self.pool_set.standby) if self.pool_set.standby else "")
        if self.pool_set.standby is None and previous is not None:
            message = f"{previous.stamp[:SHORT]} is no longer warm and has to be loaded"
            raise DeployRefused(COLD, message)
        done = replace(activated(self.pool_set.roll_back()), name="rolled back")
        return await self._noted("rollback", done, reason)

    def _check_back(self, stamp: str) -> None:
        """If two people roll back the same bundle, the second call must not bring it back."""
        if stamp and stamp == self._left:
            again = f"`server activate {stamp[:SHORT]}` if it is to serve again"
            raise DeployRefused(
                "rollback", f"{stamp[:SHORT]} is what was rolled back last: {again}"
            )

    async def _noted(self, action: str, done: Step, detail: str) -> Step:
        """Write the journal and set the links; returns the step with any addition to its text."""
        switch = done.switch
        assert switch is not None
        self._left = switch.from_stamp if action == "rollback" else ""
        self.record(action, switch, detail)
        async with self._linking:  # in the order of the switches
            added = await self._link(switch)
        return replace(done, detail=done.detail + added)

    async def _link(self, switch: Switch) -> str:
        stored, before = self._find(switch.stamp), self._find(switch.from_stamp)
        if stored is None:
            return "; it is not in the store: a restart does not serve it"
        try:
            await asyncio.to_thread(self.store.activate, stored, before)
        except OSError as error:
            logger.error("the store's links: %s", error)
            return f"; A RESTART DOES NOT SERVE IT, the store's links cannot be set: {error}"
        return await self._collect()

    async def _collect(self) -> str:
        """Remove bundles that nothing refers to; a failure never fails the switch."""
        keep = {*roles(self.pool_set), *self._copied}
        try:
            gone = await asyncio.to_thread(self.store.collect, keep, self.keep)
        except (StoreRefused, OSError) as error:
            logger.error("the store could not be tidied: %s", error)
            return ""
        if not gone:
            return ""
        names = ", ".join(f"{bundle.name}+{bundle.stamp[:SHORT]}" for bundle in gone)
        self.record("collect", None, f"removed from the store: {names}")
        return f"; removed from the store: {names}"

    def _find(self, stamp: str) -> Stored | None:
        """The stored bundle; None for one that was started from outside the store."""
        try:
            return self.store.find(stamp)
        except StoreRefused:
            return None

    def _refused(self, refusal: DeployRefused) -> DeployRefused:
        self.record("refuse", None, str(refusal))
        return refusal

    async def start_canary(
        self, stamp: str, share: float, seconds: float, reason: str = ""
    ) -> Step:
        """Serve this share of the sessions with a loaded stamp, and watch it. Raises
        DeployRefused."""
        stored = self._find(stamp)
        full = stored.stamp if stored is not None else stamp
        active, candidate = self.pool_set.active.facts, self.pool_set.candidate
        analysis = CanaryAnalysis()
        if active is not None and candidate is not None and candidate.facts is not None:
            analysis = await asyncio.to_thread(self.analyse, active, candidate.facts)
        canary = self.pool_set.begin_canary(
            full, lambda pool: Canary(pool, share, seconds, analysis)
        )
        message = f"{share:.0%} of the sessions for {seconds / 60:g} min"
        self.record("canary", self._of(canary), "; ".join(filter(None, (reason, message))))
        task = asyncio.create_task(self._watch(canary))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return step("canary", 1.0, canary.pool, message)

    async def _watch(self, canary: Canary) -> None:
        ACTOR.set(ITSELF)
        while self.pool_set.canary is canary:
            await asyncio.sleep(self.look_s)
            if self.pool_set.canary is not canary:
                return
            decision, evidence = canary.decide()
            if decision == "back":
                self._canary_back(canary, evidence)
            elif decision == "promote":
                # Not ready at the moment: it is checked again.
                with contextlib.suppress(DeployRefused):
                    done = activated(self.pool_set.activate(stamp_of(canary.pool)))
                    await self._noted("canary-promoted", done, evidence)
            elif decision == "hold":
                self.record("canary-held", self._of(canary), evidence)

    def _canary_back(self, canary: Canary, evidence: str) -> Step:
        self.record("canary-rolled-back", self._of(canary), evidence)
        self.pool_set.notes["last canary"] = f"rolled back: {evidence}"
        self.pool_set.discard()
        return step("canary rolled back", 1.0, self.pool_set.active, evidence)

    def _of(self, canary: Canary) -> Switch:
        return switched(canary.pool, self.pool_set.active, 0.0)

    async def stop(self) -> None:
        if self.pool_set.canary is not None:  # a restart serves the active bundle to all sessions
            self.record("canary-rolled-back", self._of(self.pool_set.canary), "the server stopped")
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _in_thread(
    step: str, what: str, work: Callable[[Progress], Stored], report: Report
) -> Stored:
    """Report the progress of `work`, in bytes, until it ends. If the caller is cancelled it
    continues, unless it checks for that itself."""
    done_of = deque([(0, 0)], maxlen=1)
    working = asyncio.create_task(asyncio.to_thread(work, lambda *sizes: done_of.append(sizes)))
    try:
        while not working.done():
            done, total = done_of[0]
            detail = f"{done // MIB} of {total // MIB} MiB of {what}" if total else what
            report(Step(step, done / max(1, total), detail))
            await asyncio.wait([working], timeout=COPY_LOOK_S)
        return working.result()
    finally:
        working.cancel()  # the caller has left
