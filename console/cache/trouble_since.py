"""Since when a server has been in its current state, and which replicas are slower than their
neighbours. A snapshot contains neither: both are derived here by comparing successive snapshots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from console.state.dashboard import ServerLine
from console.state.deploys import mark_of
from console.state.domain import ReplicaSnapshot, ServerSnapshot
from console.state.units import milliseconds
from server.telemetry.rows import DeployRow

# A probe takes a replica that is always slow out of service, but it runs only every half minute,
# and traffic shows the delay at once. Both bounds are far above the difference of two healthy
# replicas.
LAGS = 5.0  # a replica lags when its p95 is this many times the median p95 of the others, and
LEAST_MS = 100.0  # this many milliseconds above it
LEAST_ANSWERED = 100  # the first rows of a process are always slow
SEEN_S = 2.5  # it must last this long, or it was one large request
DEATH_S = 120.0  # a death explains a state first seen this much later: a restart takes no longer


def laggard(snapshot: ServerSnapshot) -> tuple[ReplicaSnapshot, float] | None:
    """The slowest ready replica and the median of the others' 95th percentiles (ms), if it lags."""
    known = [
        r
        for r in snapshot.replicas
        if r.state == "ready" and r.p95_ms > 0 and r.answered >= LEAST_ANSWERED
    ]
    if len(known) < 2:
        return None
    worst = max(known, key=lambda r: r.p95_ms)
    others = median(r.p95_ms for r in known if r is not worst)
    lags = worst.p95_ms > LAGS * others and worst.p95_ms - others > LEAST_MS
    return (worst, others) if lags else None


@dataclass(slots=True)
class TroubleSince:
    """Remembers the state of each server at the last board."""

    _states: dict[str, tuple[str, float]] = field(default_factory=dict)  # address: state, since
    _lags: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)

    def marked(
        self, lines: Sequence[ServerLine], deploys: Sequence[tuple[str, DeployRow]], now_s: float
    ) -> tuple[ServerLine, ...]:
        """The same servers with `since_s`; a server with a lagging replica gets the state `replica
        slow`."""
        return tuple(self._marked(self._lagging(line, now_s), deploys, now_s) for line in lines)

    def _lagging(self, line: ServerLine, now_s: float) -> ServerLine:
        found = laggard(line.snapshot) if line.snapshot is not None else None
        if found is None or line.severity != "ok":
            for key in [key for key in self._lags if key[0] == line.address]:
                del self._lags[key]
            return line
        replica, others = found
        since_s, answered = self._lags.setdefault(
            (line.address, replica.index), (now_s, replica.answered)
        )
        if now_s - since_s < SEEN_S or replica.answered == answered:
            return line
        why = f"replica {replica.index}: p95 {milliseconds(replica.p95_ms)}, "
        why += f"its neighbours {milliseconds(others)}"
        return replace(line, severity="warning", state="replica slow", why=why, since_s=since_s)

    def _marked(
        self, line: ServerLine, deploys: Sequence[tuple[str, DeployRow]], now_s: float
    ) -> ServerLine:
        before = self._states.get(line.address)
        if before is None or before[0] != line.state:
            since_s = now_s if before is not None else _died_s(line, deploys, now_s)
            self._states[line.address] = (line.state, since_s)
        if line.since_s == line.since_s or line.severity == "ok":
            return line
        return replace(line, since_s=self._states[line.address][1])


def _died_s(line: ServerLine, deploys: Sequence[tuple[str, DeployRow]], now_s: float) -> float:
    """When the state began before this console was watching: at the last death of a replica, if
    that was just before."""
    shift_s = line.link.shift_s
    deaths = [
        row.at_unix_ms / 1000 - shift_s
        for address, row in deploys
        if address == line.address and mark_of(row.action) == "death"
    ]
    last_s = max(deaths, default=math.nan)
    return last_s if now_s - last_s < DEATH_S else math.nan
