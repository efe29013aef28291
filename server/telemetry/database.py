"""Opens telemetry.db, whatever state it is in: a file that cannot be used is set aside, never
deleted, and a new one begun, because predictions must go on."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from server.telemetry.schema import migrations

logger = logging.getLogger(__name__)

NAME = "telemetry.db"
CHECKED_BYTES = 256 << 20  # larger files are not read through at start: 1 s for each GB
BUSY_MS = 5000


@dataclass(frozen=True, slots=True)
class Opened:
    """`trouble` is "" or one sentence on why this is not the file that was asked for."""

    connection: sqlite3.Connection
    path: Path
    trouble: str
    lock: int  # descriptor of the lock file; closing it lets another server in

    def close(self) -> None:
        self.connection.close()
        os.close(self.lock)


def open_database(folder: Path, now: float) -> Opened:
    """The writer's connection, migrated. `now` in unix seconds names a file set aside.

    A folder that cannot be written to is replaced by a temporary one. Raises OSError or
    sqlite3.Error only when that fails as well.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _open_or_set_aside(folder, now)
    except (OSError, sqlite3.Error) as fault:
        spare = Path(tempfile.mkdtemp(prefix="trefoil-telemetry-"))
        trouble = f"{folder} cannot be written ({fault}): kept in {spare}, lost at the next start"
        logger.error("telemetry: %s", trouble)
        return Opened(_open(spare / NAME), spare / NAME, trouble, _lock(spare))


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read; its rows can be read by name."""
    connection = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, timeout=BUSY_MS / 1000, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = 1")
    connection.row_factory = sqlite3.Row
    return connection


def set_aside(folder: Path, now: float, reason: str) -> str:
    """Renames the file and its log, which somebody may want to look at; says so. The file must be
    closed. Raises OSError."""
    aside = f"telemetry.unusable-{int(now)}.db"
    for ending in ("", "-wal", "-shm"):
        if (old := folder / (NAME + ending)).exists():
            os.replace(old, folder / (aside + ending))
    trouble = f"{folder / NAME} could not be used ({reason}): set aside as {aside}, a new one begun"
    logger.error("telemetry: %s", trouble)
    return trouble


def _open_or_set_aside(folder: Path, now: float) -> Opened:
    path = folder / NAME
    lock = _lock(folder)
    try:
        return Opened(_open(path), path, "", lock)
    except (sqlite3.DatabaseError, IsADirectoryError) as fault:
        trouble = set_aside(folder, now, str(fault))
    return Opened(_open(path), path, trouble, lock)


def _lock(folder: Path) -> int:
    """Raises OSError when another server writes here: two writers would count twice."""
    lock = os.open(folder / "telemetry.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OSError("another server keeps its telemetry there") from None
    return lock


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        path.touch(mode=0o600)  # payloads are somebody's words and pictures
    connection = sqlite3.connect(
        path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
    )
    with ExitStack() as unless_ready:
        unless_ready.callback(connection.close)
        _prepare(connection, path)
        unless_ready.pop_all()
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise sqlite3.OperationalError("no write-ahead log on this file system")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("PRAGMA cache_size = -8000")
    connection.execute("BEGIN IMMEDIATE")  # fails on a read-only file
    connection.execute("COMMIT")
    if path.stat().st_size <= CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    migrations.apply(Database(connection))
