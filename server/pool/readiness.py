"""Decides whether a replica is right and fast enough, from evidence for each modality mix.

A probe runs golden inputs of every mix. One wrong answer makes the replica unready at once.
Slowness does so only when it is measured `slow_after` times in a row, and it ends only well below
the limit, so that a busy machine does not make the verdict flap. Real traffic can prove a mix fast
and so save a probe. It never proves one slow, because a caller's payload may have any size. Pure:
this module does not know processes or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

from server.types import Evidence, ReplicaStatus, SelfCheck

SERVING = ("ready", "slow")
TRAFFIC_ROWS = 16  # number of newest rows of a mix that are considered


class Standing(Protocol):
    """What the state of the server is derived from: both ReplicaStatus and the replica handle have
    it."""

    @property
    def index(self) -> int: ...

    @property
    def state(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def restarts(self) -> int: ...

    @property
    def self_check(self) -> SelfCheck: ...


@dataclass(eq=False)
class Readiness:
    """The evidence about one process of one replica."""

    interval_s: float
    runs: int
    slow_after: int
    fast_again: float

    def __post_init__(self) -> None:
        self._evidence: dict[str, Evidence] = {}
        self._probed_at: dict[str, float] = {}
        self._slow_in_a_row: dict[str, int] = {}
        self._slow: set[str] = set()
        self._traffic: dict[str, deque[tuple[float, float]]] = {}

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(self._evidence[mix] for mix in sorted(self._evidence))

    def probed(self, found: Iterable[Evidence], now: float) -> None:
        for evidence in found:
            mix = evidence.mix
            self._evidence[mix] = evidence
            self._probed_at[mix] = now
            if evidence.p50_ms > evidence.limit_ms:
                self._slow_in_a_row[mix] = self._slow_in_a_row.get(mix, 0) + 1
                if self._slow_in_a_row[mix] >= self.slow_after:
                    self._slow.add(mix)
            else:
                self._slow_in_a_row[mix] = 0
                if evidence.p50_ms <= self.fast_again * evidence.limit_ms:
                    self._slow.discard(mix)

    def answered(self, mix: str, row_ms: float, now: float) -> None:
        """A row of real traffic took `row_ms`: without waiting, and with only its share of the
        forward."""
        if mix in self._evidence:
            self._traffic.setdefault(mix, deque(maxlen=TRAFFIC_ROWS)).append((now, row_ms))

    def stale(self, now: float, wall: float) -> tuple[str, ...]:
        """Mixes to probe, the longest unproven first. Proof by traffic is recorded as evidence."""
        due = [
            (at, mix)
            for mix, at in self._probed_at.items()
            if now - at >= self.interval_s and not self._proven_by_traffic(mix, now, wall)
        ]
        return tuple(mix for _, mix in sorted(due))

    def doubtful(self) -> tuple[str, ...]:
        """Mixes measured slow, but not often enough yet to count as slow: probe them again at
        once."""
        return tuple(
            mix for mix, count in self._slow_in_a_row.items() if 0 < count < self.slow_after
        )

    def verdict(self) -> tuple[str, str]:
        """(wrong | slow | ready, reason)."""
        for evidence in self.evidence:
            if is_wrong(evidence):
                return "wrong", f"{evidence.mix}: {evidence.reason}"
        for mix in sorted(self._slow):
            return "slow", f"{mix}: {self._evidence[mix].reason}"
        return "ready", f"{len(self._evidence)} modality mixes answered right and fast enough"

    def _proven_by_traffic(self, mix: str, now: float, wall: float) -> bool:
        rows = [ms for at, ms in self._traffic.get(mix, ()) if now - at < self.interval_s]
        old = self._evidence[mix]
        if len(rows) < self.runs or median(rows) > old.limit_ms or mix in self._slow:
            return False
        self._probed_at[mix] = now
        self._evidence[mix] = replace(
            old,
            reason=f"{len(rows)} rows of traffic, median {median(rows):.1f} ms",
            p50_ms=median(rows),
            max_ms=max(rows),
            runs=len(rows),
            at=wall,
            source="traffic",
        )
        return True


def tolerance_of(replicas: Iterable[ReplicaStatus]) -> float:
    """By how much answers may differ from the golden ones, in the dtype in which the replicas run;
    0 before the first probe."""
    return max((one.tolerance for replica in replicas for one in replica.evidence), default=0.0)


def is_wrong(evidence: Evidence) -> bool:
    """Whether the difference is above the tolerance; written so that NaN counts as wrong."""
    return not evidence.worst_difference <= evidence.tolerance


def state_of(replicas: Sequence[Standing], wanted: int, queue_full: bool) -> tuple[str, str]:
    """The state of the server and, unless it is READY, the reason as one sentence."""
    ready = [r for r in replicas if r.state == "ready"]
    slow = [r for r in replicas if r.state == "slow"]
    others = [r for r in replicas if r.state not in SERVING]
    if not ready and slow:
        return "NOT_READY", f"every replica that serves is slow: {slow[0].reason}"
    if not ready and any(r.restarts or r.state in ("dead", "wrong") for r in others):
        return "NOT_READY", f"no replica serves: {_listed(others)}"
    if not ready:
        return "STARTING", f"no replica is ready yet: {_listed(others)}"
    if slow or len(ready) < wanted:
        return "DEGRADED", f"{len(ready)} of {wanted} replicas ready: {_listed(slow + others)}"
    if queue_full:
        return "DEGRADED", "the queue is nearly full"
    skew = skew_of(replicas)
    return ("DEGRADED", skew) if skew else ("READY", "")


def skew_of(replicas: Sequence[Standing]) -> str:
    """What differs from what was loaded, the most serious first; "" if nothing does."""
    changed = [
        (not item.affects_answers_now, r.index, item)
        for r in replicas
        for item in r.self_check.changed
    ]
    if changed:
        _, index, item = min(changed, key=lambda found: found[:2])
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"version skew: replica {index}: {item.name} {item.message}{more}"
    blind = [r for r in replicas if r.self_check.error]
    if blind:
        trouble = blind[0].self_check.error
        return f"replica {blind[0].index} cannot compare itself with what it loaded: {trouble}"
    return ""


def _listed(replicas: Iterable[Standing]) -> str:
    return "; ".join(f"replica {r.index} {r.state}: {r.reason}" for r in replicas)
