"""Which replica a session's rows go to: rendezvous hashing with bounded load.

Rendezvous (highest random weight): every (session, replica) pair has its own weight and the
heaviest wins. So a replica that comes or goes moves only its own sessions, and no table is needed.
Bounded load: a replica that already holds `BOUND` times the mean passes the row on to the next
heaviest, so that one busy session cannot overload a replica (Mirrokni, Thorup, Zadimoghaddam 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b

BOUND = 1.25


def rank(session: str, members: Iterable[str]) -> list[str]:
    """Members from the most to the least preferred, the same on every machine."""
    return sorted(members, key=lambda member: _weight(session, member), reverse=True)


def choose(session: str, loads: Mapping[str, int], bound: float = BOUND) -> str:
    """The most preferred member that may take one more row. `loads` maps members to the rows they
    hold."""
    ceiling = math.ceil(bound * (sum(loads.values()) + 1) / len(loads))
    # Some member is at or below the mean, and so below the ceiling.
    return next(member for member in rank(session, loads) if loads[member] < ceiling)


def _weight(session: str, member: str) -> bytes:
    return blake2b(f"{member}\0{session}".encode(), digest_size=8).digest()
