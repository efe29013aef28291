"""Tables of the cache and their migrations. Texts that repeat in every row (stamps, features,
slices) are kept once in `name`. Small rows that are only read whole are kept as JSON."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from server.telemetry.outputs import OUTPUT_NAMES, OUTPUTS, TIME_NAMES

VERSION = 3  # PRAGMA user_version; a higher one means that a newer console wrote the file

_COLD = (
    ("alert", "server INTEGER, id TEXT, at_ms INTEGER", "server, id"),
    ("deploy", "server INTEGER, at_ms INTEGER, id TEXT", "server, at_ms, id"),
    ("quality", "server INTEGER, at_ms INTEGER, id TEXT", "server, at_ms, id"),
    ("slice", "server INTEGER, id TEXT, at_ms INTEGER", "server, id"),
    ("silence", "server INTEGER, id TEXT, at_ms INTEGER", "server, id"),
    ("feature", "stamp INTEGER, name INTEGER, at_ms INTEGER", "stamp, name"),
)

_SINCE_3 = (("annotation", "server INTEGER, id TEXT, at_ms INTEGER", "server, id"),)

# These columns are written and read by position.
LATENCY = (
    *("bucket_ms", "server", "stamp", "mix", "replica", "width_s", "requests", "errors", "counts"),
    *(*TIME_NAMES, "batch_rows", "exemplars"),
)
# Shares of 0 to 1, except power (watts of all GPUs) and heat (degrees Celsius of the hottest GPU).
HOST = ("at_ms", "server", "cpu", "memory", "disk", "gpu_memory", "gpu", "power", "heat")
PREDICTION = (
    *("server", "id", "at_ms", "stamp", "mix", "label", "true_label", *TIME_NAMES, "batch_size"),
    *("replica", "slices", "error", "kept", "client", "session", "trace_id", "features", "task"),
    *("batch_mates", "error_message", *OUTPUT_NAMES),
)
# Columns that an older file may lack.
ADDED = (*((spec.name, spec.column) for spec in OUTPUTS), ("error_message", "TEXT"))
_HOT = """
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE server (address TEXT PRIMARY KEY, body TEXT NOT NULL, snapshot_ms REAL NOT NULL,
  heard_ms REAL NOT NULL, offset_ms REAL, instance TEXT NOT NULL, cursor INTEGER NOT NULL);
CREATE TABLE latency (seq INTEGER PRIMARY KEY AUTOINCREMENT, level INTEGER NOT NULL,
  bucket_ms INTEGER NOT NULL, server INTEGER NOT NULL, stamp INTEGER NOT NULL,
  mix INTEGER NOT NULL, replica INTEGER NOT NULL, width_s INTEGER NOT NULL,
  requests INTEGER NOT NULL, errors INTEGER NOT NULL, counts BLOB NOT NULL, queue_ms REAL,
  decode_ms REAL, preprocess_ms REAL, forward_ms REAL, post_ms REAL, total_ms REAL,
  batch_rows INTEGER NOT NULL, exemplars TEXT NOT NULL,
  UNIQUE (level, bucket_ms, server, stamp, mix, replica));
CREATE TABLE changed (level INTEGER NOT NULL, bucket_ms INTEGER NOT NULL,
  PRIMARY KEY (level, bucket_ms)) WITHOUT ROWID;
CREATE TABLE profile (server INTEGER NOT NULL, stamp INTEGER NOT NULL, feature INTEGER NOT NULL,
  slice INTEGER NOT NULL, hour_s INTEGER NOT NULL, n INTEGER NOT NULL, sum REAL, sum_squares REAL,
  min REAL, max REAL, missing INTEGER NOT NULL, nonfinite INTEGER NOT NULL, counts BLOB NOT NULL,
  PRIMARY KEY (hour_s, stamp, feature, slice, server)) WITHOUT ROWID;
CREATE TABLE drift (tick_ms INTEGER NOT NULL, server INTEGER NOT NULL, stamp INTEGER NOT NULL,
  feature INTEGER NOT NULL, slice INTEGER NOT NULL, window_s INTEGER NOT NULL,
  baseline TEXT NOT NULL, n REAL, n_effective REAL, n_needed REAL, ks REAL, p REAL, q REAL,
  kl REAL, js REAL, psi REAL, chi2_p REAL, excess_kl REAL, expected_kl REAL, level TEXT NOT NULL,
  structural TEXT NOT NULL,
  PRIMARY KEY (tick_ms, server, stamp, feature, slice, window_s, baseline)) WITHOUT ROWID;
CREATE TABLE prediction (seq INTEGER PRIMARY KEY, server INTEGER NOT NULL, id TEXT NOT NULL,
  at_ms INTEGER NOT NULL, stamp INTEGER NOT NULL, mix INTEGER NOT NULL, label INTEGER NOT NULL,
  true_label INTEGER NOT NULL, confidence REAL, margin REAL, entropy REAL, closed_set_mass REAL,
  queue_ms REAL, decode_ms REAL, preprocess_ms REAL, forward_ms REAL, post_ms REAL, total_ms REAL,
  batch_size INTEGER NOT NULL, replica INTEGER NOT NULL, slices TEXT NOT NULL,
  error TEXT NOT NULL, kept INTEGER NOT NULL, client INTEGER NOT NULL, session TEXT NOT NULL,
  trace_id TEXT NOT NULL, features BLOB NOT NULL, task TEXT NOT NULL, company TEXT NOT NULL,
  UNIQUE (server, id));
CREATE INDEX prediction_at ON prediction (at_ms);
CREATE TABLE payload (server INTEGER NOT NULL, id TEXT NOT NULL, used_s REAL NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY (server, id));
CREATE TABLE action (id INTEGER PRIMARY KEY, server TEXT NOT NULL, kind TEXT NOT NULL,
  target TEXT NOT NULL, by TEXT NOT NULL, note TEXT NOT NULL, until_unix_ms INTEGER NOT NULL,
  undo INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL, at_s REAL NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class CacheTooNew(Exception):
    """The file was written by a newer console; it may be read, not written."""


def version_of(path: Path) -> int:
    """`user_version` of the file; 0 when it is absent or empty. Raises sqlite3.DatabaseError."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The one connection that writes, after migration. A file that is not a database is moved
    aside, as it is only a cache. Raises CacheTooNew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = version_of(path)
    except sqlite3.DatabaseError:
        for suffix in ("", "-wal", "-shm"):
            broken = path.with_name(path.name + suffix)
            if broken.exists():
                broken.replace(path.with_name(f"{path.name}.unreadable{suffix}"))
        found = 0
    if found > VERSION:
        raise CacheTooNew(f"{path} has version {found}, this console writes {VERSION}")
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    # incremental_vacuum requires this before the first table exists; later it has no effect.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")
    if found < VERSION:
        build(connection)
    add_missing_columns(connection)
    return connection


def add_missing_columns(connection: sqlite3.Connection) -> None:
    """Add columns that are newer than the file; they are NULL in its rows. An older console neither
    reads nor writes them, so the version stays."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(prediction)")}
    for name, kind in ADDED:
        if name not in known:
            connection.execute(f"ALTER TABLE prediction ADD COLUMN {name} {kind}")


def build(connection: sqlite3.Connection, stop_before: str | None = None) -> None:
    """Apply the migrations that the file lacks, up to `stop_before`."""
    # Takes a quarter of a second to import, and only the first start needs it.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("console")

    @migrations(name="0001_first")
    def first(db: Database) -> None:
        for statement in _HOT.split(";\n"):
            if statement.strip():
                db.execute(statement)
        for table, columns, key in _COLD:
            db.execute(f"CREATE TABLE {table} ({columns}, body TEXT NOT NULL, PRIMARY KEY ({key}))")
            if table != "feature":
                db.execute(f"CREATE INDEX {table}_at ON {table} (at_ms)")

    @migrations(name="0002_names_of_the_field")
    def names_of_the_field(db: Database) -> None:
        db.execute("ALTER TABLE prediction RENAME COLUMN company TO batch_mates")
        db.execute("ALTER TABLE action RENAME COLUMN by TO actor")
        for table, old, new in (
            ("deploy", "by", "actor"),
            ("silence", "by", "actor"),
            ("slice", "words", "message"),
        ):
            db.execute(
                f"UPDATE {table} SET body = json_remove("
                f"json_set(body, '$.{new}', json_extract(body, '$.{old}')), '$.{old}')"
                f" WHERE json_type(body, '$.{old}') IS NOT NULL"
            )

    @migrations(name="0003_annotations_and_hosts")
    def annotations_and_hosts(db: Database) -> None:
        """Annotations, and the figures of each host: one row every ten seconds."""
        for table, columns, key in _SINCE_3:
            db.execute(f"CREATE TABLE {table} ({columns}, body TEXT NOT NULL, PRIMARY KEY ({key}))")
            db.execute(f"CREATE INDEX {table}_at ON {table} (at_ms)")
        figures = ", ".join(f"{name} REAL" for name in HOST[2:])
        db.execute(
            f"CREATE TABLE host (at_ms INTEGER NOT NULL, server INTEGER NOT NULL, {figures},"
            " PRIMARY KEY (at_ms, server)) WITHOUT ROWID"
        )

    migrations.apply(Database(connection), stop_before=stop_before)
    connection.execute(f"PRAGMA user_version = {VERSION}")
