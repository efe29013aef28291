"""The interface of every place that keeps bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class FetchBroken(Exception):
    """The connection or the place failed for now. What has arrived is kept, and a later fetch
    continues there."""


@dataclass(frozen=True, slots=True)
class Body:
    """A file from byte `start` on: the requested position, or 0 if the place cannot continue.
    `read` returns at most the requested number of bytes, and none at the end; it raises
    FetchBroken."""

    start: int
    read: Callable[[int], bytes]
    close: Callable[[], None]


class Keeper(Protocol):
    """Names are paths below the bundle. Every method raises FetchRefused and FetchBroken."""

    def small(self, name: str, most: int) -> bytes | None:
        """A whole file of at most `most` bytes; None if it does not exist."""

    def open(self, name: str, start: int) -> Body:
        """A file from byte `start` on; the caller closes it."""
