"""A SQLite file of spans, events and metric points, for servers without a collector.

One thread writes. A disk that fails costs telemetry, which is counted, and nothing else.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from server.telemetry.errors import ExportRefused
from server.telemetry.otel.sqlite import TABLES, Batch

logger = logging.getLogger(__name__)

MIB = 1 << 20
WAITING_BATCHES = 256
SWEEP_S = 600.0
CHUNK_ROWS = 5000  # deleted in one transaction, so that no reader waits long
AGED = {"otel_span": "end_ns", "otel_event": "at_ns", "otel_point": "at_ns"}
MODE = 0o600  # names of clients and slices are nobody else's business


class SqliteFile:
    """A sink for the exporters of sqlite.py. Rows older than `keep_s` go, and the oldest ones while
    the file is larger than `max_bytes`. Raises ExportRefused when the file cannot be written."""

    def __init__(
        self,
        path: Path,
        keep_s: float,
        max_bytes: int = 512 * MIB,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.lost = 0  # rows the disk did not take
        self.path = path
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._wall = wall
        self._failing = ""
        self._queue: queue.Queue[Batch | None] = queue.Queue(WAITING_BATCHES)
        self._database = self._open()
        self._thread = threading.Thread(target=self._run, name="otel-file", daemon=True)
        self._thread.start()

    def put_nowait(self, item: Batch, /) -> None:
        """Raises queue.Full."""
        self._queue.put_nowait(item)

    def close(self) -> None:
        """Writes what waits. Again: does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(MODE)
            # Opened here for the refusal, used by the one thread from then on.
            database = sqlite3.connect(self.path, check_same_thread=False)
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA busy_timeout = 5000")
            with database:
                for statement in TABLES:
                    database.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise ExportRefused(f"--otel-file {self.path}: {error}") from None
        return database

    def _run(self) -> None:
        swept_s = time.monotonic()
        while True:
            try:
                batch = self._queue.get(timeout=SWEEP_S)
            except queue.Empty:
                batch = Batch("", ())
            if batch is None:
                break
            self._write(batch)
            if time.monotonic() - swept_s >= SWEEP_S:
                swept_s = time.monotonic()
                self.sweep()
        self._database.close()

    def _write(self, batch: Batch) -> None:
        if batch.rows and not self._safely(lambda: self._insert(batch)):
            self.lost += len(batch.rows)
        if batch.written is not None:
            batch.written.set()

    def _insert(self, batch: Batch) -> None:
        with self._database:
            self._database.executemany(batch.insert, batch.rows)

    def sweep(self) -> None:
        """Let old rows go; by the writing thread, or when it has none to write."""
        self._safely(self._let_go)

    def _let_go(self) -> None:
        oldest_ns = int((self._wall() - self._keep_s) * 1e9)
        for table, column in AGED.items():
            while self._delete(table, CHUNK_ROWS, f"{column} < {oldest_ns}") == CHUNK_ROWS:
                pass
        while self._used_bytes() > self._max_bytes:
            if not sum(self._delete(table, CHUNK_ROWS) for table in AGED):
                break
        # Not `execute`, which stops after the first page.
        self._database.executescript("PRAGMA incremental_vacuum")

    def _delete(self, table: str, count: int, condition: str = "TRUE") -> int:
        """Of the oldest `count` rows, in the order they were written, those that meet it."""
        oldest = f"SELECT rowid FROM {table} ORDER BY rowid LIMIT {count}"
        statement = f"DELETE FROM {table} WHERE rowid IN ({oldest}) AND {condition}"
        with self._database:
            return self._database.execute(statement).rowcount

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _safely(self, work: Callable[[], None]) -> bool:
        """Whether the disk took it; said in the log when that changes."""
        try:
            work()
        except sqlite3.Error as error:
            if str(error) != self._failing:
                logger.error("%s takes nothing: %s", self.path, error)
            self._failing = str(error)
            return False
        if self._failing:
            logger.warning("%s takes rows again; %d were lost", self.path, self.lost)
            self._failing = ""
        return True
