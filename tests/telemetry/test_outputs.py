"""The one list of a row's scalar outputs: messages and docs have the same names, and old files
open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from console.cache import schema as cache
from console.models.predictions import columns
from console.state.domain import CachedPrediction
from proto import inference_pb2, observe_pb2
from server.telemetry.outputs import OUTPUT_NAMES, OUTPUTS, outputs_of
from server.telemetry.store.schema import add_missing_columns

DOC = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
NEWEST = OUTPUTS[-1]


def test_both_messages_have_every_output_under_its_name() -> None:
    for message in (inference_pb2.Prediction(), observe_pb2.PredictionRow()):
        assert set(outputs_of(message)) == set(OUTPUT_NAMES)


def test_the_table_of_the_docs_is_this_list() -> None:
    lines = [
        f"| `{spec.name}` | {spec.unit} | {spec.description} | {spec.alias or '-'} |"
        for spec in OUTPUTS
    ]
    assert "\n".join(lines) in DOC.read_text()


def test_a_file_older_than_an_output_gets_its_column() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE prediction_20261101 (id INTEGER, confidence REAL)")
    connection.execute("INSERT INTO prediction_20261101 VALUES (1, 0.5)")
    add_missing_columns(connection)
    add_missing_columns(connection)
    row = connection.execute(f"SELECT confidence, {NEWEST.name} FROM prediction_20261101")
    assert row.fetchone() == (0.5, None)


def test_a_cache_older_than_an_output_gets_its_column(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    connection = cache.open_for_writing(path)
    connection.execute(f"ALTER TABLE prediction DROP COLUMN {NEWEST.name}")
    connection.close()
    again = cache.open_for_writing(path)
    assert again.execute(f"SELECT {NEWEST.name} FROM prediction").fetchall() == []
    again.close()


def test_the_console_shows_the_outputs_that_have_a_column_head() -> None:
    row = CachedPrediction(prediction_id="p", confidence=0.5, tokens_used=17)
    shown = {column.title: column.cell(("h:1", row)).text for column in columns(str)}
    assert shown["conf"] == "0.500" and shown["tokens"] == "17"
