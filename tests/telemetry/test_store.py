"""telemetry.db: stored rows can be read back, and sums are right whenever the server was killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlite_utils import Database

from server.telemetry.evaluation import quality_row
from server.telemetry.quality.count_arrays import unpacked
from server.telemetry.rows import ProfileRow, QualityRow
from server.telemetry.store.database import NAME, open_database, open_reader
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.schema import migrations
from server.telemetry.store.store import Store, day_of
from tests.support.telemetry_bench import NOW, record
from tests.support.telemetry_writer import BUNDLE, ROOT, WriterBench


def test_a_record_comes_back_as_it_was_put(bench: WriterBench) -> None:
    bench.put(0, 3, trace_id="ab" * 16, batch_mates=("x", "y"), error="INTERNAL/LOST/")
    found = bench.reader.samples(limit=10)
    wanted = record(
        0, NOW, trace_id="ab" * 16, batch_mates=("x", "y"), error="INTERNAL/LOST/", payload=b""
    )
    assert wanted in [row.record for row in found] and len(found) == 3


def test_the_same_prediction_twice_is_kept_once(bench: WriterBench) -> None:
    bench.put(0, 5)
    bench.put(0, 5)
    assert len(bench.reader.samples()) == 5


def test_each_day_has_a_table_of_its_own(bench: WriterBench) -> None:
    bench.put(0, 2)
    bench.put(2, 4, NOW + 86400)
    assert bench.tables() == [
        f"prediction_{day_of(NOW)}",
        f"prediction_{day_of(NOW + 86400)}",
    ]
    assert len(bench.reader.samples(span=TimeSpan(NOW + 86400, NOW + 2 * 86400))) == 2


@pytest.mark.parametrize("at", [0.0, -1e12, 1e18, float("nan"), float("inf")])
def test_no_clock_can_make_a_day_that_is_none(at: float) -> None:
    assert len(day_of(at)) == 8 and day_of(at).isdigit()


def test_only_the_owner_can_read_the_file(bench: WriterBench, tmp_path: Path) -> None:
    bench.put(0, 1)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_reader_cannot_write(bench: WriterBench, tmp_path: Path) -> None:
    reader = open_reader(tmp_path / NAME)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM stamp")
    reader.close()


Profiles = dict[tuple[str, str, int], ProfileRow]
Qualities = dict[tuple[str, int], QualityRow]


def sums_of(folder: Path, now: float) -> tuple[Profiles, Qualities]:
    """All stored profiles and quality rows by key, read after a clean start and end."""
    bench = WriterBench(folder, now)
    bench.writer.flush()
    rows = list(bench.reader.history(TimeSpan(0, now + 1e6), ["profile"]))
    profiles = {(r.feature, r.slice, r.hour_unix_s): r for r in rows if isinstance(r, ProfileRow)}
    quality: Qualities = {}
    for stamp, at, name, sums in bench.writer.store.sums.qualities(0, now + 1e6):
        state = bench.writer.states[stamp]
        quality[name, at] = quality_row(state, name, at, unpacked(sums, state.stick))
    bench.writer.close()
    return profiles, quality


def test_sums_not_yet_stored_are_counted_again_after_a_kill(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        bench = WriterBench(folder)
        bench.writer.adopt(BUNDLE)
        bench.put(0, 300)
        bench.writer.flush()
        bench.put(300, 500)
        if folder == whole:
            bench.writer.flush()
        # No close: what a killed process leaves behind, as the file's lock is let go.
        bench.writer.store.close()
    a, b = sums_of(whole, NOW + 10), sums_of(killed, NOW + 10)
    assert a[0] == b[0] and a[0]["text.words", "", int(NOW)].n == 500
    assert a[1].keys() == b[1].keys() and a[1]["", int(NOW)].predictions == 500


def test_sums_stored_before_a_new_row_comes_are_not_counted_twice(tmp_path: Path) -> None:
    for start in range(3):  # killed each time: nothing is closed
        bench = WriterBench(tmp_path)
        bench.writer.adopt(BUNDLE)
        if not start:
            bench.put(0, 50)
            bench.writer.store.close()
            continue
        assert bench.counted() == 50
        bench.writer.store.close()


def test_an_hour_put_away_is_read_back_before_it_grows(bench: WriterBench) -> None:
    bench.put(0, 100)
    bench.writer.flush()
    bench.clock.now += 4 * 3600
    bench.put(100, 150)
    bench.writer.flush()  # the first hour is cold now
    bench.writer.flush()
    bench.put(150, 170, NOW)
    bench.writer.flush()
    rows = bench.reader.history(TimeSpan(NOW, NOW + 1), ["profile"])
    assert {r.n for r in rows if isinstance(r, ProfileRow) and not r.slice} == {120}


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from server.telemetry.store.schema import migrations
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from tests.support.telemetry_bench import SCHEMA, record
telemetry = Telemetry(TelemetrySettings(Path({folder!r}), flush_s=0.05))
base, began = int(sys.argv[1]), time.time()
for i in range(base, base + 100_000):
    telemetry.put(record(i, time.time()), SCHEMA)
    if i % 50 == 0:
        print(i, flush=True)
    time.sleep(0.0005)
"""


def test_sigkill_under_load_leaves_a_whole_database(tmp_path: Path) -> None:
    script = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    put = 0
    for round_ in range(3):
        base = round_ * 100_000
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(base)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            put = int(line)
            if put - base >= 400:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        connection = sqlite3.connect(tmp_path / NAME)
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        connection.close()
    profiles, quality = sums_of(tmp_path, time.time())
    bench = WriterBench(tmp_path, time.time())
    rows = len(list(bench.reader.export(TimeSpan(0, 1e11))))
    bench.writer.close()
    assert rows > 300
    assert sum(r.n for (f, s, _), r in profiles.items() if f == "text.words" and not s) == rows
    assert sum(r.predictions for (s, _), r in quality.items() if not s) == rows


def test_alert_history_cannot_be_rewritten(tmp_path: Path) -> None:
    store = Store(open_database(tmp_path, NOW))
    store.connection.execute(
        "INSERT INTO alert_event (alert_id, at_unix_ms, from_state, to_state, actor, detail)"
        " VALUES ('a', 1, 'ok', 'pending', 'server', '')"
    )
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.connection.execute("UPDATE alert_event SET actor = 'nobody'")
    store.close()


def test_what_was_held_true_by_an_older_server_is_held_true_still() -> None:
    db = Database(memory=True)
    migrations.apply(db, stop_before="every_label_counts_alike")
    db.execute("INSERT INTO truth VALUES ('p1', 1.0, 'stop', NULL, '', 'qa', 2.0, 3.0, 20.0)")
    migrations.apply(db)
    (held,) = db.execute("SELECT * FROM truth").fetchall()
    assert held == ("p1", 1.0, "stop", None, "", "qa", 2.0, 3.0)


def test_rows_of_an_older_file_keep_what_was_renamed() -> None:
    db = Database(memory=True)
    migrations.apply(db, stop_before="names_of_the_field")
    db.execute("CREATE TABLE prediction_20261101 (id INTEGER PRIMARY KEY, company TEXT)")
    db.execute("INSERT INTO prediction_20261101 VALUES (1, 'x y')")
    db.execute("""INSERT INTO silence VALUES ('s', 5, '{"id": "s", "by": "kim", "reason": ""}')""")
    db.execute("""INSERT INTO deploy VALUES (1, 5, '{"action": "load", "by": "kim"}')""")
    migrations.apply(db)
    assert db.execute("SELECT batch_mates FROM prediction_20261101").fetchall() == [("x y",)]
    rows = [json.loads(db.execute(f"SELECT row FROM {table}").fetchone()[0])
            for table in ("silence", "deploy")]  # fmt: skip
    assert rows == [
        {"id": "s", "reason": "", "actor": "kim"},
        {"action": "load", "actor": "kim"},
    ]
