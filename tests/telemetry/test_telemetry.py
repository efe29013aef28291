"""Telemetry as the server uses it: records in, answers out, on its own thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.telemetry.change_feed import LIMITS, ChangeFeed
from server.telemetry.errors import BadFilter, ReferenceRefused, UnknownAlert
from server.telemetry.findings import Finding
from server.telemetry.quality.objective import ObjectiveRefused
from server.telemetry.rows import (
    AlertRow,
    DeployRow,
    FeatureRow,
    LatencyRow,
    PredictionRow,
    ProfileRow,
    QualityRow,
)
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.feedback import FeedbackItem
from server.telemetry.stamps.latency import BUCKETS, LatencySums, bucket_of, key_of
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.worst_slices import SliceSearch
from server.telemetry.telemetry import Telemetry
from tests.support.telemetry_bench import LABELS, NOW, SCHEMA, STAMP, Clock, bundle, record

BUNDLE = bundle(rows=600)
DAY = TimeSpan(NOW - 3600, NOW + 86400)
READY = Finding("readiness/pool", "readiness", "high", "1 of 2 replicas warm")


class Held:
    """Telemetry with clocks that are set: nothing is due unless they move."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.clock, self.paced = Clock(), Clock(0.0)
        self.alerted: list[AlertRow] = []
        self.telemetry = Telemetry(
            TelemetrySettings(folder, **more),  # type: ignore[arg-type]
            self.clock,
            self.paced,
            self.alerted.append,
        )

    def settle(self) -> None:
        """Everything put so far has been written."""
        self.telemetry._recorder.call(lambda: None)

    def rows(self, kind: type) -> list[object]:
        self.settle()
        changes = self.telemetry.changes().changes
        return [c.row for c in changes if isinstance(c.row, kind)]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    found = Held(tmp_path)
    found.telemetry.adopt(BUNDLE)
    yield found
    found.telemetry.close()


def test_a_record_put_is_a_sample_soon(held: Held) -> None:
    for i in range(50):
        held.telemetry.put(record(i), SCHEMA)
    held.settle()
    assert len(held.telemetry.samples(limit=1000)) == 50
    assert held.telemetry.by_id([record(7).prediction_id])[0].record.at == NOW
    assert held.telemetry.health().recorded == 50


def test_a_filter_cannot_smuggle_sql(held: Held) -> None:
    held.telemetry.put(record(0), SCHEMA)
    held.settle()
    evil = "x') OR 1=1 --"
    assert held.telemetry.samples(f'site="{evil}"') == []
    assert held.telemetry.samples(f'label="{evil}"') == []
    with pytest.raises(BadFilter):
        held.telemetry.samples("site')--=1")


def test_kept_payloads_come_back_on_request_only(tmp_path: Path) -> None:
    held = Held(tmp_path, sample_share=1.0)
    held.telemetry.put(record(0), SCHEMA)
    held.telemetry.put(record(1, payload=b""), SCHEMA)
    held.settle()
    rows = {r.record.prediction_id: r for r in held.telemetry.samples(payload=True)}
    kept, not_kept = rows[record(0).prediction_id], rows[record(1).prediction_id]
    assert kept.payload_kept and kept.example == b"payload 0" and kept.sample_p == 1.0
    assert not not_kept.payload_kept and not_kept.example == b""
    assert held.telemetry.samples()[0].example == b""
    held.telemetry.close()


def test_everything_that_happened_is_in_the_history(held: Held) -> None:
    for i in range(700):
        held.telemetry.put(record(i, NOW + i), SCHEMA)
    held.telemetry.feedback([FeedbackItem(record(0, NOW).prediction_id, "ok")])
    held.telemetry.deployed(DeployRow(int(NOW * 1000), "activate", STAMP, "tiny", "", "ann", ""))
    held.telemetry.report([READY])
    held.clock.now += 901
    held.settle()
    held.settle()
    assert [r.labelled for r in held.telemetry.qualities(DAY) if not r.slice] == [1]
    rows = list(held.telemetry.history(DAY))
    kinds = {type(row).__name__ for row in rows}
    assert kinds == {
        "FeatureRow",
        "LatencyRow",
        "ProfileRow",
        "DriftRow",
        "AlertRow",
        "DeployRow",
        "QualityRow",
    }
    assert all(isinstance(r, LatencyRow) for r in held.telemetry.history(DAY, ["latency"]))
    assert len(list(held.telemetry.history(DAY, ["prediction"]))) == 700
    assert list(held.telemetry.history(TimeSpan(0, 1), ["latency", "drift", "alert"])) == []


def test_the_history_and_the_live_rows_agree(held: Held) -> None:
    for i in range(100):
        held.telemetry.put(record(i, NOW + i), SCHEMA)
    held.settle()
    held.clock.now += 301
    held.settle()
    held.settle()
    state = {(r.feature, r.slice): r for r in held.rows(ProfileRow)}  # type: ignore[attr-defined]
    quality = {r.slice: r for r in held.rows(QualityRow)}  # type: ignore[attr-defined]
    held.telemetry.qualities(DAY)  # flushes
    stored = held.telemetry.history(DAY, ["profile"])
    assert {(r.feature, r.slice): r for r in stored} == state  # type: ignore[union-attr]
    assert {r.slice: repr(r) for r in held.telemetry.qualities(DAY)} == {
        name: repr(row) for name, row in quality.items()
    }


def test_latency_adds_up_over_replicas_and_time(held: Held) -> None:
    rows = [record(i, NOW + i % 30) for i in range(90)]
    for row in rows:
        held.telemetry.put(row, SCHEMA)
    held.settle()
    held.paced.now += 5
    held.settle()
    held.settle()
    found = held.rows(LatencyRow)
    assert sum(r.requests for r in found) == 90  # type: ignore[attr-defined]
    assert {(r.bucket_unix_ms, r.replica) for r in found} == {  # type: ignore[attr-defined]
        (int(NOW * 1000) + 10_000 * k, replica) for k in range(3) for replica in range(2)
    }
    assert sum(r.total_ms for r in found) == pytest.approx(  # type: ignore[attr-defined]
        sum(r.total_ms for r in rows)
    )


def test_log_buckets_are_those_of_the_contract() -> None:
    for place in range(BUCKETS):
        low = 0.25 * 2 ** (place / 4)
        assert bucket_of(low * 1.001) == place
        if place:
            assert bucket_of(low * 0.999) == place - 1
    assert bucket_of(0.0) == bucket_of(-1.0) == bucket_of(float("nan")) == 0
    assert bucket_of(1e6) == bucket_of(float("inf")) == BUCKETS - 1


def test_the_slowest_requests_are_the_exemplars() -> None:
    sums = LatencySums()
    for i in range(200):
        sums.add(record(i, NOW, total_ms=float(i)))
    slowest = sums.row(key_of(record(0))).exemplars
    assert slowest[0].total_ms == 199.0 and len(slowest) == 4


def test_worst_slices_are_found_in_what_was_stored(held: Held) -> None:
    items = []
    for i in range(3000):
        row = record(i, NOW + i / 10)
        held.telemetry.put(row, SCHEMA)
        wrong = row.slices["site"] == "b" and np.frombuffer(row.features, "<f4")[3] < 18
        label = next(x for x in LABELS if x != row.label) if wrong else row.label
        items.append(FeedbackItem(row.prediction_id, label))
    held.telemetry.feedback(items)
    found = held.telemetry.worst_slices(SliceSearch(DAY, "error"))
    assert not found.estimated and found.rows == 3000
    assert "site b" in found.slices[0].message and "audio.snr_db < 1" in found.slices[0].message
    worth = held.telemetry.worst_slices(SliceSearch(DAY, "value", limit=1)).slices
    assert worth[0].value_per_1000 < 0 and "value lost" in worth[0].message
    assert worth[0].error > 5 * worth[0].error_elsewhere
    assert "site b" in worth[0].message
    with pytest.raises(ValueError, match="measure"):
        held.telemetry.worst_slices(SliceSearch(DAY, "beauty"))


def test_an_alert_is_acknowledged_silenced_and_all_of_it_survives(tmp_path: Path) -> None:
    held = Held(tmp_path)
    held.telemetry.report([READY])
    held.settle()
    alert = held.telemetry.alerts()[0]
    assert held.telemetry.acknowledge(alert.id, "ann", "on it").acknowledged_by == "ann"
    silence = held.telemetry.silence("kind=readiness", NOW + 3600, "ann", "rebuilding")
    held.telemetry.close()
    again = Held(tmp_path)
    found = again.telemetry.alerts()[0]
    assert (found.id, found.acknowledged_note, found.silenced) == (alert.id, "on it", True)
    assert [s.to_state for s in found.history] == ["pending", "firing", "firing"]
    again.telemetry.end_silence(silence.id)
    assert not again.telemetry.alerts()[0].silenced
    with pytest.raises(UnknownAlert):
        again.telemetry.acknowledge("nope", "ann")
    with pytest.raises(BadFilter):
        again.telemetry.silence("", NOW + 60, "ann", "")
    again.telemetry.close()


def test_the_alert_command_is_run_for_a_page(tmp_path: Path) -> None:
    target = tmp_path / "paged"
    held = Held(tmp_path / "data", on_alert=f"cp /dev/stdin {target}")
    held.telemetry.report([READY])
    held.settle()
    held.telemetry.close()
    assert '"readiness"' in target.read_text()
    assert '"runbook": "docs/runbooks/readiness.md"' in target.read_text()
    assert [row.state for row in held.alerted] == ["firing"]


def test_a_reference_or_objective_that_does_not_fit_is_refused(held: Held) -> None:
    other = replace(BUNDLE, stamp="cd" * 32, schema=SCHEMA[:3])
    with pytest.raises(ReferenceRefused):
        held.telemetry.adopt(other)
    with pytest.raises(ObjectiveRefused):
        held.telemetry.adopt(replace(BUNDLE, stamp="cd" * 32, labels=("ok", "never heard of")))
    assert held.rows(FeatureRow) and all(
        r.stamp == STAMP  # type: ignore[attr-defined]
        for r in held.rows(FeatureRow)
    )


def test_a_thread_that_died_is_reported(held: Held) -> None:
    assert held.telemetry.health().state == "ok"
    held.telemetry.close()
    assert "ended" in held.telemetry.health().state
    held.telemetry.put(record(0), SCHEMA)  # still never raises


# ---- the change feed -------------------------------------------------------------------------


def latency(bucket: int, requests: int = 1) -> LatencyRow:
    key = key_of(record(0, NOW + 10 * bucket))
    return replace(LatencySums().row(key), requests=requests)


def test_a_watcher_gets_each_key_once_as_it_is_now() -> None:
    changes = ChangeFeed()
    changes.note([latency(0, 1), latency(1, 1)])
    seen = changes.after(0)
    changes.note([latency(0, 2)])
    changes.note([latency(0, 3)])
    later = changes.after(seen.cursor)
    assert [c.row.requests for c in later.changes] == [3]  # type: ignore[union-attr]
    assert later.complete and later.cursor > seen.cursor
    assert changes.after(later.cursor).changes == []
    assert [c.row.requests for c in changes.after(0).changes] == [1, 3]  # type: ignore[union-attr]


def test_a_reader_that_was_away_too_long_learns_that_rows_are_missing() -> None:
    changes = ChangeFeed()
    changes.note([latency(0)])
    away = changes.after(0).cursor
    changes.note(latency(i) for i in range(1, LIMITS[LatencyRow] + 10))
    found = changes.after(away)
    assert not found.complete and len(found.changes) == LIMITS[LatencyRow]
    assert changes.after(0).complete
    assert changes.after(found.cursor).complete


def test_features_come_before_what_speaks_of_them(held: Held) -> None:
    held.telemetry.put(record(0, error="INTERNAL/LOST/"), SCHEMA)
    held.settle()
    kinds = [type(c.row) for c in held.telemetry.changes().changes]
    assert kinds.index(FeatureRow) < kinds.index(PredictionRow)


# ---- the front process stays light -----------------------------------------------------------


def test_importing_telemetry_loads_neither_scipy_nor_torch_nor_opentelemetry() -> None:
    heavy = ("torch", "scipy", "opentelemetry", "grpc", "pandas")
    script = (
        "import sys; import server.telemetry.telemetry;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
