"""Alerts about the server itself: access-control files that fail, a blocked event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server.telemetry.findings import Finding
from server.telemetry_port import TelemetryPort

LOOK_S = 1.0
HOLD_S = 15.0  # how long the trouble must be over before the alert closes


@dataclass(frozen=True, slots=True)
class OwnTrouble:
    """`trouble` returns one sentence, or "" when nothing is wrong."""

    key: str
    severity: str
    trouble: Callable[[], str]


@dataclass(slots=True)
class OwnAlerts:
    """Reports each trouble when it changes, and repeats it while it lasts or closes."""

    telemetry: TelemetryPort
    troubles: Sequence[OwnTrouble]
    chores: Sequence[Callable[[], None]] = ()  # run before each check
    _ever: set[str] = field(default_factory=set, init=False)

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        for chore in self.chores:
            chore()
        found = [self._finding(one) for one in self.troubles]
        self._ever |= {finding.key for finding in found if finding.severity}
        due = [finding for finding in found if finding.key in self._ever]
        if due:
            self.telemetry.report(due)

    def _finding(self, one: OwnTrouble) -> Finding:
        text = one.trouble()
        return Finding(one.key, "server", one.severity if text else "", text, hold_s=HOLD_S)
