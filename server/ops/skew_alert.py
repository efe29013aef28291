"""The alert that a replica differs from what it loaded. It resolves when there is no more
difference."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.engine import Engine
from server.pool.readiness import skew_of
from server.telemetry.findings import Finding
from server.telemetry_port import TelemetryPort
from server.types import EngineSnapshot

# One for each server: a switch to a stamp without skew ends the alert of the previous one.
KEY = "skew/loaded"
LOOK_S = 1.0
# An alert that has flapped must be clear for a while before it closes, so the report is repeated.
REPEAT_S = 15.0


@dataclass(slots=True)
class SkewAlert:
    """`clock` is monotonic seconds."""

    engine: Engine
    telemetry: TelemetryPort
    clock: Callable[[], float] = time.monotonic
    _reported: Finding | None = field(default=None, init=False)
    _reported_at: float = field(default=0.0, init=False)
    _ever_wrong: bool = field(default=False, init=False)

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        now = self.engine.snapshot()
        if not any(replica.self_check.at for replica in now.replicas):
            return  # there has been no check yet
        found = finding_of(now)
        again = self._ever_wrong and self.clock() - self._reported_at >= REPEAT_S
        if found != self._reported or again:
            self._reported, self._reported_at = found, self.clock()
            self._ever_wrong = self._ever_wrong or bool(found.severity)
            self.telemetry.report([found])


def finding_of(now: EngineSnapshot) -> Finding:
    """Critical: answers are affected now. High: they are affected only after the next start."""
    items = [item for replica in now.replicas for item in replica.self_check.changed]
    severity = (
        "critical" if any(item.affects_answers_now for item in items) else "high" if items else ""
    )
    if not severity and any(replica.self_check.error for replica in now.replicas):
        severity = "warning"
    stamp = now.facts.stamp if now.facts else ""
    return Finding(KEY, "skew", severity, skew_of(now.replicas), stamp)
