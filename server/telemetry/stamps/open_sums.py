"""Sums in use, by key: kept in memory while they are warm, stored as absolute values.

A key that was removed from memory and returns (a late row, a late label) is first read from the
store, so that the whole sum is written each time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, ItemsView, KeysView
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Sum = TypeVar("Sum")


class OpenSums(Generic[Key, Sum]):
    """`read` returns the stored sum of a key, or a new one."""

    def __init__(self, read: Callable[[Key], Sum]) -> None:
        self._read = read
        self._open: dict[Key, Sum] = {}
        self._changed: set[Key] = set()

    def change(self, key: Key) -> Sum:
        """The sum, to be added to."""
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
        """Everything that `changed` returned is now in the store."""
        self._changed.clear()

    def drop(self, gone: Callable[[Key], bool]) -> None:
        """Remove these sums from memory, written or not."""
        for key in [k for k in self._open if gone(k)]:
            del self._open[key]
            self._changed.discard(key)

    def put_away(self, cold: Callable[[Key], bool]) -> None:
        """Remove cold sums that have not changed since they were written."""
        for key in [k for k in self._open if k not in self._changed and cold(k)]:
            del self._open[key]

    def __len__(self) -> int:
        return len(self._open)
