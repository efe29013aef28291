"""Stored predictions as files for other programs."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_utils import Database

from server.commands.export import moment
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.feedback import FeedbackItem
from server.telemetry.store.database import open_database
from server.telemetry.store.schema import day_tables, migrations
from server.telemetry.telemetry import Telemetry
from tests.support.patience import patience
from tests.support.running import asked
from tests.support.telemetry_bench import NOW, SCHEMA, Clock, bundle, record
from tests.support.telemetry_writer import ROOT, WriterBench

Captured = pytest.CaptureFixture[str]
ROWS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose server still runs."""
    folder = tmp_path_factory.mktemp("data")
    held = Telemetry(TelemetrySettings(folder), Clock(), Clock(0.0))
    held.adopt(bundle(rows=600))
    for number in range(ROWS - 1):
        held.put(record(number, NOW + number), SCHEMA)
    odd = replace(record(99, NOW + 60), confidence=math.nan, error="INTERNAL/DIED/", features=b"")
    odd = replace(odd, error_message="the replica died")
    held.put(odd, SCHEMA)
    held.feedback([FeedbackItem(record(3, NOW + 3).prediction_id, "stop")])
    yield folder
    held.close()


def export(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    return asked(capsys, "export", *arguments)


def at(number: float) -> str:
    return datetime.fromtimestamp(NOW + number, UTC).isoformat()


def test_lines_hold_every_prediction_oldest_first(data: Path, capsys: Captured) -> None:
    span = ("--since", at(0), "--until", at(100))
    code, out, _ = export(capsys, "--data", str(data), *span, "--out", "-")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == ROWS
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert rows[3]["true_label"] == "stop" and rows[2]["true_label"] == ""
    assert rows[0]["features"]["image.format"] in ("jpeg", "png")
    assert rows[0]["features"]["image.brightness"] == pytest.approx(0.5, abs=0.5)
    assert rows[0]["slices"] == {"site": "a"}
    assert rows[-1]["confidence"] is None and rows[-1]["features"] == {}
    assert rows[-1]["error"] == "INTERNAL/DIED/"
    assert [row["error_message"] for row in rows[-2:]] == ["", "the replica died"]


def test_span_and_filter_choose(data: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "some.jsonl"
    span = ("--since", at(10), "--until", at(20))
    code, shown, _ = export(
        capsys, "--data", str(data), *span, "--filter", "site=b", "--out", str(out)
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 0 and shown.startswith("5 predictions")
    assert {row["slices"]["site"] for row in rows} == {"b"}
    assert list(tmp_path.iterdir()) == [out], "no half file is left"


def test_parquet_has_a_column_for_every_feature(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "week.parquet"
    arguments = ("--data", str(data), "--since", at(0), "--until", at(100))
    code, _, _ = export(capsys, *arguments, "--format", "parquet", "--out", str(out))
    table = parquet.read_table(out)
    rows = table.to_pylist()
    assert code == 0 and table.num_rows == ROWS
    assert {f"feature.{spec.name}" for spec in SCHEMA} <= set(table.column_names)
    assert rows[0]["feature.image.format"] in ("jpeg", "png")
    assert dict(rows[1]["slices"]) == {"site": "b"}
    assert rows[0]["at"].timestamp() == NOW
    assert rows[-1]["confidence"] is None and rows[-1]["feature.text.words"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--since", "yesterday"), 2, "expected a date, a time or an age"),
        (("--since", "7d", "--format", "parquet", "--out", "-"), 2, "needs a file"),
        (("--since", "7d", "--data", "nowhere"), 2, "there is no telemetry.db"),
        (("--since", "7d", "--filter", "conf<low"), 3, "not a number"),
        (
            ("--since", "7d", "--out", "/no/such/folder/x"),
            1,
            "cannot write --out /no/such/folder/x",
        ),
    ],
)
def test_what_cannot_be_exported_is_reported(
    data: Path, arguments: tuple[str, ...], code: int, why: str, capsys: Captured
) -> None:
    found, _, err = export(capsys, "--data", str(data), "--out", "-", *arguments)
    assert found == code and why in err


def test_a_file_that_no_new_server_has_opened_is_refused_in_one_sentence(
    tmp_path: Path, capsys: Captured
) -> None:
    old = sqlite3.connect(tmp_path / "telemetry.db", isolation_level=None)
    migrations.apply(Database(old), stop_before="names_of_the_field")
    for statement in day_tables("20261123"):
        old.execute(statement.replace("batch_mates", "company"))
    old.close()
    arguments = ("--data", str(tmp_path), "--since", at(0), "--out", "-")
    code, out, err = export(capsys, *arguments)
    assert (code, out) == (1, "") and "start `server` with this --data once" in err
    open_database(tmp_path, NOW).close()  # as a server of this version does
    assert export(capsys, *arguments)[0] == 0


def test_a_moment_is_a_date_a_time_or_an_age() -> None:
    assert moment("90min", NOW) == NOW - 5400
    assert moment("7d", NOW) == NOW - 7 * 86_400
    assert moment("2026-11-02", NOW) == moment("2026-11-02T01:00+01:00", NOW) == 1_793_577_600
    with pytest.raises(ValueError):
        moment("7 days", NOW)


@pytest.mark.parametrize("out", ["", "."])
def test_a_name_that_is_no_file_is_refused_before_anything_is_read(
    data: Path, out: str, capsys: Captured
) -> None:
    code, _, shown = export(capsys, "--data", str(data), "--since", at(0), "--out", out)
    assert code == 2 and "--out" in shown and "Traceback" not in shown


def test_a_span_that_holds_nothing_is_refused(data: Path, tmp_path: Path, capsys: Captured) -> None:
    span = ("--since", at(10), "--until", at(5))
    code, _, shown = export(capsys, "--data", str(data), *span, "--out", str(tmp_path / "x"))
    assert code == 2 and "--until must be after --since" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_device_is_written_to_and_not_replaced(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    got: list[str] = []
    reader.start()
    code, _, _ = export(capsys, "--data", str(data), "--since", at(0), "--out", str(pipe))
    reader.join(20)
    assert code == 0 and len(got[0].splitlines()) == ROWS and pipe.is_fifo()


def test_an_interrupted_export_leaves_nothing_and_no_traceback(tmp_path: Path) -> None:
    """By Ctrl-C, while it writes."""
    bench, out = WriterBench(tmp_path / "data"), tmp_path / "out"
    for first in range(0, 20_000, 1000):
        bench.put(first, first + 1000)
    bench.writer.close()
    out.mkdir()
    arguments = ["--data", str(tmp_path / "data"), "--since", at(0), "--out", str(out / "x")]
    # A shell that starts the tests in the background lets all below it ignore Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "server.main", "export"]
    command += arguments
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not any(part.stat().st_size for part in out.iterdir()):
            pass
        running.send_signal(signal.SIGINT)
        _, shown = running.communicate(timeout=patience(60))
    assert running.returncode == 130 and "Traceback" not in shown and list(out.iterdir()) == []
