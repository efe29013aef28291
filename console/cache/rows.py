"""Reads the small tables of the cache, whole or by time. One function for each table."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from console.cache.codec import unpack
from console.cache.interned import InternedTexts
from console.cache.schema import VERSION
from console.state.domain import (
    Action,
    Link,
    ServerRecord,
    ServerSnapshot,
)
from server.telemetry.rows import (
    AlertRow,
    AnnotationRow,
    DeployRow,
    QualityRow,
    SilenceRow,
    SliceRow,
)

T = TypeVar("T")


def open_for_reading(path: Path) -> sqlite3.Connection | None:
    """A read-only connection; None until the writer has created or migrated the file. Raises
    sqlite3.Error."""
    if not path.exists():
        return None
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    db.execute("PRAGMA busy_timeout = 2000")
    db.execute("PRAGMA cache_size = -16000")
    if db.execute("PRAGMA user_version").fetchone()[0] < VERSION:
        db.close()
        return None
    return db


def servers(db: sqlite3.Connection) -> dict[str, ServerRecord]:
    """Every server the cache has ever seen, as offline; a caller with a link replaces that
    state."""
    found = {}
    for address, body, heard_ms, offset_ms, instance in db.execute(
        "SELECT address, body, max(heard_ms, snapshot_ms), offset_ms, instance FROM server"
        " ORDER BY rowid"
    ):
        link = Link(
            address=address,
            state="offline",
            heard_s=heard_ms / 1000,
            offset_ms=math.nan if offset_ms is None else offset_ms,
            instance=instance,
        )
        found[address] = ServerRecord(link, unpack(ServerSnapshot, body))
    return found


def cursors(db: sqlite3.Connection) -> dict[str, tuple[str, int, float]]:
    """By address: (instance, cursor, last heard in unix ms)."""
    rows = db.execute("SELECT address, instance, cursor, heard_ms FROM server")
    return {address: (instance, cursor, heard) for address, instance, cursor, heard in rows}


def _bodies(
    db: sqlite3.Connection,
    names: InternedTexts,
    kind: type[T],
    table: str,
    where: tuple[str, Sequence[object]],
) -> list[tuple[str, T]]:
    rows = db.execute(f"SELECT server, body FROM {table} WHERE {where[0]}", where[1])
    return [(names.text(server), unpack(kind, body)) for server, body in rows]


def alerts(db: sqlite3.Connection, names: InternedTexts) -> list[tuple[str, AlertRow]]:
    """The newest 500 alerts, in any state."""
    return _bodies(db, names, AlertRow, "alert", ("1 ORDER BY at_ms DESC LIMIT 500", ()))


def silences(
    db: sqlite3.Connection, names: InternedTexts, now_ms: float
) -> list[tuple[str, SilenceRow]]:
    return _bodies(db, names, SilenceRow, "silence", ("at_ms > ?", (now_ms,)))


def written_notes(db: sqlite3.Connection, names: InternedTexts) -> list[tuple[str, AnnotationRow]]:
    """The newest 1,000 notes by the time they are about, newest first."""
    where = ("1 ORDER BY at_ms DESC LIMIT 1000", ())
    return _bodies(db, names, AnnotationRow, "annotation", where)


def deploys(db: sqlite3.Connection, names: InternedTexts) -> list[tuple[str, DeployRow]]:
    """The newest 500 deploys, newest first."""
    return _bodies(db, names, DeployRow, "deploy", ("1 ORDER BY at_ms DESC LIMIT 500", ()))


def quality(
    db: sqlite3.Connection, names: InternedTexts, from_ms: float, to_ms: float
) -> list[tuple[str, QualityRow]]:
    where = ("at_ms >= ? AND at_ms < ? ORDER BY at_ms LIMIT 5000", (from_ms, to_ms))
    return _bodies(db, names, QualityRow, "quality", where)


def slices(db: sqlite3.Connection, names: InternedTexts) -> list[tuple[str, SliceRow]]:
    """The newest finding for each expression, worst first."""
    rows = _bodies(db, names, SliceRow, "slice", ("1 ORDER BY at_ms DESC LIMIT 200", ()))
    return sorted(rows, key=lambda row: -row[1].z)


def actions(db: sqlite3.Connection) -> list[Action]:
    columns = "id, server, kind, target, actor, note, until_unix_ms, undo, state, detail, at_s"
    rows = db.execute(f"SELECT {columns} FROM action ORDER BY id DESC LIMIT 200")
    fields = columns.split(", ")
    found = [dict(zip(fields, row, strict=True)) for row in rows]
    return [Action(**{**action, "undo": bool(action["undo"])}) for action in found]


def meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return "" if row is None else str(row[0])


def payload(
    db: sqlite3.Connection, names: InternedTexts, server: str, identity: str
) -> bytes | None:
    row = db.execute(
        "SELECT body FROM payload WHERE server = ? AND id = ?", (names.find(server), identity)
    ).fetchone()
    return None if row is None else bytes(row[0])
