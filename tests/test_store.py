"""telemetry.db under everything that befalls a file: kills, full disks, damage, age, size."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from server.telemetry.changes import Changes
from server.telemetry.clock_steps import ClockSteps
from server.telemetry.database import LOCK, NAME, open_database, open_reader
from server.telemetry.history import Span
from server.telemetry.judge import quality_row
from server.telemetry.quality_sums import unpacked
from server.telemetry.reading import Reader
from server.telemetry.retention import Limits, Retention
from server.telemetry.rows import LatencyRow, ProfileRow, QualityRow
from server.telemetry.schema import migrations
from server.telemetry.settings import Settings
from server.telemetry.store import Store, day_of
from server.telemetry.writer import Writer
from tests.telemetry_bench import NOW, SCHEMA, STAMP, Clock, bundle, record

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = bundle(rows=600)


class Desk:
    """A writer without its thread, on a clock that is told."""

    def __init__(
        self, folder: Path, now: float = NOW, monotonic: Clock | None = None, **more: object
    ) -> None:
        self.clock = Clock(now)
        self.changes = Changes()
        self.steps: list[object] = []
        self.writer = Writer(
            Settings(folder, **more),  # type: ignore[arg-type]
            self.changes,
            self.clock,
            monotonic or self.clock,
            self.steps.append,
            lambda row, probability: None,
        )
        self.reader = Reader(lambda: self.writer.store.path)

    def put(self, first: int, last: int, at: float | None = None, **more: object) -> None:
        when = self.clock.now if at is None else at
        self.writer.write([(record(i, when, **more), SCHEMA) for i in range(first, last)])

    def tables(self) -> list[str]:
        rows = self.writer.store.connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'prediction_2%'"
        )
        return sorted(row[0] for row in rows)

    def counted(self) -> int:
        """Rows in the stored sums of the first feature, all traffic."""
        self.writer.flush()
        (found,) = self.writer.store.connection.execute(
            "SELECT sum(p.n + p.missing + p.nonfinite + p.absent) FROM profile p"
            " JOIN slice s ON s.id = p.slice_id JOIN feature f ON f.id = p.feature_id"
            " WHERE s.name = '' AND f.position = 0"
        ).fetchone()
        return int(found)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    found.writer.adopt(BUNDLE)
    yield found
    found.writer.close()


def test_a_record_comes_back_as_it_was_put(desk: Desk) -> None:
    desk.put(0, 3, trace_id="ab" * 16, company=("x", "y"), error="INTERNAL/LOST/")
    found = desk.reader.samples(limit=10)
    wanted = record(
        0, NOW, trace_id="ab" * 16, company=("x", "y"), error="INTERNAL/LOST/", payload=b""
    )
    assert wanted in [row.record for row in found] and len(found) == 3


def test_the_same_prediction_twice_is_kept_once(desk: Desk) -> None:
    desk.put(0, 5)
    desk.put(0, 5)
    assert len(desk.reader.samples()) == 5


def test_each_day_has_a_table_of_its_own(desk: Desk) -> None:
    desk.put(0, 2)
    desk.put(2, 4, NOW + 86400)
    assert desk.tables() == [f"prediction_{day_of(NOW)}", f"prediction_{day_of(NOW + 86400)}"]
    assert len(desk.reader.samples(span=Span(NOW + 86400, NOW + 2 * 86400))) == 2


@pytest.mark.parametrize("at", [0.0, -1e12, 1e18, float("nan"), float("inf")])
def test_no_clock_can_make_a_day_that_is_none(at: float) -> None:
    assert len(day_of(at)) == 8 and day_of(at).isdigit()


def test_only_the_owner_can_read_the_file(desk: Desk, tmp_path: Path) -> None:
    desk.put(0, 1)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_reader_cannot_write(desk: Desk, tmp_path: Path) -> None:
    reader = open_reader(tmp_path / NAME)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM stamp")
    reader.close()


def sums_of(folder: Path, now: float) -> tuple[dict[object, ProfileRow], dict[object, QualityRow]]:
    """All stored profiles and quality rows by key, read after a clean start and end."""
    desk = Desk(folder, now)
    desk.writer.flush()
    rows = list(desk.reader.history(Span(0, now + 1e6), ["profile"]))
    profiles = {(r.feature, r.slice, r.hour_unix_s): r for r in rows if isinstance(r, ProfileRow)}
    quality = {}
    for stamp, at, name, sums in desk.writer.store.sums.qualities(0, now + 1e6):
        live = desk.writer.lives[stamp]
        quality[name, at] = quality_row(live, name, at, unpacked(sums, live.stick))
    desk.writer.close()
    return profiles, quality


def test_sums_not_yet_stored_are_counted_again_after_a_kill(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        desk = Desk(folder)
        desk.writer.adopt(BUNDLE)
        desk.put(0, 300)
        desk.writer.flush()
        desk.put(300, 500)
        if folder == whole:
            desk.writer.flush()
        # No close: what a killed process leaves behind, as the file's lock is let go.
        desk.writer.store.close()
    a, b = sums_of(whole, NOW + 10), sums_of(killed, NOW + 10)
    assert a[0] == b[0] and a[0]["text.words", "", int(NOW)].n == 500
    assert a[1].keys() == b[1].keys() and a[1]["", int(NOW)].predictions == 500


def test_sums_stored_before_a_new_row_comes_are_not_counted_twice(tmp_path: Path) -> None:
    for start in range(3):  # killed each time: nothing is closed
        desk = Desk(tmp_path)
        desk.writer.adopt(BUNDLE)
        if not start:
            desk.put(0, 50)
            desk.writer.store.close()
            continue
        assert desk.counted() == 50
        desk.writer.store.close()


def test_an_hour_put_away_is_read_back_before_it_grows(desk: Desk) -> None:
    desk.put(0, 100)
    desk.writer.flush()
    desk.clock.now += 4 * 3600
    desk.put(100, 150)
    desk.writer.flush()  # the first hour is cold now
    desk.writer.flush()
    desk.put(150, 170, NOW)
    desk.writer.flush()
    rows = desk.reader.history(Span(NOW, NOW + 1), ["profile"])
    assert {r.n for r in rows if isinstance(r, ProfileRow) and not r.slice} == {120}


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from server.telemetry.schema import migrations
from server.telemetry.settings import Settings
from server.telemetry.telemetry import Telemetry
from tests.telemetry_bench import SCHEMA, record
telemetry = Telemetry(Settings(Path({folder!r}), flush_s=0.05))
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
    desk = Desk(tmp_path, time.time())
    rows = len(list(desk.reader.export(Span(0, 1e11))))
    desk.writer.close()
    assert rows > 300
    assert sum(r.n for (f, s, _), r in profiles.items() if f == "text.words" and not s) == rows
    assert sum(r.predictions for (s, _), r in quality.items() if not s) == rows


FULL = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from server.telemetry.history import Span
from tests.test_store import Desk
desk = Desk(Path({folder!r}))
desk.put(0, 200)
size = Path({folder!r}, "telemetry.db-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
for i in range(200, 20_200, 400):
    desk.put(i, i + 400)
    desk.clock.now += 1
    desk.writer.idle()
assert desk.writer.trouble, "nothing was refused"
lost = desk.writer.journal.counters.lost
assert lost > 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
desk.clock.now += 60
desk.writer.idle()
assert not desk.writer.trouble, desk.writer.trouble
desk.put(30_000, 30_010)
kept = desk.writer.journal.counters.written
assert kept + lost == 20_210, (kept, lost)
print(kept, lost, len(list(desk.reader.export(Span(0, 1e11)))))
desk.writer.close()
"""


def test_a_full_disk_costs_counted_rows_and_heals(tmp_path: Path) -> None:
    script = FULL.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kept, lost, stored = map(int, done.stdout.split())
    assert stored == kept and lost > 0


def test_a_file_that_is_no_database_is_set_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database, but somebody's work" * 100)
    desk = Desk(tmp_path)
    assert "set aside" in desk.writer.trouble
    aside = [p for p in tmp_path.iterdir() if "unusable" in p.name]
    assert len(aside) == 1 and aside[0].read_bytes().startswith(b"not a database")
    desk.put(0, 5)
    desk.writer.tick(NOW)
    assert len(desk.reader.samples()) == 5
    assert [r.key for r in desk.writer.desk.book.rows()] == ["telemetry/store"]
    desk.writer.close()


def test_a_torn_page_is_found_at_the_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.put(0, 2000)
    desk.writer.close()
    path = tmp_path / NAME
    content = bytearray(path.read_bytes())
    for page in range(20, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 200] = os.urandom(200)
    path.write_bytes(content)
    again = Desk(tmp_path)
    assert "set aside" in again.writer.trouble
    again.put(0, 5)
    assert len(again.reader.samples()) == 5
    again.writer.close()


def test_damage_met_while_writing_begins_a_new_file_and_goes_on(desk: Desk, tmp_path: Path) -> None:
    desk.put(0, 50)
    desk.writer._begin_anew("was damaged: database disk image is malformed")
    desk.put(50, 60)
    assert len(desk.reader.samples()) == 10
    assert "malformed" in desk.writer.trouble
    assert desk.writer.lives[STAMP].bundle == BUNDLE
    assert any("unusable" in p.name for p in tmp_path.iterdir())


def test_a_file_that_another_program_holds_is_left_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    desk.put(0, 5)
    desk.writer.close()
    monkeypatch.setattr("server.telemetry.database.BUSY_MS", 50)
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        again = Desk(tmp_path)
        assert "locked" in again.writer.trouble and again.writer.store.path.parent != tmp_path
        again.writer.close()
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]
    third = Desk(tmp_path)
    assert not third.writer.trouble and len(third.reader.samples()) == 5
    third.writer.close()


FULL_START = """
import resource, signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
import server.telemetry.database as database
real, folder = database._open, Path({folder!r})
def full_there(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if path.parent == folder else -1, -1))
    try:
        return real(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
database._open = full_there
from tests.test_store import Desk
desk = Desk(folder)
assert "start again" in desk.writer.trouble, desk.writer.trouble
desk.put(0, 5)
assert len(desk.reader.samples()) == 5
desk.writer.close()
"""


def test_a_start_on_a_full_disk_leaves_the_history_in_its_place(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.put(0, 7)
    desk.writer.close()
    script = FULL_START.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]
    again = Desk(tmp_path)
    assert len(again.reader.samples()) == 7
    again.writer.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_removed_or_replaced_while_in_use_is_noticed_and_begun_anew(
    desk: Desk, tmp_path: Path, replaced: bool
) -> None:
    desk.put(0, 5)
    for path in list(tmp_path.iterdir()):
        path.unlink()
    if replaced:
        (tmp_path / NAME).touch()
    desk.clock.now += 3
    desk.writer.idle()
    assert "removed or replaced" in desk.writer.trouble
    desk.put(5, 8)
    assert len(desk.reader.samples()) == 3 and desk.writer.store.path == tmp_path / NAME
    assert not [p for p in tmp_path.iterdir() if "unusable" in p.name]


def test_a_quiet_server_is_well_again_without_a_prediction(desk: Desk) -> None:
    desk.writer.journal.refused(sqlite3.OperationalError("database or disk is full"))
    desk.writer.idle()
    assert desk.writer.trouble
    desk.clock.now += 60
    desk.writer.idle()
    assert not desk.writer.trouble


@pytest.mark.parametrize("odd", [{"label": "\ud800"}, {"env": "\ud800"}])
def test_a_row_that_no_database_takes_does_not_hold_up_the_others(
    desk: Desk, odd: dict[str, object]
) -> None:
    desk.put(0, 2)
    desk.put(2, 3, **odd)
    desk.put(3, 5)
    desk.writer.idle()
    assert len(desk.reader.samples()) == 4
    assert (desk.writer.journal.waiting, desk.writer.journal.counters.lost) == (0, 1)


def test_rows_that_cannot_be_written_at_the_end_are_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    desk.writer.store.connection.execute("PRAGMA query_only = 1")
    desk.put(0, 4)
    assert desk.writer.journal.waiting == 4
    desk.writer.close()
    assert desk.writer.journal.counters.lost == 4
    assert "4 predictions are lost" in caplog.text


READ_ONLY = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.test_store import Desk
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
desk = Desk(Path({folder!r}))
desk.put(0, 5)
assert len(desk.reader.samples()) == 5
assert {words!r} in desk.writer.trouble, desk.writer.trouble
desk.writer.close()
"""


@pytest.mark.parametrize(
    ("folder_mode", "words"), [(0o777, "set aside"), (0o555, "cannot be written")]
)
def test_a_read_only_file_or_folder_does_not_stop_telemetry(
    tmp_path: Path, folder_mode: int, words: str
) -> None:
    folder = tmp_path / "data"
    desk = Desk(folder)
    desk.put(0, 2)
    desk.writer.close()
    for path in folder.iterdir():
        path.chmod(0o666 if path.name.endswith(".lock") else 0o444)
    folder.chmod(folder_mode)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    script = READ_ONLY.format(root=str(ROOT), folder=str(folder), words=words)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    folder.chmod(0o777)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_second_server_on_the_same_folder_keeps_to_itself(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path)
    assert "another server" in other.writer.trouble
    other.put(0, 3)
    assert desk.reader.samples() == [] and len(other.reader.samples()) == 3
    other.writer.close()


def test_temporary_folders_that_nobody_holds_are_cleared_by_the_next_one(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, held = Desk(tmp_path), Desk(tmp_path)
    left.writer.close()
    for one in (left, held):
        os.utime(one.writer.store.path.with_name(LOCK), (1, 1))
    stranger = tmp_path / "trefoil-telemetry-notes"
    stranger.mkdir()
    third = Desk(tmp_path)
    assert not left.writer.store.path.parent.exists()
    assert held.writer.store.there and third.writer.store.there and stranger.exists()
    held.writer.close()
    third.writer.close()


# ---- retention -------------------------------------------------------------------------------


def store_with_days(folder: Path, days: int, payload: bytes = b"x" * 3000) -> Desk:
    desk = Desk(folder, sample_share=1.0)
    for day in range(days):
        desk.put(day * 100, day * 100 + 100, NOW + day * 86400, payload=payload)
    desk.clock.now = NOW + (days - 1) * 86400
    desk.writer.flush()
    return desk


def test_old_days_go_one_a_pass(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 10, b"")
    retention = Retention(desk.writer.store, Limits(predictions_days=6.0))
    assert len(retention.sweep(desk.clock.now)) > 0
    assert len(desk.tables()) == 9
    for _ in range(5):
        retention.sweep(desk.clock.now)
    assert len(desk.tables()) == 7
    desk.writer.close()


def test_a_clock_that_jumps_ahead_takes_one_day_with_it_at_most(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 4, b"")
    Retention(desk.writer.store, Limits()).sweep(NOW + 400 * 86400)
    assert len(desk.tables()) == 3
    desk.writer.close()


def test_payloads_go_one_day_a_pass_too(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 4)
    gone = Retention(desk.writer.store, Limits(predictions_days=900.0)).sweep(NOW + 400 * 86400)
    assert [words for words in gone if words.startswith("payloads")] == ["payloads of 20260921"]
    desk.writer.close()


def test_a_clock_that_was_moved_takes_nothing_for_its_age(tmp_path: Path) -> None:
    monotonic = Clock(0.0)
    desk = Desk(tmp_path, NOW, monotonic, sweep_s=1.0)
    desk.put(0, 5)
    desk.writer.idle()
    desk.clock.now += 400 * 86400
    for _ in range(20):
        monotonic.now += 120
        desk.writer.idle()
    assert len(desk.tables()) == 1 and "clock" in desk.writer.notes()
    monotonic.now += 86400
    desk.clock.now += 86400
    desk.writer.idle()
    assert desk.tables() == [] and "clock" not in desk.writer.notes()
    desk.writer.close()


@pytest.mark.parametrize("speed", [1.0, 4000.0])
def test_only_a_step_of_the_clock_is_one(speed: float) -> None:
    steps = ClockSteps(speed)
    assert [steps.step(NOW + speed * t, t) for t in (0.0, 0.2, 90.0, 8000.0)] == [0.0] * 4
    assert steps.step(NOW + speed * 8001 - 7200, 8001.0) == pytest.approx(-7200)
    assert steps.step(NOW + speed * 8002, 8002.0) == pytest.approx(7200)
    assert steps.step(NOW + speed * 8003 + 60, 8003.0) == 0.0


def test_a_store_too_large_gives_up_payloads_first_then_old_days(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 3)
    before = desk.writer.store.bytes()
    gone = Retention(desk.writer.store, Limits(max_bytes=before - 500_000)).sweep(desk.clock.now)
    assert gone and all("payloads" in words for words in gone)
    assert len(desk.tables()) == 3
    gone = Retention(desk.writer.store, Limits(max_bytes=1)).sweep(desk.clock.now)
    assert any(words.startswith("predictions of") for words in gone)
    assert desk.writer.store.bytes() < before
    assert desk.writer.store.connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    desk.writer.close()


def test_old_latency_keeps_its_sums_in_wider_rows(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for minute in range(12):
        desk.put(minute * 50, minute * 50 + 50, NOW + 60 * minute)
    desk.writer.flush()
    fine = [r for r in desk.reader.history(Span(0, NOW * 2), ["latency"])]
    Retention(desk.writer.store, Limits()).sweep(NOW + 3 * 86400)
    wide = [r for r in desk.reader.history(Span(0, NOW * 2), ["latency"])]
    assert all(isinstance(r, LatencyRow) and r.width_s == 300 for r in wide)
    for name in ("requests", "total_ms", "forward_ms", "batch_rows"):
        assert sum(getattr(r, name) for r in wide) == sum(getattr(r, name) for r in fine)
    assert [sum(c) for c in zip(*(r.counts for r in wide), strict=True)] == [  # type: ignore[union-attr]
        sum(c)
        for c in zip(*(r.counts for r in fine), strict=True)  # type: ignore[union-attr]
    ]
    assert len(wide) < len(fine)
    desk.writer.close()


def test_sums_outlive_the_rows_they_were_counted_from(tmp_path: Path) -> None:
    desk = store_with_days(tmp_path, 10, b"")
    retention = Retention(desk.writer.store, Limits(predictions_days=1.0))
    for _ in range(12):
        retention.sweep(desk.clock.now)
    assert len(desk.tables()) == 2
    rows = list(desk.reader.history(Span(0, NOW + 1e7), ["profile"]))
    assert len({r.hour_unix_s for r in rows if isinstance(r, ProfileRow)}) == 10
    desk.writer.close()


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
