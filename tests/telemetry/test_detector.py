"""The drift watch over simulated traffic, with a simulated clock."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from server.telemetry.drift.confirmation import UNKNOWN, Confirmation
from server.telemetry.drift.windows import HOUR_S, LONG_S, MIDDLE_S, SHORT_S, TrailingWindows
from server.telemetry.record import FeatureSpec, Record
from server.telemetry.rows import AlertRow, DriftRow
from server.telemetry.slices.names import CANDIDATES, SliceNames
from server.telemetry.stamps.feedback import FeedbackItem
from tests.support.telemetry_bench import NOW, SCHEMA, STAMP, bundle, record
from tests.support.telemetry_writer import WriterBench

BUNDLE = bundle()
TICK_S = 300


class Plant(WriterBench):
    """Traffic at a steady rate, judged every five minutes."""

    number = 0

    def run(
        self, hours: float, a_tick: int = 60, dark: str = "", tick_s: int = TICK_S, **more: object
    ) -> None:
        """`dark` is the site whose camera darkens."""
        for _ in range(round(hours * HOUR_S / tick_s)):
            rows: list[tuple[Record, tuple[FeatureSpec, ...]]] = []
            for i in range(a_tick):
                self.number += 1
                site = "ab"[self.number % 2]
                shade = {"brightness": 0.44} if dark in (site, "all") else {}
                at = self.clock.now + i * tick_s / a_tick
                rows.append((record(self.number, at, **shade, **more), SCHEMA))
            self.writer.write(rows)
            self.clock.now += tick_s
            self.writer.tick(self.clock.now - 1)

    def firing(self) -> list[AlertRow]:
        return [row for row in self.writer.alerts.book.rows() if row.state == "firing"]

    def row(self, feature: str, slice_name: str = "", window_s: int = SHORT_S) -> DriftRow:
        rows = [c.row for c in self.changes.after(0).changes if isinstance(c.row, DriftRow)]
        wanted = (STAMP, feature, slice_name, window_s)
        return next(r for r in rows if (r.stamp, r.feature, r.slice, r.window_s) == wanted)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    found = Plant(tmp_path)
    found.writer.adopt(BUNDLE)
    return found


def test_calm_traffic_is_ok_and_little_of_it_is_insufficient(plant: Plant) -> None:
    plant.run(0.25)
    assert plant.row("image.brightness").level == "insufficient"
    assert plant.row("image.brightness").n_needed >= 320
    plant.run(1)
    assert plant.row("image.brightness").level == "ok"
    assert plant.firing() == []


def test_a_dark_camera_at_one_site_opens_one_alert_that_names_it(plant: Plant) -> None:
    plant.run(1, a_tick=90)
    plant.run(3.5, a_tick=90, dark="b")
    [alert] = [a for a in plant.firing() if a.kind == "drift"]
    assert alert.features[0] == "image.brightness" and alert.slices == ("site=b",)
    assert "site=b" in alert.summary
    assert plant.row("image.brightness", "site=b").level in ("high", "critical")
    assert plant.row("audio.snr_db", "site=b").level == "ok"
    assert plant.row("image.brightness", "site=a").level == "ok"


def test_a_large_shift_of_few_rows_is_reported_and_so_is_its_end(plant: Plant) -> None:
    """A dozen requests an hour: a day of them is not enough for a small shift."""
    half_an_hour = partial(plant.run, a_tick=6, tick_s=1800)
    half_an_hour(48)
    assert plant.row("image.brightness", window_s=LONG_S).level == "insufficient"
    assert plant.firing() == []
    half_an_hour(12, brightness=0.3)
    dark = plant.row("image.brightness", window_s=LONG_S)
    assert dark.n_effective < dark.n_needed and dark.level == "high"
    [alert] = [a for a in plant.firing() if a.kind == "drift"]
    assert alert.features == ("image.brightness",)
    half_an_hour(72)
    assert [a for a in plant.firing() if a.kind == "drift"] == []


def test_a_burst_of_one_request_at_a_fresh_server_is_no_drift(plant: Plant) -> None:
    same = record(7).features
    for _ in range(2):
        plant.run(0.5, a_tick=30, features=same)
        plant.run(2, a_tick=1)
    assert [a for a in plant.firing() if a.kind == "drift"] == []


def test_an_alert_survives_a_restart_and_closes_when_it_is_over(
    plant: Plant, tmp_path: Path
) -> None:
    plant.run(4, dark="all")
    [before] = [a for a in plant.firing() if a.kind == "drift"]
    plant.writer.close()
    again = Plant(tmp_path, plant.clock.now)
    again.number = plant.number
    again.writer.adopt(BUNDLE)
    again.run(0.5, dark="all")
    [after] = [a for a in again.firing() if a.kind == "drift"]
    assert after.id == before.id
    assert [step for step in again.steps if step.page] == []  # type: ignore[attr-defined]
    again.writer.close()


def test_a_new_category_and_lost_values_are_reported_at_once(plant: Plant) -> None:
    plant.run(0.5)
    webp = np.array([12, 0.5, 2, 20, 0, 0.8], dtype="<f4").tobytes()
    mute = np.array([12, 0.5, 0, np.nan, 0, 0.8], dtype="<f4").tobytes()
    rows = [record(i, plant.clock.now, features=webp if i % 2 else mute) for i in range(60)]
    plant.writer.write([(row, SCHEMA) for row in rows])
    plant.writer.tick(plant.clock.now + 1)
    summaries = {a.key.split("/")[-1]: a.summary for a in plant.firing() if a.kind == "structural"}
    assert "new category" in summaries["image"] and "missing" in summaries["audio"]


def test_a_sensor_that_is_stuck_is_reported(plant: Plant) -> None:
    stuck = np.array([12, 0.5, 0, 20, 0, 0.8], dtype="<f4").tobytes()
    plant.run(1, features=stuck)
    summaries = [a.summary for a in plant.firing() if a.kind == "structural"]
    assert any("identical" in text for text in summaries)


def test_a_modality_that_was_not_sent_is_absent_not_missing(plant: Plant) -> None:
    silent = np.array([12, np.nan, np.nan, 20, 0, 0.8], dtype="<f4").tobytes()
    plant.run(0.5, features=silent, mix="audio+text")
    assert not any("missing" in a.summary for a in plant.firing())


def test_a_new_stamp_starts_afresh(plant: Plant) -> None:
    plant.run(3.5, dark="all")
    assert any(a.kind == "drift" for a in plant.firing())
    plant.writer.adopt(bundle("cd" * 32))
    plant.run(26, a_tick=5, tick_s=HOUR_S, stamp="cd" * 32)
    stamps = {a.stamp for a in plant.firing()}
    assert STAMP not in stamps


def test_without_a_reference_it_is_learning_and_never_alerts(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.writer.adopt(bundle(reference=False))
    plant.run(2)
    assert plant.row("image.brightness").level == "learning"
    assert plant.firing() == []
    plant.writer.close()


def test_a_slice_the_reference_does_not_have_is_learning(plant: Plant) -> None:
    plant.run(1, slices={"line": "7"})
    assert plant.row("image.brightness", "line=7").level == "learning"


def test_unsure_answers_open_a_value_alert_before_any_label(plant: Plant) -> None:
    plant.run(0.6, confidence=0.45)
    [alert] = [a for a in plant.firing() if a.kind == "value"]
    assert "estimated accuracy" in alert.summary and "(reference " in alert.summary


def test_wrong_answers_open_a_value_alert_when_the_labels_come(plant: Plant) -> None:
    plant.run(0.25)
    assert not [a for a in plant.firing() if a.kind == "value"]
    rows = plant.reader.samples(limit=1000)
    wrong = [
        FeedbackItem(r.record.prediction_id, "ok" if r.record.label != "ok" else "stop")
        for r in rows
    ]
    plant.writer.take_feedback(wrong)
    plant.writer.tick(plant.clock.now)
    [alert] = [a for a in plant.firing() if a.kind == "value"]
    assert alert.severity == "critical" and "labelled" in alert.summary


def test_features_of_another_schema_are_counted_as_malformed_and_nothing_else(
    plant: Plant,
) -> None:
    plant.run(0.2, features=b"\x00" * 8)
    assert plant.writer.notes()["malformed"].startswith("120 ")
    assert len(plant.reader.samples()) == 100


# ---- windows ---------------------------------------------------------------------------------


def test_every_window_forgets_in_its_time() -> None:
    stored: dict[int, dict[str, np.ndarray]] = {}
    windows = TrailingWindows(2, lambda hour: stored.get(hour, {}))
    one = np.array([1, 0])
    for hour in range(30):
        at = NOW + hour * HOUR_S
        windows.advance(at)
        windows.add("", at, one)
        stored[int(at // HOUR_S)] = {"": one}
    at = NOW + 29 * HOUR_S
    assert windows.window("", at, SHORT_S)[0] == 1
    assert windows.window("", at, MIDDLE_S)[0] == 4
    assert windows.window("", at, LONG_S)[0] == 24
    windows.advance(at + 2 * HOUR_S)
    assert windows.window("", at + 2 * HOUR_S, SHORT_S)[0] == 0


@pytest.mark.parametrize("step", [-7 * 86400, 400 * 86400])
def test_a_clock_that_steps_empties_windows_and_breaks_nothing(step: float) -> None:
    windows = TrailingWindows(1, lambda hour: {})
    for at in (NOW, NOW + step, NOW + step + 60, NOW + 120):
        windows.advance(at)
        windows.add("", at, np.array([1]))
    assert windows.window("", NOW + 120, SHORT_S)[0] >= 1
    assert windows.window("", NOW + 120, LONG_S)[0] >= 0


@pytest.mark.parametrize("step_s", [-3 * 86400, -1800, 5 * 86400])
def test_after_the_clock_was_set_drift_is_found_and_no_row_is_lost(
    plant: Plant, step_s: float
) -> None:
    plant.run(5)
    plant.clock.now += step_s
    plant.run(5)
    assert plant.firing() == []
    plant.run(5, dark="b")
    assert any("image.brightness" in row.features for row in plant.firing())
    assert plant.counted() == plant.number


# ---- evidence --------------------------------------------------------------------------------


def look(evidence: Confirmation, level: int, ticks: int = 1, calm: bool | None = None) -> bool:
    evidence.advance(ticks)
    quiet = level == 0 if calm is None else calm
    evidence.note("", np.full((1, 1), level, dtype=np.int8), np.full((1, 1), quiet))
    return bool(evidence.open("")[0, 0])


def test_three_of_four_hourly_looks_open_and_two_do_not() -> None:
    evidence = Confirmation(1, (SHORT_S,), HOUR_S)
    assert [look(evidence, level) for level in (2, 0, 2, 0, 0, 2)] == [False] * 6
    assert [look(evidence, level) for level in (2, 2)] == [False, True]


def test_unknown_looks_are_not_bad_and_calm_only_where_few_rows_say_so() -> None:
    evidence = Confirmation(1, (SHORT_S,), HOUR_S)
    assert [look(evidence, level) for level in (1, UNKNOWN, 1, 1)][-1]
    for _ in range(10):
        assert look(evidence, UNKNOWN, calm=False)
    closed = [look(evidence, level, calm=True) for level in (0, 0, UNKNOWN, 0)]
    assert closed == [True, True, True, False]


def test_ticks_left_out_repeat_the_one_before_for_half_an_hour_at_most() -> None:
    evidence = Confirmation(1, (SHORT_S,), HOUR_S / 12)
    looks = [look(evidence, 2, ticks=5) for _ in range(8)]
    assert looks[-1] and not looks[0]
    sparse = Confirmation(1, (SHORT_S,), HOUR_S / 12)
    assert not any(look(sparse, 2, ticks=11) for _ in range(9))


# ---- slice names -----------------------------------------------------------------------------


def test_a_flood_of_new_values_is_counted_as_other() -> None:
    names = SliceNames(["site=a"], limit=4)
    for user in range(10_000):
        names.of({"site": "a", "user": f"u{user}"})
    assert names.of({"site": "a", "user": "one more"}) == ["site=a", "user=other"]
    assert names.turned_away > 9000
    assert len(names._waiting) <= CANDIDATES and len(names._names) == 1


def test_a_value_earns_its_place_by_traffic_while_there_is_room() -> None:
    names = SliceNames(limit=2)
    for _ in range(30):
        found = [names.of({"site": site})[0] for site in "abc"]
    assert found == ["site=a", "site=b", "site=other"]
    assert names.known({"site": "b"}) == ["site=b"]


def test_long_keys_and_values_are_cut() -> None:
    names = SliceNames()
    for _ in range(25):
        found = names.of({"k" * 500: "v" * 500})
    assert found == ["k" * 64 + "=" + "v" * 64]
