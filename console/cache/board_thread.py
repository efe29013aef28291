"""The reading thread: turns the cache and the state of the links into the next `Board`. It makes at
most PER_SECOND boards a second; a change of the view is served sooner."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from console.cache import rows
from console.cache.build_board import BoardBuilder, empty_board
from console.state.dashboard import Board, CacheUsage, View
from console.state.domain import Link

log = logging.getLogger(__name__)
PER_SECOND = 4.0
SLOW_S = 1.0  # a board is made this often even without news, as ages grow
SPARE = 0.3  # reading takes at most this share of the time, whatever the load


@dataclass(eq=False)
class BoardThread:
    """`links` gives the state of the feed (None: offline). `publish` takes each board and is called
    from this thread. `opened` is called once, with what the cache knows of each server's stream."""

    path: Path
    links: Callable[[], Mapping[str, Link] | None]
    publish: Callable[[Board], None]
    opened: Callable[[Mapping[str, tuple[str, int, float]], str], None]
    health: Callable[[], tuple[int, str]] = lambda: (0, "")
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._view = View()
        self._wake = threading.Event()
        self._hurry = False
        self._stop = False
        self._dirty: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="cache reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set_view(self, view: View) -> None:
        """Set what to show from now on; the next board comes at once."""
        self._view = view
        self._hurry = True
        self._wake.set()

    def touched(self, tables: frozenset[str]) -> None:
        """Report that a table was written or a link changed."""
        with self._lock:
            self._dirty |= tables
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        self._stop = True
        self._hurry = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        builder: BoardBuilder | None = None
        announced = False
        while not self._stop:
            self._hurry = False
            self._wake.clear()
            if builder is None:
                builder = self._open()
            began = time.monotonic()
            self._read(builder)
            if not announced:
                announced = True
                self._announce(builder)
            self._pause(time.monotonic() - began)
        if builder is not None:
            builder.db.close()

    def _open(self) -> BoardBuilder | None:
        try:
            db = rows.open_for_reading(self.path)
        except sqlite3.Error as error:
            log.warning("the cache cannot be read yet: %s", error)
            return None
        return None if db is None else BoardBuilder(db)

    def _announce(self, builder: BoardBuilder | None) -> None:
        known, layout = {}, ""
        if builder is not None:
            known = rows.cursors(builder.db)
            layout = rows.meta(builder.db, "layout")
        self.opened(known, layout)

    def _read(self, builder: BoardBuilder | None) -> None:
        with self._lock:
            dirty, self._dirty = frozenset(self._dirty), set()
        view, now_s = self._view, self.clock()
        waiting, trouble = self.health()
        if builder is None:
            board = empty_board(view, now_s, self.links(), trouble)
        else:
            began = time.perf_counter()
            try:
                board = builder.board(view, now_s, self.links(), dirty)
            except sqlite3.Error as error:
                # Locked or damaged: the last board stays, and its ages keep growing.
                log.error("cache read failed: %s", error)
                return
            usage = CacheUsage(
                cache_bytes=_size(self.path),
                read_ms=(time.perf_counter() - began) * 1000,
                rows_waiting=waiting,
                trouble=trouble,
                path=str(self.path),
            )
            board = replace(board, usage=usage)
        self.publish(board)

    def _pause(self, took_s: float) -> None:
        """Wait until something is new, but not before the next board is due."""
        due = time.monotonic() + max(1 / PER_SECOND - took_s, took_s * (1 / SPARE - 1))
        self._wake.wait(SLOW_S)
        while not self._hurry and not self._stop:
            left = due - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            if self._hurry or not self._wake.wait(left):
                return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
