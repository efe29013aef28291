"""What every place that keeps bundles offers to the one that fetches from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class FetchBroken(Exception):
    """The connection or the place failed for now: what has arrived is kept and can be continued."""


@dataclass(frozen=True, slots=True)
class Body:
    """A file from byte `start` on: that which was asked for, or 0 where the place cannot continue.
    `read` returns at most so many bytes, none at the end; it raises FetchBroken."""

    start: int
    read: Callable[[int], bytes]
    close: Callable[[], None]


class Keeper(Protocol):
    """Names are paths below the bundle. Everything raises FetchRefused and FetchBroken."""

    def small(self, name: str, most: int) -> bytes | None:
        """A whole file of at most `most` bytes; None where there is none."""

    def open(self, name: str, start: int) -> Body:
        """A file from byte `start` on; its caller closes it."""
