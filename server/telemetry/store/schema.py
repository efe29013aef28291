"""The tables of telemetry.db, as ordered migrations: forward only, each in its own transaction."""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database, Migrations

from server.telemetry.outputs import OUTPUTS

migrations = Migrations("telemetry")

# One prediction table a UTC day, so that the oldest day is dropped at once, not row by row.
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
    ("env_id", "INTEGER"),
    ("trace_id", "TEXT"),
    ("batch_mates", "TEXT"),
    ("sample_p", "REAL"),
    ("kept", "INTEGER"),
)
PREDICTION_NAMES = tuple(name for name, _ in PREDICTION_COLUMNS)


def day_tables(day: str) -> tuple[str, ...]:
    """The statements that make the tables of one day, such as 20261123."""
    columns = ", ".join(f"{name} {kind}" for name, kind in PREDICTION_COLUMNS)
    return (
        f"CREATE TABLE prediction_{day} (id INTEGER PRIMARY KEY, {columns})",
        f"CREATE UNIQUE INDEX prediction_{day}_by_id ON prediction_{day} (prediction_id)",
        f"CREATE INDEX prediction_{day}_by_at ON prediction_{day} (at)",
        f"CREATE TABLE payload_{day} (prediction_id TEXT PRIMARY KEY, at REAL, stratum TEXT,"
        " p REAL, example BLOB)",
    )


def add_missing_outputs(connection: sqlite3.Connection) -> None:
    """Give the day tables of an older file the columns of outputs that are newer; NULL there."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'prediction_[0-9]*'"
    ).fetchall()
    for (table,) in tables:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for spec in OUTPUTS:
            if spec.name not in known:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {spec.name} {spec.column}")


@migrations()
def names(db: Database) -> None:
    """Long texts that repeat are stored once."""
    db.table("stamp").create({"id": int, "hex": str, "name": str, "first_at": float}, pk="id")
    db.table("stamp").create_index(["hex"], unique=True)
    db.table("env").create({"id": int, "text": str}, pk="id")
    db.table("env").create_index(["text"], unique=True)
    db.table("slice").create({"id": int, "name": str, "first_at": float, "last_at": float}, pk="id")
    db.table("slice").create_index(["name"], unique=True)
    db.table("feature").create(
        {
            "id": int,
            "stamp_id": int,
            "position": int,
            "name": str,
            "modality": str,
            "kind": str,
            "unit": str,
            "categories": str,
            "importance": float,
            "cells": int,
            "centre": float,
            "step": float,
            "edges": bytes,
            "reference_counts": bytes,
        },
        pk="id",
    )
    db.table("feature").create_index(["stamp_id", "position"], unique=True)
    # What a stamp's figures are measured with: feedback may come long after it was replaced.
    db.table("bundle").create(
        {
            "stamp_id": int,
            "name": str,
            "features": str,
            "labels": str,
            "reference": bytes,
            "objective": bytes,
        },
        pk="stamp_id",
    )
    # How far the counts below have come: rows after it are counted again at the next start.
    db.table("counted").create({"day": str, "row": int}, pk="day")


@migrations()
def sums(db: Database) -> None:
    """Additive hours. sqlite-utils has no WITHOUT ROWID, which halves the size of these."""
    db.execute(
        "CREATE TABLE profile (stamp_id INTEGER, hour INTEGER, slice_id INTEGER,"
        " feature_id INTEGER, n INTEGER, missing INTEGER, nonfinite INTEGER, absent INTEGER,"
        " sum REAL, sum_squares REAL, min REAL, max REAL, counts BLOB, crc INTEGER,"
        " PRIMARY KEY (stamp_id, hour, slice_id, feature_id)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE profile_embedding (stamp_id INTEGER, hour INTEGER, sums BLOB, crc INTEGER,"
        " PRIMARY KEY (stamp_id, hour)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE latency (bucket INTEGER, width_s INTEGER, stamp_id INTEGER, mix TEXT,"
        " replica INTEGER, requests INTEGER, errors INTEGER, counts BLOB, queue_ms REAL,"
        " decode_ms REAL, preprocess_ms REAL, forward_ms REAL, post_ms REAL, total_ms REAL,"
        " batch_rows INTEGER, exemplars TEXT,"
        " PRIMARY KEY (bucket, width_s, stamp_id, mix, replica)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE quality (stamp_id INTEGER, hour INTEGER, slice_id INTEGER, sums BLOB,"
        " crc INTEGER, PRIMARY KEY (stamp_id, hour, slice_id)) WITHOUT ROWID"
    )


@migrations()
def judgements(db: Database) -> None:
    db.table("drift").create(
        {
            "tick_unix_ms": int,
            "stamp_id": int,
            "feature": str,
            "slice": str,
            "window_s": int,
            "baseline": str,
            **dict.fromkeys(("n", "n_effective", "n_needed", "ks", "p", "q", "kl", "js"), float),
            **dict.fromkeys(("psi", "chi2_p", "excess_kl", "expected_kl"), float),
            "level": str,
            "structural": str,
        }
    )
    db.table("drift").create_index(["tick_unix_ms"])
    db.table("alert").create({"id": str, "last_unix_ms": int, "row": str}, pk="id")
    db.table("alert_event").create(
        {
            "id": int,
            "alert_id": str,
            "at_unix_ms": int,
            "from_state": str,
            "to_state": str,
            "actor": str,
            "detail": str,
        },
        pk="id",
    )
    db.table("alert_event").create_index(["alert_id"])
    # What happened stays as it was written.
    db.execute(
        "CREATE TRIGGER alert_event_is_append_only BEFORE UPDATE ON alert_event"
        " BEGIN SELECT RAISE(ABORT, 'alert history is append-only'); END"
    )
    db.table("silence").create({"id": str, "until_unix_ms": int, "row": str}, pk="id")
    db.table("deploy").create({"id": int, "at_unix_ms": int, "row": str}, pk="id")
    db.table("deploy").create_index(["at_unix_ms"])


@migrations()
def answers_from_outside(db: Database) -> None:
    db.table("feedback").create(
        {
            "id": int,
            "prediction_id": str,
            "received_at": float,
            "observed_at": float,
            "label": str,
            "outcome": str,
            "value": float,
            "source": str,
            "idempotency_key": str,
            "status": str,
        },
        pk="id",
    )
    db.table("feedback").create_index(["prediction_id"])
    db.execute(
        "CREATE UNIQUE INDEX feedback_by_key ON feedback (idempotency_key)"
        " WHERE idempotency_key <> ''"
    )
    # What is held to be true now of each prediction that had feedback.
    db.table("truth").create(
        {
            "prediction_id": str,
            "predicted_at": float,
            "label": str,
            "value": float,
            "outcome": str,
            "source": str,
            "observed_at": float,
            "received_at": float,
            "weight": float,
        },
        pk="prediction_id",
    )
    db.table("truth").create_index(["predicted_at"])


@migrations()
def every_label_counts_alike(db: Database) -> None:
    """`weight` was one over the probability of keeping the payload, which its row has as well, and
    right only for labels that were given because it was kept."""
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
