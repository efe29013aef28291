"""Accuracy, calibration and value, realised and estimated, as sums."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from server.telemetry.quality.count_arrays import add_answers
from server.telemetry.quality.estimates import Estimates, QualityCounts, Yardstick, yardstick
from server.telemetry.quality.objective import Objective, ObjectiveRefused, parse

LABELS = ("ok", "stop")
WORTH = {"ok": {"ok": 1.0, "stop": -20.0}, "stop": {"ok": -300.0, "stop": 50.0}}


def objective() -> Objective:
    made = parse(json.dumps({"unit": "EUR", "value": WORTH, "window_s": 10}).encode(), LABELS)
    assert made is not None
    return made


def stick() -> Yardstick:
    return yardstick(LABELS, None, objective())


def answered(counts: QualityCounts, yard: Yardstick, confidence: float, predicted: int) -> None:
    """One row, as counting adds many."""
    add_answers(
        counts,
        np.array([yard.bin(confidence)]),
        np.array([confidence]),
        np.array([predicted]),
    )


def learned(rng: np.random.Generator, rows: int) -> tuple[QualityCounts, float, float]:
    """Calibrated answers with known truth: (counts, accuracy, value per decision)."""
    counts, yard, right, worth = QualityCounts.of(stick()), stick(), 0, 0.0
    for _ in range(rows):
        confidence = float(rng.uniform(0.5, 1.0))
        predicted = int(rng.integers(2))
        true = predicted if rng.random() < confidence else 1 - predicted
        answered(counts, yard, confidence, predicted)
        counts.learn(yard, Estimates(confidence, predicted, true, 0.1, math.nan, 60.0))
        right += predicted == true
        worth += WORTH[LABELS[true]][LABELS[predicted]]
    return counts, right / rows, worth / rows


def test_estimates_agree_with_what_is_realised_when_confidence_is_honest() -> None:
    counts, accuracy, worth = learned(np.random.default_rng(1), 8000)
    row = counts.row(stick(), "s", "", 0, 3600)
    assert row.accuracy == pytest.approx(accuracy)
    assert row.estimated_accuracy == pytest.approx(accuracy, abs=0.02)
    assert row.value_per_1000 == pytest.approx(1000 * worth)
    assert row.estimated_value_per_1000 == pytest.approx(1000 * worth, abs=1500)
    assert row.ece < 0.03
    assert row.median_label_delay_s == 60.0
    assert sum(row.confusion) == row.labelled == 8000


def test_what_a_wrong_answer_loses_is_against_the_right_one() -> None:
    assert stick().lost[:2].tolist() == [
        350.0,
        21.0,
    ]  # predicted ok, was stop; predicted stop, was ok
    assert math.isnan(stick().lost[2]) and math.isnan(yardstick(LABELS, None, None).lost[0])


def test_overconfidence_shows_as_calibration_error() -> None:
    counts, yard = QualityCounts.of(stick()), stick()
    for turn in range(1000):
        counts.learn(yard, Estimates(0.95, 0, turn % 2, 0.1, math.nan, 1.0))
    assert counts.row(yard, "s", "", 0, 3600).ece == pytest.approx(0.45)


def test_hours_add_up_and_a_corrected_label_is_taken_back() -> None:
    rng = np.random.default_rng(2)
    first, second = learned(rng, 50)[0], learned(rng, 70)[0]
    before = first.row(stick(), "s", "", 0, 3600)
    wrong = Estimates(0.9, 0, 1, 0.1, math.nan, 5.0)
    first.learn(stick(), wrong)
    first.learn(stick(), wrong, sign=-1)
    after = first.row(stick(), "s", "", 0, 3600)
    assert after.accuracy == before.accuracy and after.confusion == before.confusion
    assert after.value_per_1000 == pytest.approx(before.value_per_1000)
    first.add(second)
    assert first.row(stick(), "s", "", 0, 3600).labelled == 120


def test_a_late_decision_keeps_its_cost_and_loses_its_benefit() -> None:
    worth = objective().worth
    assert worth(1, 1, took_s=9.0) == 50.0
    assert worth(1, 1, took_s=11.0) == 0.0
    assert worth(1, 0, took_s=11.0) == -300.0
    each = {"unit": "EUR", "value": WORTH, "window_s": {"ok": 60, "stop": 1}}
    made = parse(json.dumps(each).encode(), LABELS)
    assert made is not None and made.worth(1, 1, took_s=2.0) == 0.0
    assert made.worth(0, 0, took_s=2.0) == 1.0


def test_a_reported_value_counts_before_the_matrix() -> None:
    counts = QualityCounts.of(stick())
    counts.learn(stick(), Estimates(0.9, 0, 0, 0.1, -7.5, 1.0))
    assert counts.row(stick(), "s", "", 0, 3600).value_per_1000 == -7500


def test_nothing_labelled_is_not_a_zero() -> None:
    row = QualityCounts.of(stick()).row(stick(), "s", "", 0, 3600)
    for figure in (row.accuracy, row.ece, row.value_per_1000, row.estimated_accuracy):
        assert math.isnan(figure)


def test_a_label_of_a_request_counts_without_a_place_in_the_matrix() -> None:
    yard, counts = stick(), QualityCounts.of(stick())
    foreign = yard.label("something else")
    answered(counts, yard, 0.8, foreign)
    counts.learn(yard, Estimates(0.8, foreign, foreign, 0.1, math.nan, 1.0))
    row = counts.row(yard, "s", "", 0, 3600)
    assert (row.accuracy, sum(row.confusion)) == (1.0, 0)
    assert math.isnan(row.value_per_1000)


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b'{"unit": "EUR"}',
        json.dumps({"unit": "EUR", "value": {"ok": WORTH["ok"]}}).encode(),
        json.dumps({"unit": "EUR", "value": WORTH, "window_s": 0}).encode(),
        json.dumps({"unit": "EUR", "value": {**WORTH, "other": {}}}).encode(),
    ],
)
def test_a_damaged_objective_is_refused(damaged: bytes) -> None:
    with pytest.raises(ObjectiveRefused):
        parse(damaged, LABELS)


def test_a_bundle_may_have_no_objective() -> None:
    assert parse(b"{}", LABELS) is None
