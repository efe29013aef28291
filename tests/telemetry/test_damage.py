"""telemetry.db when its disk is full, its file is damaged, held, removed or cannot be written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.telemetry.rows import PredictionRow
from server.telemetry.sampler import SampleChoice
from server.telemetry.store.database import LOCK, NAME, SPARE
from server.telemetry.store.write_journal import (
    WAITING_PAYLOAD_BYTES,
    WAITING_ROWS,
    JournalEntry,
)
from tests.support.telemetry_bench import NOW, STAMP, record
from tests.support.telemetry_writer import BUNDLE, ROOT, WriterBench

FULL = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from server.telemetry.store.history import TimeSpan
import sqlite3
from server.telemetry.stamps.feedback import FeedbackItem
from tests.support.telemetry_bench import record
from tests.support.telemetry_writer import WriterBench
bench = WriterBench(Path({folder!r}))
bench.put(0, 200)
size = Path({folder!r}, "telemetry.db-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
for i in range(200, 20_200, 400):
    bench.put(i, i + 400)
    bench.clock.now += 1
    bench.writer.idle()
assert bench.writer.trouble, "nothing was refused"
lost = bench.writer.journal.counters.lost
assert lost > 0
try:
    found = bench.writer.take_feedback([FeedbackItem(record(20_199).prediction_id, "ok")])
except sqlite3.OperationalError as error:
    assert str(error), "no reason"
else:
    raise AssertionError(f"feedback was answered: {{found}}")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
bench.clock.now += 60
bench.writer.idle()
assert not bench.writer.trouble, bench.writer.trouble
bench.put(30_000, 30_010)
kept = bench.writer.journal.counters.written
assert kept + lost == 20_210, (kept, lost)
print(kept, lost, len(list(bench.reader.export(TimeSpan(0, 1e11)))))
bench.writer.close()
"""


def test_a_full_disk_costs_counted_rows_and_heals(tmp_path: Path) -> None:
    script = FULL.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kept, lost, stored = map(int, done.stdout.split())
    assert stored == kept and lost > 0


def test_a_file_that_is_not_a_database_is_set_aside_and_reported(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database, but another's work" * 100)
    bench = WriterBench(tmp_path)
    assert "set aside" in bench.writer.trouble
    aside = [p for p in tmp_path.iterdir() if "unusable" in p.name]
    assert len(aside) == 1 and aside[0].read_bytes().startswith(b"not a database")
    bench.put(0, 5)
    bench.writer.tick(NOW)
    assert len(bench.reader.samples()) == 5
    assert [r.key for r in bench.writer.alerts.book.rows()] == ["telemetry/store"]
    bench.writer.close()


def test_a_torn_page_is_found_at_the_start(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    bench.put(0, 2000)
    bench.writer.close()
    path = tmp_path / NAME
    content = bytearray(path.read_bytes())
    for page in range(20, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 200] = os.urandom(200)
    path.write_bytes(content)
    again = WriterBench(tmp_path)
    assert "set aside" in again.writer.trouble
    again.put(0, 5)
    assert len(again.reader.samples()) == 5
    again.writer.close()


def test_damage_met_while_writing_begins_a_new_file_and_goes_on(
    bench: WriterBench, tmp_path: Path
) -> None:
    bench.put(0, 50)
    bench.writer._restart_store("was damaged: database disk image is malformed")
    bench.put(50, 60)
    assert len(bench.reader.samples()) == 10
    assert "malformed" in bench.writer.trouble
    assert bench.writer.states[STAMP].bundle == BUNDLE
    assert any("unusable" in p.name for p in tmp_path.iterdir())


def test_a_file_that_another_program_holds_is_left_in_its_place(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    bench.put(0, 5)
    bench.writer.close()
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        again = WriterBench(tmp_path)
        assert "locked" in again.writer.trouble and again.writer.store.path.parent != tmp_path
        again.writer.close()
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]
    third = WriterBench(tmp_path)
    assert not third.writer.trouble and len(third.reader.samples()) == 5
    third.writer.close()


FULL_START = """
import resource, signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
import server.telemetry.store.database as database
real, folder = database._open, Path({folder!r})
def full_there(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if path.parent == folder else -1, -1))
    try:
        return real(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
database._open = full_there
from tests.support.telemetry_writer import WriterBench
bench = WriterBench(folder)
assert "start again" in bench.writer.trouble, bench.writer.trouble
bench.put(0, 5)
assert len(bench.reader.samples()) == 5
bench.writer.close()
"""


def test_a_start_on_a_full_disk_leaves_the_history_in_its_place(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    bench.put(0, 7)
    bench.writer.close()
    script = FULL_START.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]
    again = WriterBench(tmp_path)
    assert len(again.reader.samples()) == 7
    again.writer.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_removed_or_replaced_while_in_use_is_noticed_and_recreated(
    bench: WriterBench, tmp_path: Path, replaced: bool
) -> None:
    bench.put(0, 5)
    for path in list(tmp_path.iterdir()):
        path.unlink()
    if replaced:
        (tmp_path / NAME).touch()
    bench.clock.now += 3
    bench.writer.idle()
    assert "removed or replaced" in bench.writer.trouble
    bench.put(5, 8)
    assert len(bench.reader.samples()) == 3 and bench.writer.store.path == tmp_path / NAME
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]


def test_a_quiet_server_is_well_again_without_a_prediction(bench: WriterBench) -> None:
    bench.writer.journal.refused(sqlite3.OperationalError("database or disk is full"))
    bench.writer.idle()
    assert bench.writer.trouble
    bench.clock.now += 60
    bench.writer.idle()
    assert not bench.writer.trouble


@pytest.mark.parametrize("odd", [{"label": "\ud800"}, {"env": "\ud800"}])
def test_a_row_that_no_database_takes_does_not_hold_up_the_others(
    bench: WriterBench, odd: dict[str, Any]
) -> None:
    bench.put(0, 2)
    bench.put(2, 3, **odd)
    bench.put(3, 5)
    bench.writer.idle()
    assert len(bench.reader.samples()) == 4
    assert (bench.writer.journal.waiting, bench.writer.journal.counters.lost) == (
        0,
        1,
    )


def test_rows_that_cannot_be_written_at_the_end_are_counted_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = WriterBench(tmp_path)
    bench.writer.store.connection.execute("PRAGMA query_only = 1")
    bench.put(0, 4)
    assert bench.writer.journal.waiting == 4
    bench.writer.close()
    assert bench.writer.journal.counters.lost == 4
    assert "4 predictions are lost" in caplog.text


READ_ONLY = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support.telemetry_writer import WriterBench
# Everything imported while still root: Python itself may lie in root's own home.
WriterBench(Path({warm!r})).writer.close()
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
bench = WriterBench(Path({folder!r}))
bench.put(0, 5)
assert len(bench.reader.samples()) == 5
assert {message!r} in bench.writer.trouble, bench.writer.trouble
bench.writer.close()
"""


@pytest.mark.parametrize(
    ("folder_mode", "message"), [(0o777, "set aside"), (0o555, "cannot be written")]
)
def test_a_read_only_file_or_folder_does_not_stop_telemetry(
    tmp_path: Path, folder_mode: int, message: str
) -> None:
    folder = tmp_path / "data"
    bench = WriterBench(folder)
    bench.put(0, 2)
    bench.writer.close()
    for path in folder.iterdir():
        path.chmod(0o666 if path.name.endswith(".lock") else 0o444)
    folder.chmod(folder_mode)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    warm = tmp_path / "warm"
    script = READ_ONLY.format(root=str(ROOT), warm=str(warm), folder=str(folder), message=message)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    folder.chmod(0o777)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_second_server_on_the_same_folder_keeps_to_itself(
    bench: WriterBench, tmp_path: Path
) -> None:
    other = WriterBench(tmp_path)
    assert "another server" in other.writer.trouble
    other.put(0, 3)
    assert bench.reader.samples() == [] and len(other.reader.samples()) == 3
    other.writer.close()


def test_temporary_folders_that_nobody_holds_are_cleared_by_the_next_one(
    bench: WriterBench, tmp_path: Path
) -> None:
    left, held = WriterBench(tmp_path), WriterBench(tmp_path)
    left.put(0, 1)  # without a prediction its own close removes it
    left.writer.close()
    for one in (left, held):
        os.utime(one.writer.store.path.with_name(LOCK), (1, 1))
    stranger = Path(tempfile.mkdtemp(prefix=SPARE))  # without a lock: nobody's telemetry
    third = WriterBench(tmp_path)
    assert not left.writer.store.path.parent.exists()
    assert held.writer.store.there and third.writer.store.there and stranger.exists()
    held.writer.close()
    third.writer.close()
    for one in (held, third):  # nothing was put there
        assert not one.writer.store.path.parent.exists()
    stranger.rmdir()


def test_payloads_that_wait_for_a_full_disk_are_bounded_in_bytes(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    journal = bench.writer.journal
    journal.refused(sqlite3.OperationalError("database or disk is full"))
    payload = bytes(4 << 20)
    for number in range(40):
        keep = SampleChoice(number % 2 == 0, 1.0, "plain")
        journal.add([JournalEntry(replace(record(number), payload=payload), keep)])
    held = [entry.record.payload for entry in journal._waiting]
    assert sum(map(len, held)) <= WAITING_PAYLOAD_BYTES and journal.waiting == 40
    assert held[38] and not held[39] and not held[0]  # the newest that are to be kept
    assert journal.counters.payloads_lost == 20 - WAITING_PAYLOAD_BYTES // len(payload)
    assert journal.counters.lost == 0
    bench.clock.now += 60
    bench.writer.idle()
    assert journal.counters.written == 40 and not journal.waiting
    bench.writer.close()


def test_rows_that_are_shown_hold_no_payload(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path, sample_share=1.0)
    bench.put(0, 5, payload=bytes(1 << 20))
    shown = [c.row for c in bench.changes.after(0).changes if isinstance(c.row, PredictionRow)]
    assert len(shown) == 5 and all(row.payload_kept for row in shown)
    assert not any(row.record.payload for row in shown)
    bench.writer.close()


def test_a_flood_that_waits_for_a_full_disk_takes_no_place_of_others(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    journal = bench.writer.journal
    journal.refused(sqlite3.OperationalError("database or disk is full"))
    choice = SampleChoice(False, 1.0, "plain")
    for turn in range(10):
        few = [record(turn * 10_000 + n, client="honest") for n in range(100)]
        many = [record(turn * 10_000 + 100 + n, client="flood") for n in range(1500)]
        journal.add([JournalEntry(row, choice) for row in (*few, *many)])
    clients = Counter(entry.record.client for entry in journal._waiting)
    assert clients == {"honest": 1000, "flood": WAITING_ROWS - 1000}
    assert journal.counters.lost == 16_000 - WAITING_ROWS
    assert journal._waiting[-1].record.prediction_id == many[-1].prediction_id
    bench.writer.close()
