"""The lines a starting server prints: one for each change of a replica or of the server, and one
when it is ready."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from server.engine import Engine
from server.types import EngineSnapshot, ReplicaStatus

LOOK_S = 0.2
# With a full queue the state may change several times a second: only lasting changes are printed.
LASTS_S = 1.0
WORSE = ("DEGRADED", "NOT_READY")


class Report(Protocol):
    """Logs a line and shows it to the service manager. Never waits, never raises."""

    def __call__(self, line: str, level: int = logging.INFO, /) -> None: ...


class StartupLog:
    def __init__(self, engine: Engine, address: str, report: Report) -> None:
        self._engine = engine
        self._address = address
        self._report = report
        self._began = self._since = time.monotonic()
        self._state = self._reported = "STARTING"
        self._was_ready = False
        self._replicas: dict[int, tuple[str, int, str]] = {}

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        now = self._engine.snapshot()
        for replica in now.replicas:
            self._report_replica(replica)
        if now.state != self._state:
            self._state, self._since = now.state, time.monotonic()
        first = now.state == "READY" and not self._was_ready
        lasts = time.monotonic() - self._since >= LASTS_S
        if now.state != self._reported and (first or lasts):
            self._reported = now.state
            level = logging.WARNING if now.state in WORSE else logging.INFO
            self._report(self._whole(now), level)
            if first:
                there = f"--server {self._address}"
                self._report(f"next: server predict {there} --text TEXT, or server status {there}")

    def _report_replica(self, replica: ReplicaStatus) -> None:
        # The steps of loading are printed; other reasons change often and matter little.
        step = replica.reason if replica.state == "loading" else ""
        seen = (replica.state, replica.restarts, step)
        # Deaths are logged elsewhere: a replica may be back before the next look here.
        if self._replicas.get(replica.index) == seen or replica.state in ("starting", "dead"):
            return
        self._replicas[replica.index] = seen
        why = f": {replica.reason}" if replica.reason else ""
        device = f" on {replica.device}" if replica.device else ""
        self._report(f"replica {replica.index}{device} {replica.state}{why}")

    def _whole(self, now: EngineSnapshot) -> str:
        state = now.state.lower().replace("_", " ")
        why = f": {now.reason}" if now.reason else ""
        if now.state != "READY" or now.facts is None:
            return f"{state}{why}"
        if self._was_ready:
            return "ready again"
        self._was_ready = True
        facts = now.facts
        took_s = time.monotonic() - self._began
        return (
            f"ready on {self._address} after {took_s:.1f} s: {facts.stamp_name}, "
            f"{now.warm_replicas} of {now.wanted_replicas} replicas warm "
            f"on {facts.env.get('device', '?')} ({facts.reasons.get('device', 'as configured')})"
        )
