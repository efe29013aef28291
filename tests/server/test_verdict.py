"""From the pairs of a rehearsal to the comparison, its intervals and the verdict. Pure."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from server.rehearsal import intervals
from server.rehearsal.comparison import (
    BundleComparison,
    by_slice,
    columns_of,
    comparison_of,
    numbers,
)
from server.rehearsal.intervals import Interval, rows_needed, wilson, z_of
from server.rehearsal.paired_answers import AnswerPair, BundleAnswer
from server.rehearsal.verdict import Latency, RehearsalVerdict, judge, slice_line
from server.telemetry.quality import objective
from server.telemetry.quality.estimates import yardstick
from server.telemetry.quality.pricing import Yardsticks

LABELS = ("ok", "stop")
TABLE = json.dumps(
    {
        "unit": "EUR",
        "value": {"ok": {"ok": 1, "stop": -20}, "stop": {"ok": -400, "stop": 100}},
    }
).encode()
TOLERANCE = 0.1  # the golden one of bfloat16
ALIKE = Latency(60, 10.0, 10.0, Interval(1.0, 0.9, 1.1))


def sticks(table: bytes = b"") -> Yardsticks:
    worth = objective.parse(table, LABELS) if table else None
    one = yardstick(LABELS, None, worth)
    return Yardsticks(one, one)


def pair(before: str, now: str, true: str = "", weight: float = 1.0, **tags: str) -> AnswerPair:
    return AnswerPair(weight, BundleAnswer(before, 0.9), BundleAnswer(now, 0.9), 0.01, true, tags)


def whole(pairs: list[AnswerPair], table: bytes = b"") -> BundleComparison:
    return comparison_of(columns_of(pairs, sticks(table), TOLERANCE))


def judged(
    pairs: list[AnswerPair], table: bytes = b"", latency: Latency = ALIKE, labels: str = ""
) -> RehearsalVerdict:
    columns = columns_of(pairs, sticks(table), TOLERANCE)
    slices = by_slice(columns, pairs)
    return judge(comparison_of(columns), slices, latency, labels, "EUR", "keep more")


def same(count: int, **tags: str) -> list[AnswerPair]:
    return [replace(pair("ok", "ok"), slices=tags) for _ in range(count)]


def test_a_bundle_that_answers_alike_is_promoted() -> None:
    found = judged(same(100))
    assert found.word == "promote" and "0.0 % (0.0 to 3.7)" in found.reason


def test_another_label_at_a_near_tie_is_shown_apart_and_does_not_count_as_changed() -> None:
    """A batch mate can flip it. A clear answer of either bundle makes it a change."""

    def flip(before: float, now: float) -> AnswerPair:
        old, new = BundleAnswer("ok", 0.5, before), BundleAnswer("stop", 0.5, now)
        return AnswerPair(1.0, old, new, 0.01)

    ties = [flip(0.01, TOLERANCE) for _ in range(20)]
    found = whole([*same(100), *ties])
    assert (found.changed_rows, found.near_tie_rows) == (0, 20)
    assert found.changed.value == 0 and dict(numbers(found))["near_tie_rows"] == 20
    assert judged([*same(100), *ties]).word == "promote"
    for clear in (flip(0.01, 0.11), flip(0.11, 0.01), flip(math.nan, math.nan)):
        found = whole([*same(100), clear])
        assert (found.changed_rows, found.near_tie_rows) == (1, 0)
    exact = comparison_of(columns_of(ties, sticks(), 0.001))
    assert (exact.changed_rows, exact.near_tie_rows) == (20, 0)


def test_too_few_payloads_are_held_with_the_number_needed() -> None:
    found = judged(same(40))
    assert found.word == "hold"
    assert "40 payloads are too few" in found.reason and "about 73 are needed" in found.reason
    assert "keep more" in found.reason
    assert judged(same(72)).word == "hold" and judged(same(73)).word == "promote"
    assert judged([]).word == "hold"


def test_rows_kept_with_unequal_probabilities_count_less() -> None:
    """Every tenth stands for twenty requests, the others for two each."""
    pairs = [pair("ok", "ok", weight=20.0 if n % 10 == 0 else 2.0) for n in range(100)]
    found = whole(pairs)
    assert found.effective == pytest.approx(1 / (10 * (20 / 380) ** 2 + 90 * (2 / 380) ** 2))
    assert judged(pairs).word == "hold"
    changed = [replace(p, now=BundleAnswer("stop", 0.9)) if p.weight > 2 else p for p in pairs]
    assert whole(changed).changed.value == pytest.approx(200 / 380)


def test_more_changes_than_both_could_err_prove_the_candidate_worse() -> None:
    """At confidence 0.9 a bundle is believed to be wrong in a tenth: twice that may change."""
    pairs = same(120) + [pair("ok", "stop") for _ in range(60)]
    found = judged(pairs)
    assert found.word == "refuse" and "wrong in about 10 % only" in found.reason
    fewer = judged(same(160) + [pair("ok", "stop") for _ in range(20)])
    assert fewer.word == "hold" and "it is unknown whether they are better" in fewer.reason


def test_another_model_is_refused_however_bad_the_active_one_is() -> None:
    pairs = [
        AnswerPair(1.0, BundleAnswer("ok", 0.3), BundleAnswer("stop", 0.3), 0.01) for _ in range(30)
    ]
    found = judged(pairs)
    assert found.word == "refuse" and "another model" in found.reason


def test_feedback_decides_over_the_share_that_changed() -> None:
    better = [pair("ok", "stop", "stop") for _ in range(60)] + same(90)
    assert judged(better).word == "promote"
    worse = [pair("ok", "stop", "ok") for _ in range(60)] + same(90)
    found = judged(worse)
    assert found.word == "refuse" and "by feedback it is worse" in found.reason
    assert "accuracy 1.000 to 0.000" in found.reason


def test_value_decides_over_accuracy() -> None:
    """Thirty more false stops cost 21 EUR each, three stops not missed any more gain 500 each."""
    pairs = [pair("ok", "ok", "ok") for _ in range(270)]
    pairs += [pair("ok", "stop", "ok") for _ in range(30)]
    pairs += [pair("ok", "stop", "stop") for _ in range(30)]
    found = whole(pairs, TABLE)
    assert found.accuracy.difference.value == pytest.approx(0.0)
    assert found.value_per_1000.difference.low > 0
    assert judged(pairs, TABLE).word == "promote"
    assert judged([replace(p, before=p.now, now=p.before) for p in pairs], TABLE).word == "refuse"


def test_accuracy_decides_where_single_values_differ_too_much_to_tell() -> None:
    """Sixty more false stops cost 21 EUR each; seven other changed stops, 500 each, hide that."""
    pairs = [pair("ok", "ok", "ok") for _ in range(100)]
    pairs += [pair("ok", "stop", "ok") for _ in range(60)]
    pairs += [pair("ok", "stop", "stop") for _ in range(3)]
    lost = [pair("stop", "ok", "stop") for _ in range(4)]
    found = whole(pairs + lost, TABLE)
    assert found.value_per_1000.difference.low < 0 < found.value_per_1000.difference.high
    assert found.value_per_1000.difference.value < 0 and found.accuracy.difference.high < -0.02
    refused = judged(pairs + lost, TABLE)
    assert refused.word == "refuse" and "by feedback it is worse" in refused.reason
    assert re.search(r"of known truth \(difference -0\.\d+ to -0\.\d+\)", refused.reason)
    # Worth more as far as can be measured: what an objective is for, and for people to judge.
    better = pairs + pairs[-3:] * 2 + lost
    found = whole(better, TABLE)
    assert found.value_per_1000.difference.low < 0 < found.value_per_1000.difference.value
    assert found.accuracy.difference.high < -0.02 and judged(better, TABLE).word == "hold"


def test_thirty_labels_that_all_agree_do_not_prove_that_nothing_is_worse() -> None:
    few = [pair("ok", "ok", "ok") for _ in range(30)]
    assert whole(few, TABLE).value_per_1000.difference.low < 0
    assert judged(few, TABLE).word == "hold"


def test_answers_that_are_lost_are_held_and_many_are_refused() -> None:
    gone = replace(pair("ok", ""), now=BundleAnswer(error="INVALID_ARGUMENT/TOO_LARGE"))
    one = judged([*same(150), gone])
    assert one.word == "hold" and "1 of 151 payloads" in one.reason
    assert judged([*same(150), *[gone] * 10]).word == "refuse"
    mended = replace(pair("", "ok"), before=BundleAnswer(error="INVALID_ARGUMENT/TOO_LARGE"))
    found = whole([*same(150), mended])
    assert (found.lost_rows, found.gained_rows) == (0, 1)
    assert judged([*same(150), mended]).word == "promote"


def test_a_slower_bundle_is_refused_and_one_that_only_may_be_is_not() -> None:
    slow = Latency(60, 10.0, 20.0, Interval(2.0, 1.8, 2.2))
    found = judged(same(100), latency=slow)
    assert found.word == "refuse" and "2.00 times as long" in found.reason
    noisy = Latency(60, 10.0, 18.0, Interval(1.8, 1.2, 2.4))
    assert judged(same(100), latency=noisy).word == "promote"


def test_what_could_not_be_timed_is_held_with_what_to_do() -> None:
    """Its load proved only that it keeps its own limit."""
    found = judged(same(100), latency=replace(ALIKE, pairs=5))
    assert found.word == "hold"
    assert "compared for 5 payloads only, and 20 are needed" in found.reason
    assert "a canary" in found.reason


def test_a_change_hidden_in_one_slice_holds_and_is_described() -> None:
    pairs = same(970, site="a") + same(15, site="b")
    pairs += [pair("ok", "stop", site="b") for _ in range(15)]
    found = judged(pairs)
    assert found.word == "hold" and "in site=b" in found.reason
    columns = columns_of(pairs, sticks(), TOLERANCE)
    worst = by_slice(columns, pairs)[0]
    line = slice_line(worst, comparison_of(columns), "")
    assert line.startswith("site=b: 50.0 % (") and "1.5 % of all" in line


def test_other_labels_and_another_confidence_are_held() -> None:
    assert judged(same(100), labels="it answers with other labels, with evacuate").word == "hold"
    shifted = [replace(p, now=BundleAnswer("ok", 0.7)) for p in same(100)]
    found = judged(shifted)
    assert found.word == "hold" and "confidence moves by -0.20" in found.reason


def test_live_traffic_and_kept_payloads_count_by_their_effective_rows() -> None:
    kept = [pair("ok", "ok", weight=20.0) for _ in range(100)]
    live = [replace(pair("ok", "stop"), live=True) for _ in range(100)]
    assert whole(kept + live).changed.value == pytest.approx(0.5)


def test_intervals_against_known_values() -> None:
    found = wilson(0.1, 100, z_of())
    assert (found.low, found.high) == pytest.approx((0.0552, 0.1744), abs=1e-3)
    assert wilson(0.0, 73, z_of()).high == pytest.approx(0.05, abs=1e-3)
    assert rows_needed(0.0, 0.05, z_of()) == 73 and rows_needed(0.06, 0.05, z_of()) == 0
    assert z_of() == pytest.approx(1.96, abs=1e-3) and z_of(comparisons=10) > 2.8
    ones = np.ones(100)
    equal = intervals.paired_shares(ones, ones, ones, z_of())
    assert equal.value == 0 and equal.low == -equal.high < 0
    median = intervals.median_of(np.arange(1.0, 61.0), z_of())
    assert (median.value, median.low, median.high) == (30.5, 22.0, 39.0)
    assert math.isinf(intervals.median_of(np.ones(3), z_of()).high)


def test_intervals_hold_what_they_promise() -> None:
    """Of 400 samples from a skewed distribution, about 95 % of the intervals hold its mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        values = random.exponential(size=200)
        found = intervals.mean_of(values, np.ones(200), z_of())
        held += found.low <= 1.0 <= found.high
    assert 0.91 <= held / 400 <= 0.98
