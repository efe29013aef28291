"""The baselines of live traffic, and references that are learned where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.telemetry.drift.windows import HOUR_S, LONG_S, SHORT_S
from server.telemetry.stamps.baselines import BadBaseline, BaselineChoice, choice_of
from server.telemetry.stamps.learned_reference import LEARN_S, MIN_ROWS
from tests.support.telemetry_bench import NOW, STAMP, bundle
from tests.telemetry.test_detector import Plant

DAY_S = 86400


def test_a_baseline_is_named_or_a_range() -> None:
    assert choice_of("bundle") == BaselineChoice("bundle")
    assert choice_of("1970-01-02T00:00..1970-01-03T00:00Z") == BaselineChoice(
        "pinned", DAY_S, 2 * DAY_S
    )


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "..", "2026-01-02..2026-01-01", "2026-01-02", "2026-13-01..2026-14-01"],
)
def test_an_empty_baseline_is_refused(text: str) -> None:
    with pytest.raises(BadBaseline):
        choice_of(text)


def counts(plant: Plant, window_s: int, feature: int = 1, name: str = "") -> np.ndarray:
    state = plant.writer.states[STAMP]
    baseline = plant.writer._baselines.of(state, plant.clock.now)[window_s]
    start = state.layout.offsets[feature]
    return baseline.counts[name][start : start + state.layout.sizes[feature]]


def test_last_week_is_the_same_hour_and_the_day_before_it(tmp_path: Path) -> None:
    plant = Plant(tmp_path, baseline="last-week")
    plant.writer.adopt(bundle(rows=600))
    plant.run(26, a_tick=12, tick_s=HOUR_S)
    plant.clock.now = NOW + 7 * DAY_S + 25 * HOUR_S + 5
    assert counts(plant, SHORT_S).sum() == 12
    assert counts(plant, LONG_S).sum() == 24 * 12
    assert counts(plant, LONG_S, name="site=a").sum() == 24 * 6
    plant.writer.close()


def test_a_pinned_range_is_the_sum_of_its_hours(tmp_path: Path) -> None:
    plant = Plant(tmp_path, baseline="2026-09-21T15:00..2026-09-21T18:00")
    plant.writer.adopt(bundle(rows=600))
    plant.clock.now = choice_of("2026-09-21T14:00..2026-09-21T15:00").since
    plant.run(6, a_tick=10, tick_s=HOUR_S)
    assert counts(plant, SHORT_S).sum() == 30
    plant.run(1, a_tick=10, tick_s=HOUR_S)
    assert plant.row("image.brightness").baseline == "pinned"
    plant.writer.close()


def test_the_previous_stamp_is_counted_in_the_cells_of_this_one(tmp_path: Path) -> None:
    plant = Plant(tmp_path, baseline="previous")
    old = "cd" * 32
    plant.writer.adopt(bundle(old, rows=900))
    plant.run(1, stamp=old)
    plant.writer.flush()
    plant.writer.adopt(bundle())
    plant.run(1)
    found = counts(plant, SHORT_S)
    assert found.sum() == 720 and len(found) == 64
    assert counts(plant, SHORT_S, name="site=b").sum() == 360
    assert plant.row("image.brightness").level == "ok"
    plant.writer.close()


def test_a_reference_is_learnt_in_three_days_kept_and_alerted_by(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    bare = bundle(reference=False)
    plant.writer.adopt(bare)
    plant.run(24, a_tick=90, tick_s=HOUR_S)
    plant.writer.learn()
    assert plant.row("image.brightness", "", LONG_S).level == "learning"
    plant.clock.now = NOW + LEARN_S + HOUR_S
    plant.writer.learn()
    plant.writer.close()
    again = Plant(tmp_path, plant.clock.now)
    again.number = plant.number
    again.writer.adopt(bare)  # the server knows of no reference
    again.run(1.1)
    row = again.row("image.brightness")
    assert (row.level, row.baseline) == ("ok", "learnt")
    again.run(3.2, dark="all")
    assert any(a.kind == "drift" for a in again.firing())
    again.writer.close()


def test_too_little_traffic_teaches_nothing(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.writer.adopt(bundle(reference=False))
    plant.run(1, a_tick=20)
    plant.clock.now = NOW + 2 * LEARN_S
    plant.writer.learn()
    assert plant.writer.states[STAMP].reference.learning
    plant.writer.close()


def test_a_slice_the_reference_does_not_know_is_learnt(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.writer.adopt(bundle())
    plant.run(2, a_tick=MIN_ROWS // 20, slices={"line": "7"})
    plant.writer.flush()
    plant.clock.now = NOW + LEARN_S + HOUR_S
    plant.run(0.2, a_tick=50, slices={"line": "7"})
    assert plant.row("image.brightness", "line=7").level == "learning"
    plant.writer.learn()
    plant.run(0.8, slices={"line": "7"})
    assert plant.row("image.brightness", "line=7").level == "ok"
    plant.writer.close()


def test_the_learnt_reference_is_of_its_stamp_alone(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.writer.adopt(bundle(reference=False))
    other = replace(bundle(reference=False), stamp="cd" * 32)
    plant.writer.adopt(other)
    assert plant.writer.states.with_learnt(other) == other
    plant.writer.close()
