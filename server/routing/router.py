"""Chooses the pool of a row: the active one, the one it is bound to, or a second one that takes a
share of the unbound rows.

The share is drawn by a hash of the session, or of the request if there is none. The same session
always falls on the same side, and as the share grows no session moves back. Requests are hashed and
not payloads, as payloads repeat and both sides must get the same mixture of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from server.pool.pool import Pool
from server.routing.progress import Switch
from server.types import Work

MOST_SESSIONS = 10_000


def stamp_of(pool: Pool) -> str:
    return pool.facts.stamp if pool.facts else ""


def switched(pool: Pool, old: Pool, took_s: float) -> Switch:
    name = pool.facts.stamp_name if pool.facts else ""
    return Switch(stamp_of(pool), name, stamp_of(old), took_s)


@dataclass(frozen=True, slots=True)
class Branch:
    """A second pool and its share of the draws; `before` are the sessions that existed before
    it."""

    pool: Pool
    share: Callable[[], float]
    before: frozenset[str] = frozenset()

    def drawn(self, work: Work) -> bool | None:
        """Whether the draw gives this work to the second pool; None for work that is not drawn."""
        if work.expected_stamps or work.session in self.before:
            return None
        return draw(stamp_of(self.pool), work) < self.share()


class Router:
    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Pool] = OrderedDict()

    @property
    def sessions(self) -> frozenset[str]:
        return frozenset(self._sessions)

    def choose(self, work: Work, active: Pool, standby: Pool | None, branch: Branch | None) -> Pool:
        second = branch.pool if branch is not None else None
        others = [p for p in (second, standby) if p is not None and p.serving and p.facts]
        chosen = active
        if others:
            chosen = self._choose(work, active, others, branch)
        if work.session:
            self._sessions[work.session] = chosen
            self._sessions.move_to_end(work.session)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return chosen

    def _choose(self, work: Work, active: Pool, others: list[Pool], branch: Branch | None) -> Pool:
        pinned = work.expected_stamps
        if pinned:
            fitting = (pool for pool in (active, *others) if stamp_of(pool) in pinned)
            return next(fitting, active)
        began = self._sessions.get(work.session) if work.session else None
        if began is not None and (began is active or began in others):
            return began
        if branch is not None and branch.pool in others and branch.drawn(work):
            return branch.pool
        return active

    def forget(self, pool: Pool) -> None:
        """Release its sessions: each starts again on the pool of its next row."""
        for session in [s for s, p in self._sessions.items() if p is pool]:
            del self._sessions[session]

    def clear(self) -> None:
        self._sessions.clear()


def draw(stamp: str, work: Work) -> float:
    """A number in [0, 1): the position of this session or request in the draw for this stamp."""
    if work.session:
        key = f"{stamp}\0{work.session}"
    else:
        key = f"{stamp}\0{work.client}\0{work.request or work.id}"
    digest = blake2b(key.encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") / 2**64)
