"""Spans, events and points in a SQLite file."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.ops.otel_setup import CannotExport, OtelSetup
from server.telemetry.otel import metric_definitions
from server.telemetry.otel.configuration import Plan
from server.telemetry.otel.file import SqliteFile
from server.telemetry.otel.metrics import Form, Rendering
from server.telemetry.otel.sqlite import (
    INSERT_SPAN,
    Batch,
    SqliteEventExporter,
    SqliteMetricExporter,
    SqliteSpanExporter,
)
from tests.support.otel_bench import instruments, one_call, record, rows_of
from tests.support.running import IDENTITY
from tests.support.stub_replica import stub_config

DAY_S = 86400.0


@contextmanager
def kept(path: Path, **options: Any) -> Iterator[SqliteFile]:
    made = SqliteFile(path, **{"keep_s": DAY_S, **options})
    try:
        yield made
    finally:
        made.close()


def span_rows(count: int, at_ns: int) -> list[tuple[Any, ...]]:
    return [(f"{at_ns}", f"{n}", "", "a", "SERVER", at_ns, at_ns, "OK", "{}") for n in range(count)]


def flushed(file: SqliteFile) -> None:
    assert SqliteSpanExporter(file).force_flush(20_000)


def test_spans_events_and_points_join_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path) as file, instruments(Plan(trace_share=1.0), sink=file) as made:
        for index in range(20):
            broken = "INTERNAL/DIED/" if index % 2 else ""
            one_call(made, record(prediction_id=f"{index:032x}", error=broken))
    joined = rows_of(
        path,
        "SELECT count(*), count(DISTINCT e.trace_id) FROM otel_event e JOIN otel_span s "
        "ON s.trace_id = e.trace_id AND s.span_id = e.span_id WHERE e.name = 'trefoil.error'",
    )
    assert joined == [(10, 10)]
    assert rows_of(path, "SELECT count(*) FROM otel_span") == [(20 * 6,)]
    ((count, buckets),) = rows_of(
        path,
        "SELECT sum(count), buckets FROM otel_point WHERE name = ?",
        metric_definitions.CALL_DURATION,
    )
    assert count == 20 and sum(json.loads(buckets)["counts"]) == 20
    assert path.stat().st_mode & 0o777 == 0o600


def test_rows_past_their_time_go_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path, wall=lambda: 10 * DAY_S) as file:
        for day in (1, 9.5):
            file.put_nowait(Batch(INSERT_SPAN, span_rows(6000, int(day * DAY_S * 1e9))))
        flushed(file)
        file.sweep()
    assert rows_of(path, "SELECT count(*), min(end_ns) FROM otel_span") == [
        (6000, int(9.5 * DAY_S * 1e9))
    ]


def test_a_file_does_not_outgrow_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path, max_bytes=1 << 20, wall=lambda: DAY_S) as file:
        for hour in range(8):
            file.put_nowait(Batch(INSERT_SPAN, span_rows(5000, hour)))
        flushed(file)
        file.sweep()
        flushed(file)
    ((oldest, count),) = rows_of(path, "SELECT min(end_ns), count(*) FROM otel_span")
    assert oldest > 0 and count > 0
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= 1 << 20


def test_what_the_disk_does_not_take_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "otel.db"
    with kept(path) as file:
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE otel_span RENAME TO elsewhere")
            file.put_nowait(Batch(INSERT_SPAN, span_rows(7, 1)))
            flushed(file)
            assert file.lost == 7
            database.execute("ALTER TABLE elsewhere RENAME TO otel_span")
        file.put_nowait(Batch(INSERT_SPAN, span_rows(3, 1)))
    assert rows_of(path, "SELECT count(*) FROM otel_span") == [(3,)]
    assert file.lost == 7


@pytest.mark.parametrize("content", [None, b"no database at all, but long enough to be one" * 9])
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "otel.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(CannotExport, match="--otel-file"):
        OtelSetup(replace(stub_config(), otel_file=path), IDENTITY, environ={})


@pytest.mark.parametrize(
    "exporter", [SqliteSpanExporter, SqliteEventExporter, SqliteMetricExporter]
)
def test_a_full_queue_is_a_failure_at_once(exporter: Any) -> None:
    full: queue.Queue[Batch] = queue.Queue(1)
    full.put(Batch("", ()))
    made = exporter(full)
    data: Any = (
        Rendering(Form(), "", time.time_ns).data([]) if exporter is SqliteMetricExporter else []
    )
    assert made.export(data).name == "FAILURE"
    assert made.force_flush(10) is False
    full.get()
    assert made.export(data).name == "SUCCESS"
    made.shutdown()
    made.shutdown()
    assert made.export(data).name == "FAILURE"


def test_a_flush_waits_for_the_writer_and_not_for_ever() -> None:
    sink: queue.Queue[Batch] = queue.Queue()
    made = SqliteSpanExporter(sink)
    assert made.force_flush(10) is False  # nobody writes
    thread = threading.Thread(target=lambda: [sink.get().written.set() for _ in range(2)])  # type: ignore[union-attr]
    thread.start()
    assert made.force_flush(10_000) is True
    thread.join()
