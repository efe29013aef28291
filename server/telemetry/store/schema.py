"""The tables of telemetry.db, as ordered migrations: forward only, each in its own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from sqlite_utils import Database, Migrations

from server.telemetry.outputs import OUTPUTS

migrations = Migrations("telemetry")

# One prediction table for each UTC day, so that the oldest day is dropped at once, not row by row.
PREDICTION_COLUMNS = (
    ("prediction_id", "TEXT NOT NULL"),
    ("at", "REAL NOT NULL"),
    ("stamp_id", "INTEGER NOT NULL"),
    ("task", "TEXT"),
    ("mix", "TEXT"),
    ("label", "TEXT"),
    *((spec.name, spec.column) for spec in OUTPUTS),
    ("features", "BLOB"),
    ("slices", "TEXT"),
    ("client", "TEXT"),
    ("session", "TEXT"),
    ("replica", "INTEGER"),
    ("batch_size", "INTEGER"),
    ("queue_ms", "REAL"),
    ("decode_ms", "REAL"),
    ("preprocess_ms", "REAL"),
    ("forward_ms", "REAL"),
    ("post_ms", "REAL"),
    ("total_ms", "REAL"),
    ("error", "TEXT"),
    ("error_message", "TEXT"),
    ("env_id", "INTEGER"),
    ("trace_id", "TEXT"),
    ("batch_mates", "TEXT"),
    ("sample_p", "REAL"),
    ("kept", "INTEGER"),
)
PREDICTION_NAMES = tuple(name for name, _ in PREDICTION_COLUMNS)
# Columns that an older file may lack.
ADDED = (*((spec.name, spec.column) for spec in OUTPUTS), ("error_message", "TEXT"))


def day_tables(day: str) -> tuple[str, ...]:
    """The statements that create the tables of one day, such as 20261123."""
    columns = ", ".join(f"{name} {kind}" for name, kind in PREDICTION_COLUMNS)
    return (
        f"CREATE TABLE prediction_{day} (id INTEGER PRIMARY KEY, {columns})",
        f"CREATE UNIQUE INDEX prediction_{day}_by_id ON prediction_{day} (prediction_id)",
        f"CREATE INDEX prediction_{day}_by_at ON prediction_{day} (at)",
        f"CREATE TABLE payload_{day} (prediction_id TEXT PRIMARY KEY, at REAL, stratum TEXT,"
        " p REAL, example BLOB)",
    )


def missing_columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """(day table, column, type) for each column that is newer than the file."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'prediction_[0-9]*'"
    ).fetchall()
    for (table,) in tables:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        yield from ((table, name, kind) for name, kind in ADDED if name not in known)


def add_missing_columns(connection: sqlite3.Connection) -> None:
    """Add them; they are NULL in older rows."""
    for table, name, kind in list(missing_columns(connection)):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


def _run(db: Database, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)


@migrations()
def names(db: Database) -> None:
    """Long repeated texts are stored once."""
    _run(
        db,
        """
        CREATE TABLE stamp (id INTEGER PRIMARY KEY, hex TEXT, name TEXT, first_at REAL);
        CREATE UNIQUE INDEX idx_stamp_hex ON stamp (hex);
        CREATE TABLE env (id INTEGER PRIMARY KEY, text TEXT);
        CREATE UNIQUE INDEX idx_env_text ON env (text);
        CREATE TABLE slice (id INTEGER PRIMARY KEY, name TEXT, first_at REAL, last_at REAL);
        CREATE UNIQUE INDEX idx_slice_name ON slice (name);
        CREATE TABLE feature (id INTEGER PRIMARY KEY, stamp_id INTEGER, position INTEGER,
          name TEXT, modality TEXT, kind TEXT, unit TEXT, categories TEXT, importance REAL,
          cells INTEGER, centre REAL, step REAL, edges BLOB, reference_counts BLOB);
        CREATE UNIQUE INDEX idx_feature_stamp_id_position ON feature (stamp_id, position);
        -- What a stamp's figures are measured with: feedback may come long after its time.
        CREATE TABLE bundle (stamp_id INTEGER PRIMARY KEY, name TEXT, features TEXT, labels TEXT,
          reference BLOB, objective BLOB);
        -- How far the sums have come: rows after it are counted again at the next start.
        CREATE TABLE counted (day TEXT PRIMARY KEY, row INTEGER);
        """,
    )


@migrations()
def sums(db: Database) -> None:
    """Additive sums by hour; WITHOUT ROWID halves the size of these tables."""
    _run(
        db,
        """
        CREATE TABLE profile (stamp_id INTEGER, hour INTEGER, slice_id INTEGER,
          feature_id INTEGER, n INTEGER, missing INTEGER, nonfinite INTEGER, absent INTEGER,
          sum REAL, sum_squares REAL, min REAL, max REAL, counts BLOB, crc INTEGER,
          PRIMARY KEY (stamp_id, hour, slice_id, feature_id)) WITHOUT ROWID;
        CREATE TABLE profile_embedding (stamp_id INTEGER, hour INTEGER, sums BLOB, crc INTEGER,
          PRIMARY KEY (stamp_id, hour)) WITHOUT ROWID;
        CREATE TABLE latency (bucket INTEGER, width_s INTEGER, stamp_id INTEGER, mix TEXT,
          replica INTEGER, requests INTEGER, errors INTEGER, counts BLOB, queue_ms REAL,
          decode_ms REAL, preprocess_ms REAL, forward_ms REAL, post_ms REAL, total_ms REAL,
          batch_rows INTEGER, exemplars TEXT,
          PRIMARY KEY (bucket, width_s, stamp_id, mix, replica)) WITHOUT ROWID;
        CREATE TABLE quality (stamp_id INTEGER, hour INTEGER, slice_id INTEGER, sums BLOB,
          crc INTEGER, PRIMARY KEY (stamp_id, hour, slice_id)) WITHOUT ROWID;
        """,
    )


@migrations()
def judgements(db: Database) -> None:
    _run(
        db,
        """
        CREATE TABLE drift (tick_unix_ms INTEGER, stamp_id INTEGER, feature TEXT, slice TEXT,
          window_s INTEGER, baseline TEXT, n REAL, n_effective REAL, n_needed REAL, ks REAL,
          p REAL, q REAL, kl REAL, js REAL, psi REAL, chi2_p REAL, excess_kl REAL,
          expected_kl REAL, level TEXT, structural TEXT);
        CREATE INDEX idx_drift_tick_unix_ms ON drift (tick_unix_ms);
        CREATE TABLE alert (id TEXT PRIMARY KEY, last_unix_ms INTEGER, row TEXT);
        CREATE TABLE alert_event (id INTEGER PRIMARY KEY, alert_id TEXT, at_unix_ms INTEGER,
          from_state TEXT, to_state TEXT, actor TEXT, detail TEXT);
        CREATE INDEX idx_alert_event_alert_id ON alert_event (alert_id);
        CREATE TABLE silence (id TEXT PRIMARY KEY, until_unix_ms INTEGER, row TEXT);
        CREATE TABLE deploy (id INTEGER PRIMARY KEY, at_unix_ms INTEGER, row TEXT);
        CREATE INDEX idx_deploy_at_unix_ms ON deploy (at_unix_ms);
        """,
    )
    # The history of alerts is append-only.
    db.execute(
        "CREATE TRIGGER alert_event_is_append_only BEFORE UPDATE ON alert_event"
        " BEGIN SELECT RAISE(ABORT, 'alert history is append-only'); END"
    )


@migrations()
def answers_from_outside(db: Database) -> None:
    _run(
        db,
        """
        CREATE TABLE feedback (id INTEGER PRIMARY KEY, prediction_id TEXT, received_at REAL,
          observed_at REAL, label TEXT, outcome TEXT, value REAL, source TEXT,
          idempotency_key TEXT, status TEXT);
        CREATE INDEX idx_feedback_prediction_id ON feedback (prediction_id);
        CREATE UNIQUE INDEX feedback_by_key ON feedback (idempotency_key)
          WHERE idempotency_key <> '';
        -- What is held to be true now of each prediction that had feedback.
        CREATE TABLE truth (prediction_id TEXT PRIMARY KEY, predicted_at REAL, label TEXT,
          value REAL, outcome TEXT, source TEXT, observed_at REAL, received_at REAL,
          weight REAL);
        CREATE INDEX idx_truth_predicted_at ON truth (predicted_at);
        """,
    )


@migrations()
def every_label_counts_alike(db: Database) -> None:
    """Drops `weight`: it was one over the probability of keeping the payload, which the row has as
    well, and it was right only for labels that were given because the payload was kept."""
    db.execute("ALTER TABLE truth DROP COLUMN weight")


@migrations()
def names_of_the_field(db: Database) -> None:
    """Version 0.1 renamed `company` to `batch_mates` and, in silences and deploys, `by` to
    `actor`; an older file keeps its rows."""
    for table in db.table_names():
        columns = {column.name for column in db[table].columns}
        if table.startswith("prediction_") and "company" in columns:
            db.execute(f"ALTER TABLE {table} RENAME COLUMN company TO batch_mates")
    for table in ("silence", "deploy"):
        db.execute(
            f"UPDATE {table} SET row = json_remove("
            "json_set(row, '$.actor', json_extract(row, '$.by')), '$.by')"
            " WHERE json_type(row, '$.by') IS NOT NULL"
        )


@migrations()
def people_annotate(db: Database) -> None:
    """People's notes on the time axis."""
    db.execute("CREATE TABLE annotation (id TEXT PRIMARY KEY, at_unix_ms INTEGER, row TEXT)")
    db.execute("CREATE INDEX idx_annotation_at_unix_ms ON annotation (at_unix_ms)")
