"""The one time axis: the window that all panels show, the brush, and the shared cross-hair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from PySide6.QtCore import QObject, Signal

from console.state.dashboard import View
from console.state.timetext import LONGEST_S, SHORTEST_S

SIMULATED_WINDOW_S = 2 * 86400.0
MOST_REMEMBERED = 50  # ranges kept for going back
# Changes closer together than this (a drag, a turn of the wheel) are one step of the history.
TOGETHER_S = 0.8
Shown = tuple[float, float | None, tuple[float, float] | None]  # window, end, brush


class TimeAxis(QObject):
    """`view` is what the cache is asked for; `span` is what the last board shows."""

    viewChanged = Signal(object)
    cursorChanged = Signal(float)
    brushChanged = Signal()

    def __init__(self, view: View, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.view = view
        self._real = clock
        # How far the axis is ahead of this machine's clock, where servers simulate time.
        self.ahead_s = 0.0
        self.speed = 1.0
        end = view.end_s if view.end_s is not None else self._clock()
        self.span = (end - view.window_s, end)
        self.cursor_s = math.nan
        self.locked = False
        self.markers: tuple[float, ...] = ()
        self._past: list[Shown] = []
        self._future: list[Shown] = []
        self._remembered_s = -math.inf

    def _clock(self) -> float:
        return self._real() + self.ahead_s

    def follow(self, ahead_s: float, speed: float) -> None:
        """Take over the clock of the last board. When simulated time begins, a live window is
        stretched by its speed, as ten minutes may pass in an instant; it becomes two days long at
        most."""
        began = speed > 1 and self.speed <= 1
        self.ahead_s, self.speed = ahead_s, speed
        if began and self.view.live:
            longest = max(self.view.window_s, SIMULATED_WINDOW_S)
            self.change(window_s=min(self.view.window_s * speed, longest))

    def change(self, **changes: object) -> None:
        view = replace(self.view, **changes)  # type: ignore[arg-type]
        if view != self.view:
            old = _range_of(self.view)
            if old != _range_of(view):
                self._remember(old)
            self.view = view
            self.viewChanged.emit(view)

    def _remember(self, old: Shown) -> None:
        now_s = self._real()
        if now_s - self._remembered_s > TOGETHER_S:
            self._past = [*self._past, old][-MOST_REMEMBERED:]
        self._remembered_s = now_s
        self._future.clear()

    def back(self) -> bool:
        """Go back to the range shown before; False if there is none."""
        return self._step(self._past, self._future)

    def forward(self) -> bool:
        """Return to the range shown before `back`; False if there is none."""
        return self._step(self._future, self._past)

    def _step(self, source: list[Shown], other: list[Shown]) -> bool:
        if not source:
            return False
        other.append(_range_of(self.view))
        window_s, end_s, brush = source.pop()
        self.view = replace(self.view, window_s=window_s, end_s=end_s, brush=brush)
        self._remembered_s = -math.inf
        end = end_s if end_s is not None else self._clock()
        self.span = (end - window_s, end)
        self.viewChanged.emit(self.view)
        self.brushChanged.emit()
        return True

    def show_range(self, from_s: float, to_s: float, live: bool) -> None:
        """Show a chosen range and drop the brush. A range that ends now follows the clock."""
        window = min(max(to_s - from_s, SHORTEST_S), LONGEST_S)
        self.change(window_s=window, end_s=None if live else to_s, brush=None)
        self.span = (to_s - window, to_s)
        self.brushChanged.emit()

    def shown(self, span: tuple[float, float]) -> None:
        """A board with this span is now on the screen."""
        self.span = span

    def brush(self, from_s: float, to_s: float) -> None:
        low, high = sorted((from_s, to_s))
        self.change(brush=(low, high))
        self.brushChanged.emit()

    def brush_middle(self) -> None:
        """Draw the brush by keyboard: around the cross-hair or near the end. Pressed again, make it
        wider by half."""
        low, high = self.span
        held = self.view.brush
        middle = sum(held) / 2 if held else self.cursor_s
        if middle != middle:
            middle = high - (high - low) * 0.25
        half = (held[1] - held[0]) * 0.75 if held else (high - low) / 12
        self.brush(max(low, middle - half), min(high, middle + half))

    def zoom(self, factor: float, at_s: float | None = None) -> None:
        """Make the window longer (factor > 1) or shorter around `at_s`. A zoom at the live edge
        stays live."""
        low, high = self.span
        window = min(max(self.view.window_s * factor, SHORTEST_S), LONGEST_S)
        if at_s is None:
            at_s = sum(self.view.brush) / 2 if self.view.brush else high
        part = (at_s - low) / max(high - low, 1e-9)
        end = at_s + (1 - part) * window
        if self.view.live and (part > 0.9 or end >= self._clock()):
            self.change(window_s=window)
            self.span = (high - window, high)
        else:
            self.go(end - window, end)

    def pan(self, part: float) -> None:
        """Move the window by a share of its length; past the present it becomes live again."""
        low, high = self.span
        shift = part * (high - low)
        if high + shift >= self._clock():
            self.live()
        else:
            self.go(low + shift, high + shift)

    def go(self, from_s: float, to_s: float) -> None:
        """Show a fixed window: the display is paused."""
        window = min(max(to_s - from_s, SHORTEST_S), LONGEST_S)
        self.change(window_s=window, end_s=to_s)
        self.span = (to_s - window, to_s)

    def around(self, at_s: float) -> None:
        """Show the window around a moment, with the moment a little after the middle: what led to
        it matters more."""
        if at_s != at_s:
            return
        low, high = self.span
        window = self.view.window_s
        if low <= at_s <= high - 0.05 * window:
            self.set_cursor(at_s, lock=True)
            return
        end = min(at_s + 0.4 * window, self._clock())
        self.go(end - window, end)
        self.set_cursor(at_s, lock=True)

    def zoom_to_brush(self) -> None:
        if self.view.brush is not None:
            low, high = self.view.brush
            margin = (high - low) * 0.05
            self.go(low - margin, high + margin)

    def live(self) -> None:
        """Go back to the live view: no brush, cross-hair unlocked."""
        self.locked = False
        self.set_cursor(math.nan)
        self.change(end_s=None, brush=None)
        self.brushChanged.emit()

    def pause(self) -> None:
        if self.view.live:
            self.go(*self.span)
        else:
            self.change(end_s=None)

    def set_cursor(self, at_s: float, lock: bool = False) -> None:
        if self.locked and not lock:
            return
        self.locked = lock or (self.locked and at_s == at_s)
        self.cursor_s = at_s
        self.cursorChanged.emit(at_s)

    def nudge(self, share: float) -> None:
        """Move the cross-hair by keys, by a share of the window, and lock it there."""
        low, high = self.span
        start = self.cursor_s if self.cursor_s == self.cursor_s else high
        self.set_cursor(min(max(start + share * (high - low), low), high), lock=True)

    def toggle_lock(self) -> None:
        self.locked = not self.locked and self.cursor_s == self.cursor_s
        self.cursorChanged.emit(self.cursor_s)

    def mark(self) -> None:
        """Put a marker at the cross-hair on every plot, or remove the one that is there."""
        at = self.cursor_s if self.cursor_s == self.cursor_s else self.span[1]
        near = (self.span[1] - self.span[0]) / 100
        kept = tuple(marker for marker in self.markers if abs(marker - at) > near)
        self.markers = kept if len(kept) < len(self.markers) else (*self.markers, at)
        self.cursorChanged.emit(self.cursor_s)


def _range_of(view: View) -> Shown:
    return view.window_s, view.end_s, view.brush
