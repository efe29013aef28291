"""Samples a figure repeatedly while something else is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Sampler(Generic[T]):
    """`seen` has the results of `look`, called at once and then every `every_s` seconds."""

    def __init__(self, look: Callable[[], T], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self.seen = [look()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self.seen.append(self._look())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        self._thread.join()
