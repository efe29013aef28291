"""The one thread that writes the cache. Other threads give it rows and continue. When it falls
behind, `backlog` makes the feed stop reading, and gRPC's flow control slows the server down."""

from __future__ import annotations

import functools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from console.cache import retention
from console.cache.insert import TextIds, insert
from console.cache.schema import CacheTooNew, open_for_writing
from console.state.domain import Action, ReceivedRow

log = logging.getLogger(__name__)
BATCH_S = 0.1  # rows wait at most this long to be written in one transaction
TIDY_EVERY_S = 30.0

Job = Callable[[sqlite3.Connection], frozenset[str]]


@dataclass(eq=False)
class CacheWriter:
    """`on_written(tables)` is called from the writer's thread after each commit."""

    path: Path
    on_written: Callable[[frozenset[str]], None]
    limit_bytes: int = 2 << 30
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.behind_s = 0.0  # offset to the time axis, where servers simulate a time in the past
        self._queue: queue.SimpleQueue[Sequence[ReceivedRow] | Job | None] = queue.SimpleQueue()
        self._waiting = 0  # by `_weight`; other threads read it only as a rough backlog
        self._written = 0
        self.trouble = ""  # why nothing is written; shown in the status bar
        self._thread = threading.Thread(target=self._run, name="cache writer", daemon=True)

    @property
    def backlog(self) -> int:
        return max(0, self._waiting - self._written)

    def start(self) -> None:
        self._thread.start()

    def put(self, events: Sequence[ReceivedRow]) -> None:
        if events and not self.trouble:
            self._waiting += _weight(events)
            self._queue.put(events)

    def do(self, job: Job) -> None:
        """Run `job` on the writing connection, after everything that was put before it."""
        self._queue.put(job)

    def set_meta(self, key: str, value: str) -> None:
        self._run_sql("meta", "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", key, value)

    def add_action(self, action: Action) -> None:
        values = {f.name: getattr(action, f.name) for f in fields(action) if f.name != "id"}
        marks = ",".join("?" * len(values))
        statement = f"INSERT INTO action ({', '.join(values)}) VALUES ({marks})"
        self._run_sql("action", statement, *values.values())

    def end_action(self, action_id: int, state: str, detail: str) -> None:
        statement = "UPDATE action SET state = ?, detail = ? WHERE id = ?"
        self._run_sql("action", statement, state, detail, action_id)

    def set_offset(self, server: str, offset_ms: float) -> None:
        statement = "UPDATE server SET offset_ms = ? WHERE address = ?"
        self._run_sql("server", statement, offset_ms, server)

    def keep_payload(self, server: str, prediction_id: str, body: bytes) -> None:
        self.do(lambda db: _keep_payload(db, (server, prediction_id, self.clock(), body)))

    def _run_sql(self, table: str, statement: str, *values: object) -> None:
        def job(db: sqlite3.Connection) -> frozenset[str]:
            db.execute(statement, values)
            return frozenset({table})

        self.do(job)

    def close(self, timeout_s: float = 5.0) -> None:
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            connection = open_for_writing(self.path)
        except (CacheTooNew, OSError, sqlite3.Error) as error:
            # The console continues with what it can read, and the status bar shows the problem.
            self.trouble = f"cannot write the cache: {error}"
            self.on_written(frozenset({"meta"}))
            return
        try:
            self._loop(connection, TextIds(connection))
        finally:
            connection.close()

    def _loop(self, connection: sqlite3.Connection, names: TextIds) -> None:
        self.on_written(frozenset({"opened"}))
        tidied = self.clock()
        while True:
            jobs = self._collect()
            if jobs is None:
                return
            self._write(connection, names, jobs)
            now_s = self.clock()
            if now_s - tidied > TIDY_EVERY_S:
                tidied = now_s
                then_s = now_s - self.behind_s
                tidy = functools.partial(retention.tidy, connection, then_s, self.limit_bytes)
                self.on_written(self._guard(tidy))

    def _collect(self) -> list[Sequence[ReceivedRow] | Job] | None:
        """What arrived in the last BATCH_S; None at the end."""
        try:
            found = self._queue.get(timeout=1.0)
        except queue.Empty:
            return []
        jobs: list[Sequence[ReceivedRow] | Job] = []
        until = time.monotonic() + BATCH_S
        while found is not None:
            jobs.append(found)
            left = until - time.monotonic()
            if left <= 0 or len(jobs) > 2000:
                return jobs
            try:
                found = self._queue.get(timeout=left)
            except queue.Empty:
                return jobs
        # The end marker again: write what came before it, then meet it in the next round.
        self._queue.put(None)
        return jobs or None

    def _write(
        self,
        connection: sqlite3.Connection,
        names: TextIds,
        jobs: list[Sequence[ReceivedRow] | Job],
    ) -> None:
        tables: frozenset[str] = frozenset()
        events: list[ReceivedRow] = []
        for job in jobs:
            if callable(job):
                if events:
                    tables |= self._guard(functools.partial(insert, connection, names, events))
                    self._written += _weight(events)
                    events = []
                tables |= self._guard(functools.partial(job, connection))
            else:
                events.extend(job)
        if events:
            tables |= self._guard(functools.partial(insert, connection, names, events))
            self._written += _weight(events)
        if tables:
            self.on_written(tables)

    def _guard(self, work: Callable[[], frozenset[str]]) -> frozenset[str]:
        """Run `work`. A full disk or a locked file loses rows and is reported; the thread
        continues."""
        try:
            done = work()
        except sqlite3.Error as error:
            log.error("cache write failed: %s", error)
            self.trouble = f"cannot write the cache: {error}"
            return frozenset({"meta"})
        self.trouble = ""
        return done


def _weight(events: Sequence[ReceivedRow]) -> int:
    """A row counts once for each KiB it took on the wire, as a backlog costs memory."""
    return sum(1 + event.size // 1024 for event in events)


def _keep_payload(
    db: sqlite3.Connection, row: tuple[str, str, float, bytes], most: int = 400
) -> frozenset[str]:
    server, prediction_id, now, body = row
    db.execute("INSERT OR IGNORE INTO name (text) VALUES (?)", (server,))
    db.execute(
        "INSERT OR REPLACE INTO payload (server, id, used_s, body)"
        " SELECT id, ?, ?, ? FROM name WHERE text = ?",
        (prediction_id, now, body, server),
    )
    db.execute(
        "DELETE FROM payload WHERE used_s < (SELECT min(used_s) FROM"
        " (SELECT used_s FROM payload ORDER BY used_s DESC LIMIT ?))",
        (most,),
    )
    return frozenset({"payload"})
