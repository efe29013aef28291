"""Contents that killed two replicas are refused at once while they are remembered.

Hashing every payload would cost the healthy ones time. Sizes are compared first, so only a payload
of exactly a remembered size is hashed.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from server.types import Work

_Key = tuple[int, bytes]


class Quarantine:
    def __init__(self, keep_s: float, most: int = 1024) -> None:
        self._keep_s = keep_s
        self._most = most
        self._until: OrderedDict[_Key, float] = OrderedDict()
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, work: Work, now: float) -> None:
        key = _key(work)
        if key not in self._until:
            self._sizes[key[0]] = self._sizes.get(key[0], 0) + 1
        self._until[key] = now + self._keep_s
        self._until.move_to_end(key)
        if len(self._until) > self._most:
            self._forget(next(iter(self._until)))

    def holds(self, work: Work, now: float) -> bool:
        if len(work.example) not in self._sizes:
            return False
        key = _key(work)
        until = self._until.get(key)
        if until is not None and until <= now:
            self._forget(key)
            return False
        return until is not None

    def _forget(self, key: _Key) -> None:
        del self._until[key]
        self._sizes[key[0]] -= 1
        if not self._sizes[key[0]]:
            del self._sizes[key[0]]


def _key(work: Work) -> _Key:
    digest = blake2b(work.task.encode() + b"\0" + work.example, digest_size=16)
    return len(work.example), digest.digest()
