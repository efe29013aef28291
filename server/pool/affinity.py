"""Which replica a session's rows go to: rendezvous hashing with bounded load.

Rendezvous (highest random weight): every (session, replica) pair has a weight of its own and the
heaviest wins, so a replica that comes or goes moves only its own sessions and nobody keeps a table.
Bounded load: a replica that already holds `BOUND` times the mean passes the row on to the next
heaviest, so that one busy session cannot make a hot spot (Mirrokni, Thorup, Zadimoghaddam 2018).
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
    """The most preferred member that may take one more. `loads` maps members to rows they hold."""
    ceiling = math.ceil(bound * (sum(loads.values()) + 1) / len(loads))
    # Someone is below the mean, so someone is below the ceiling.
    return next(member for member in rank(session, loads) if loads[member] < ceiling)


def _weight(session: str, member: str) -> bytes:
    return blake2b(f"{member}\0{session}".encode(), digest_size=8).digest()
