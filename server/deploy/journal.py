"""Reports to telemetry what is served: the reference and objective of the bundle, and every deploy
as a row of the journal."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server.errors import DeployRefused
from server.request.actor import ACTOR
from server.routing.canary_analysis import CanaryAnalysis
from server.routing.progress import Switch
from server.telemetry.errors import StoreBusy, TelemetryError
from server.telemetry.quality.pricing import yardsticks
from server.telemetry.record import BundleFiles
from server.telemetry.rows import DeployRow
from server.telemetry_port import TelemetryPort
from server.types import Facts

logger = logging.getLogger(__name__)

REFERENCE = Path("reference") / "profile.json"
OBJECTIVE = Path("objective.json")


@dataclass(slots=True)
class DeployJournal:
    """`wall` is unix seconds."""

    telemetry: TelemetryPort
    wall: Callable[[], float]
    _started: bool = field(default=False, init=False)

    async def adopt(self, facts: Facts) -> None:
        """A bundle has been loaded and is about to serve. Raises DeployRefused when its reference
        or its objective does not fit its predictions; then nothing has changed."""
        try:
            await asyncio.to_thread(lambda: self.telemetry.adopt(bundle_of(facts)))
        except (StoreBusy, sqlite3.Error) as trouble:
            # A failure of telemetry must not keep a bundle from serving: its rows then have no
            # reference.
            logger.error("telemetry: %s is not adopted: %s", facts.stamp_name, trouble)
        except (TelemetryError, OSError) as error:
            raise DeployRefused("reference", str(error)) from None

    def switched(self, action: str, switch: Switch | None, detail: str) -> None:
        """Record an action of a Deployment: load | activate | rollback | refuse | collect |
        canary..."""
        if switch is None:
            self._note(action, detail=detail)
        else:
            self._note(action, switch.stamp, switch.stamp_name, switch.from_stamp, detail)

    async def start(self, facts: Facts) -> None:
        """Record the first bundle of this process. Raises DeployRefused, as `adopt` does."""
        try:
            await self.adopt(facts)
        except DeployRefused as refusal:
            self._note("refuse", facts.stamp, facts.stamp_name, detail=str(refusal))
            raise
        self._started = True
        self._note("start", facts.stamp, facts.stamp_name)

    def replica_exited(self, facts: Facts, why: str) -> None:
        """Record that a replica process has died; `why` has the cause, and when the next one
        starts."""
        self._note("replica-exit", facts.stamp, facts.stamp_name, detail=why)

    def stop(self, facts: Facts | None) -> None:
        if self._started and facts is not None:
            self._note("stop", facts.stamp, facts.stamp_name)

    def _note(
        self, action: str, stamp: str = "", name: str = "", before: str = "", detail: str = ""
    ) -> None:
        at_ms = int(self.wall() * 1000)
        self.telemetry.deployed(DeployRow(at_ms, action, stamp, name, before, ACTOR.get(), detail))


def analysis_of(active: Facts, candidate: Facts) -> CanaryAnalysis:
    """The analysis of a canary, with both bundles valued by one price list; without values if a
    bundle's files do not fit."""
    try:
        sticks = yardsticks(bundle_of(active), bundle_of(candidate))
    except (TelemetryError, OSError) as error:
        logger.error("canary: no values to compare: %s", error)
        return CanaryAnalysis()
    return CanaryAnalysis(sticks.before, sticks.now)


def bundle_of(facts: Facts) -> BundleFiles:
    """The bundle's files for telemetry. Raises OSError."""
    path = Path(facts.bundle_path)
    return BundleFiles(
        stamp=facts.stamp,
        name=facts.stamp_name,
        schema=facts.features,
        labels=facts.labels,
        reference=_content(path / REFERENCE),
        objective=_content(path / OBJECTIVE),
    )


def _content(path: Path) -> bytes:
    """The content of a file that a bundle may lack; then it is empty."""
    return path.read_bytes() if path.is_file() else b""
