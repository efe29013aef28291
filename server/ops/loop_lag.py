"""Measures the longest turn of the event loop, and which call made it so long.

The loop sets a beat, and a thread checks for it. While the beat is missing, the thread reads which
task and which line of code the loop is running: afterwards this cannot be found out.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
BEAT_S = 0.1
HELD_S = 0.25  # a turn longer than this is examined
SHOWN_S = 60.0  # how long the longest turn is reported


class LoopLag:
    """`clock` is monotonic seconds. `start` is called on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self._where = ""  # where the current turn is
        self._longest = (0.0, "", self._beat)  # seconds, where, when
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._over = threading.Event()

    def start(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._beat = self._clock()
        self._loop.call_later(BEAT_S, self._on_beat)
        threading.Thread(target=self._watch, name="loop-lag", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    @property
    def longest_s(self) -> float:
        """The longest turn of the last minute, in seconds."""
        seconds, _, at = self._longest
        return seconds if self._clock() - at < SHOWN_S else 0.0

    @property
    def trouble(self) -> str:
        """A sentence on the call that blocked the loop too long within the last minute, or ""."""
        seconds, where, _ = self._longest
        if self.longest_s <= HELD_S or not where:
            return ""
        return (
            f"the event loop was blocked for {seconds:.2f} s by {where}: every caller waited for it"
        )

    def beat(self, now: float) -> None:
        """A beat of the loop: the turn that ends here may have been the longest."""
        took_s = max(now - self._beat - BEAT_S, 0.0)
        if took_s >= self.longest_s:
            self._longest = (took_s, self._where, now)
        self._beat, self._where = now, ""

    def look(self, where: Callable[[], str]) -> None:
        """Called by the thread: note where a turn is that is already too long."""
        if self._clock() - self._beat > HELD_S + BEAT_S and not self._where:
            self._where = where()

    def _on_beat(self) -> None:
        self.beat(self._clock())
        if self._loop is not None and not self._over.is_set():
            self._loop.call_later(BEAT_S, self._on_beat)

    def _watch(self) -> None:
        while not self._over.wait(BEAT_S):
            self.look(self._place)

    def _place(self) -> str:
        """The call and the line; "" when the loop is waiting and the machine itself is late."""
        frame = sys._current_frames().get(self._thread)
        if frame is None or Path(frame.f_code.co_filename).name == "selectors.py":
            return ""
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else "a callback"
        return f"{name} in {place_of(frame)}"


def place_of(frame: FrameType) -> str:
    """The innermost line of this project, or else the innermost line of all."""
    at: FrameType | None = frame
    while at is not None:
        file = Path(at.f_code.co_filename)
        if file.is_relative_to(ROOT / "server"):
            return f"{file.relative_to(ROOT)}:{at.f_lineno} {at.f_code.co_name}"
        at = at.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
