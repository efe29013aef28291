"""Opens telemetry.db, whatever its state. A damaged file is set aside, never deleted, and a new one
is created, because predictions must continue. A file that is only locked, or on a full disk, stays
where it is: the next start continues with its history."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from sqlite_utils import Database

from server.telemetry.store.schema import add_missing_columns, migrations, missing_columns

logger = logging.getLogger(__name__)

NAME = "telemetry.db"
LOCK = "telemetry.lock"
SPARE = "trefoil-telemetry-"  # prefix of temporary folders
SPARE_S = 3600.0  # an unused one is kept this long, for inspection
# Larger files are not read completely at start: that takes 1 s for each GB.
CHECKED_BYTES = 256 << 20
BUSY_MS = 5000
# The file may be intact: another program holds it, or the disk is full or does not answer.
NOT_DAMAGED = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}


@dataclass(frozen=True, slots=True)
class Opened:
    """`trouble` is "" or one sentence on why this is not the requested file."""

    connection: sqlite3.Connection
    path: Path
    trouble: str
    lock: BinaryIO  # closing it releases the lock for another server
    file: tuple[int, int]  # device and inode
    temporary: bool = False  # in a folder that the next start does not use

    @property
    def there(self) -> bool:
        """Whether the path still leads to this file: it was not removed or replaced."""
        return _identity(self.path) == self.file

    def close(self) -> None:
        """A temporary folder stays if it holds a prediction. Further calls do nothing."""
        empty = self.temporary and _holds_nothing(self.connection)
        self.connection.close()
        self.lock.close()
        if empty:
            shutil.rmtree(self.path.parent, ignore_errors=True)


def open_database(folder: Path, now: float) -> Opened:
    """The writer's connection, migrated. `now` in unix seconds names a file set aside.

    A folder or a file that cannot be written to now is replaced by a temporary folder. Raises
    OSError or sqlite3.Error only when that fails as well.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _open_or_set_aside(folder, now)
    except (OSError, sqlite3.Error) as fault:
        _clear_spares()
        spare = Path(tempfile.mkdtemp(prefix=SPARE))
        trouble = (
            f"{folder} cannot be written ({fault}): kept in {spare} until the next start; mend that"
            " and start again to go on in the old place"
        )
        logger.error("telemetry: %s", trouble)
        with _locked(spare) as lock:
            return replace(_opened(spare / NAME, trouble, lock), temporary=True)


def _clear_spares() -> None:
    """Remove the temporary folders of earlier servers of this user: a server that restarts
    repeatedly beside a folder it cannot write to would fill the disk."""
    for folder in Path(tempfile.gettempdir()).glob(SPARE + "*"):
        with suppress(OSError):
            found = folder.lstat()
            old = time.time() - (folder / LOCK).stat().st_mtime > SPARE_S
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and old:
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _holds_nothing(connection: sqlite3.Connection) -> bool:
    kept = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name GLOB 'prediction_[0-9]*'"
    try:
        return connection.execute(kept).fetchone() is None
    except sqlite3.Error:
        return False  # it is closed, or cannot be read: leave it for inspection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection; its rows have names."""
    connection = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, timeout=BUSY_MS / 1000, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = 1")
    connection.row_factory = sqlite3.Row
    return connection


def require_current(path: Path) -> None:
    """Raises sqlite3.DatabaseError for a file that no server of this version has opened yet, as it
    lacks tables or columns."""
    with closing(open_reader(path)) as connection:
        if migrations.pending(Database(connection)) or any(missing_columns(connection)):
            raise sqlite3.DatabaseError(
                f"{NAME} was written by an older version; start `server` with this --data once, "
                "which migrates it, or use the version that wrote it"
            )


def set_aside(folder: Path, now: float, reason: str) -> str:
    """Rename the file and its log for later inspection, and log it. The file must be closed. Raises
    OSError."""
    aside = f"telemetry.unusable-{int(now)}.db"
    for ending in ("", "-wal", "-shm"):
        if (old := folder / (NAME + ending)).exists():
            os.replace(old, folder / (aside + ending))
    trouble = f"{folder / NAME} could not be used ({reason}): set aside as {aside}"
    logger.error("telemetry: %s", trouble)
    return trouble


def _open_or_set_aside(folder: Path, now: float) -> Opened:
    path = folder / NAME
    with _locked(folder) as lock:
        try:
            return _opened(path, "", lock)
        except sqlite3.DatabaseError as fault:
            if _passes(fault):
                raise
            trouble = set_aside(folder, now, str(fault))
        return _opened(path, trouble, lock)


def _passes(fault: sqlite3.Error) -> bool:
    """Whether the error is temporary, and not one of the file."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF in NOT_DAMAGED


def _opened(path: Path, trouble: str, lock: BinaryIO) -> Opened:
    return Opened(_open(path), path, trouble, lock, _identity(path))


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@contextmanager
def _locked(folder: Path) -> Iterator[BinaryIO]:
    """A lock that stays held unless the code inside fails. Raises OSError when another server
    writes here: two writers would count twice."""
    with ExitStack() as unless_opened:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        lock = unless_opened.enter_context(os.fdopen(descriptor, "rb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError("another server has this folder in use") from None
        yield lock
        unless_opened.pop_all()


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        path.touch(mode=0o600)  # payloads are private
    connection = sqlite3.connect(
        path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
    )
    with ExitStack() as unless_ready:
        unless_ready.callback(connection.close)
        _prepare(connection, path)
        unless_ready.pop_all()
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # effective only before the first table
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
    add_missing_columns(connection)
