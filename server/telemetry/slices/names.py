"""The slices of traffic that get their own figures: a limited number of `key=value` request tags.

The slices of the bundle's reference always get figures. Any other value needs enough traffic first:
a flood of new values (a user id sent as a tag by mistake) then costs only a bounded table and does
not displace a site. Rows of values without figures count as `key=other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LIMIT = 32  # slices with their own figures, not counting `other`
KEYS = 8  # tag keys considered
TEXT = 64  # characters of a key or value
EARNED_ROWS = 20  # rows of a new value before it gets its own figures
CANDIDATES = 2048  # new values counted at a time; a full table is cleared

OTHER = "other"


class SliceNames:
    def __init__(self, given: Iterable[str] = (), limit: int = LIMIT) -> None:
        self._limit = limit
        self._names: set[str] = set()
        self._keys: set[str] = set()
        self._waiting: dict[str, int] = {}
        self.turned_away = 0  # rows counted as `other` or in no slice
        for name in given:
            self._admit(name)

    def of(self, tags: Mapping[str, str]) -> list[str]:
        """The slices that a row counts for, besides all traffic."""
        found = []
        for key, value in tags.items():
            key, value = key[:TEXT], value[:TEXT]
            name = f"{key}={value}"
            if name in self._names or self._earns(key, name):
                found.append(name)
                continue
            self.turned_away += 1
            if key in self._keys:
                found.append(f"{key}={OTHER}")
        return found

    def known(self, tags: Mapping[str, str]) -> list[str]:
        """Like `of`, but does not count the row."""
        names = [(k[:TEXT], f"{k[:TEXT]}={v[:TEXT]}") for k, v in tags.items()]
        return [
            name if name in self._names else f"{key}={OTHER}"
            for key, name in names
            if name in self._names or key in self._keys
        ]

    def _earns(self, key: str, name: str) -> bool:
        if len(self._names) >= self._limit or (key not in self._keys and len(self._keys) >= KEYS):
            return False
        if len(self._waiting) >= CANDIDATES:
            self._waiting.clear()
        self._keys.add(key)
        self._waiting[name] = self._waiting.get(name, 0) + 1
        if self._waiting[name] < EARNED_ROWS:
            return False
        self._admit(name)
        return True

    def _admit(self, name: str) -> None:
        key, _, value = name.partition("=")
        if value != OTHER and len(self._names) < self._limit:
            self._names.add(name)
            self._keys.add(key)
            self._waiting.pop(name, None)
