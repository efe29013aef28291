"""Sums that are being added to, by key: kept in memory while they are warm, absolute in the store.

A key that was put away and comes back (a late row, a late label) is read from the store first, so
that what is written is always the whole sum.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, ItemsView, KeysView
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Sum = TypeVar("Sum")


class OpenSums(Generic[Key, Sum]):
    """`read` gives the stored sum of a key, or a new one."""

    def __init__(self, read: Callable[[Key], Sum]) -> None:
        self._read = read
        self._open: dict[Key, Sum] = {}
        self._changed: set[Key] = set()

    def change(self, key: Key) -> Sum:
        """The sum, about to be added to."""
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = self._read(key)
        self._changed.add(key)
        return found

    def get(self, key: Key) -> Sum | None:
        """The sum if it is open."""
        return self._open.get(key)

    def keys(self) -> KeysView[Key]:
        return self._open.keys()

    def items(self) -> ItemsView[Key, Sum]:
        return self._open.items()

    def changed(self) -> list[tuple[Key, Sum]]:
        return [(key, self._open[key]) for key in self._changed]

    def written(self) -> None:
        """All that `changed` gave is in the store now."""
        self._changed.clear()

    def drop(self, gone: Callable[[Key], bool]) -> None:
        """Forgets these, written or not."""
        for key in [k for k in self._open if gone(k)]:
            del self._open[key]
            self._changed.discard(key)

    def put_away(self, cold: Callable[[Key], bool]) -> None:
        """Forgets what is cold and unchanged since it was written."""
        for key in [k for k in self._open if k not in self._changed and cold(k)]:
            del self._open[key]

    def __len__(self) -> int:
        return len(self._open)
