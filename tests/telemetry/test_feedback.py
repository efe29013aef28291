"""Labels that arrive late, twice, corrected, or for unknown predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.telemetry.drift.windows import HOUR_S
from server.telemetry.rows import QualityRow
from server.telemetry.stamps.feedback import FeedbackItem
from tests.support.telemetry_bench import NOW, bundle, record
from tests.support.telemetry_writer import WriterBench

BUNDLE = bundle(rows=600)
ROWS = [record(i, NOW + i) for i in range(40)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[WriterBench]:
    found = WriterBench(tmp_path)
    found.writer.adopt(BUNDLE)
    found.writer.write([(row, ()) for row in ROWS])
    found.clock.now = NOW + 1000
    yield found
    found.writer.close()


def give(bench: WriterBench, *items: FeedbackItem) -> list[str]:
    return [result.status for result in bench.writer.take_feedback(list(items))]


def quality(bench: WriterBench, slice_name: str = "") -> QualityRow:
    state = bench.writer.states[BUNDLE.stamp]
    bench.writer.counting.settle(bench.clock.now)
    counts = bench.writer.counting.quality_of(BUNDLE.stamp, int(NOW), slice_name)
    return counts.row(state.stick, BUNDLE.stamp, slice_name, int(NOW), HOUR_S)


def item(number: int, label: str = "", **more: object) -> FeedbackItem:
    return FeedbackItem(ROWS[number].prediction_id, label, **more)  # type: ignore[arg-type]


def test_labels_make_accuracy_delay_and_value_of_the_hour_of_the_prediction(
    bench: WriterBench,
) -> None:
    right = [item(i, ROWS[i].label) for i in range(6)]
    wrong = [item(i, next(x for x in ("ok", "stop") if x != ROWS[i].label)) for i in range(6, 10)]
    bench.clock.now = NOW + 7 * HOUR_S
    assert give(bench, *right, *wrong) == ["joined"] * 10
    row = quality(bench)
    assert (row.labelled, row.predictions) == (10, 40)
    assert row.accuracy == pytest.approx(0.6)
    assert row.value_per_1000 == pytest.approx((6 * 1.0 - 4 * 5.0) / 10 * 1000)
    assert row.median_label_delay_s == pytest.approx(7 * HOUR_S - 4.5)
    assert quality(bench, "site=a").labelled == quality(bench, "site=b").labelled == 5


def test_a_correction_takes_the_earlier_label_back(bench: WriterBench) -> None:
    other = "ok" if ROWS[0].label != "ok" else "stop"
    assert give(bench, item(0, other)) == ["joined"]
    assert quality(bench).accuracy == 0.0
    assert give(bench, item(0, ROWS[0].label)) == ["corrected"]
    row = quality(bench)
    assert (row.labelled, row.accuracy, sum(row.confusion)) == (1, 1.0, 1)


def test_the_latest_observation_holds_whenever_it_comes(bench: WriterBench) -> None:
    assert give(bench, item(0, ROWS[0].label, observed_at=NOW + 500)) == ["joined"]
    late = item(0, "ok" if ROWS[0].label != "ok" else "stop", observed_at=NOW + 100)
    assert give(bench, late) == ["joined"]
    assert quality(bench).accuracy == 1.0


def test_the_same_again_changes_nothing(bench: WriterBench) -> None:
    keyed = item(0, "ok", idempotency_key="k1")
    assert give(bench, keyed, keyed, item(0, "ok")) == ["joined", "duplicate", "duplicate"]
    assert give(bench, item(1, "stop", idempotency_key="k1")) == ["duplicate"]
    assert quality(bench).labelled == 1


def test_unknown_and_expired_predictions_are_distinguished(bench: WriterBench) -> None:
    old = record(5, NOW - 30 * 86400).prediction_id
    assert give(bench, FeedbackItem("no-such-id", "ok"), FeedbackItem(old, "ok")) == [
        "unknown",
        "expired",
    ]
    assert quality(bench).labelled == 0


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        (item(0, "catastrophe"), "label", "UNKNOWN_LABEL"),
        (item(0, "ok", value=math.nan), "value", "NOT_FINITE"),
        (item(0, "ok", value=math.inf), "value", "NOT_FINITE"),
        (item(0, "ok", value=-1e300), "value", "TOO_LARGE"),
        (item(0), "label", "EMPTY"),
        (FeedbackItem("", "ok"), "prediction_id", "MISSING"),
        (item(0, "ok", source="x" * 2000), "source", "TOO_LONG"),
        (item(0, "ok", observed_at=NOW * 2), "observed_unix_ms", "NOT_A_TIME"),
        (item(0, "ok", observed_at=-1.0), "observed_unix_ms", "NOT_A_TIME"),
        (item(0, "ok", observed_at=math.nan), "observed_unix_ms", "NOT_A_TIME"),
    ],
)
def test_empty_feedback_is_refused_with_its_field(
    bench: WriterBench, given: FeedbackItem, field: str, reason: str
) -> None:
    found = bench.writer.take_feedback([given, item(1, "ok")])
    assert (found[0].status, found[0].field, found[0].reason) == ("refused", field, reason)
    assert found[1].status == "joined"


def test_a_value_alone_counts_as_value_and_not_as_a_label(bench: WriterBench) -> None:
    assert give(bench, item(0, value=-250.0), item(1, value=50.0)) == ["joined", "joined"]
    row = quality(bench)
    assert row.labelled == 0 and row.value_per_1000 == pytest.approx(-100_000)


def test_a_value_or_an_outcome_known_later_leaves_the_label_as_it_is(
    bench: WriterBench, tmp_path: Path
) -> None:
    reported = [item(0, ROWS[0].label), item(0, value=-40.0), item(0, outcome="repaired")]
    assert give(bench, *reported) == ["joined"] * 3
    assert give(bench, *reported) == ["duplicate"] * 3
    row = quality(bench)
    assert (row.labelled, row.accuracy, row.value_per_1000) == (1, 1.0, -40_000.0)
    assert bench.reader.by_id([ROWS[0].prediction_id])[0].true_label == ROWS[0].label
    assert give(bench, item(0, value=60.0)) == ["corrected"]
    row = quality(bench)
    assert (row.labelled, row.accuracy, row.value_per_1000) == (1, 1.0, 60_000.0)


def test_a_client_that_repeats_itself_fills_no_disk(bench: WriterBench) -> None:
    count = "SELECT count(*) FROM feedback"
    give(bench, *[item(0, "ok")] * 500)
    assert bench.writer.store.connection.execute(count).fetchone() == (1,)
    to_and_fro = [item(0, ("ok", "stop")[i % 2]) for i in range(1, 500)]
    assert set(give(bench, *to_and_fro)[200:]) == {"refused", "duplicate"}
    assert bench.writer.store.connection.execute(count).fetchone() == (100,)
    assert quality(bench).labelled == 1
    assert give(bench, item(1, "ok")) == ["joined"]


def test_an_answer_that_came_too_late_to_act_on_earns_nothing(bench: WriterBench) -> None:
    slow = record(90, NOW, total_ms=90_000.0)
    bench.writer.write([(slow, ())])
    assert give(bench, FeedbackItem(slow.prediction_id, slow.label)) == ["joined"]
    assert quality(bench).value_per_1000 == 0.0


def test_an_outcome_is_kept_without_judging_a_failed_prediction(bench: WriterBench) -> None:
    failed = record(91, NOW, error="INTERNAL/LOST/", label="")
    bench.writer.write([(failed, ())])
    assert give(bench, FeedbackItem(failed.prediction_id, "ok")) == ["joined"]
    assert quality(bench).labelled == 0
    assert bench.reader.by_id([failed.prediction_id])[0].true_label == "ok"


def test_a_label_shows_on_its_prediction_and_in_filters(bench: WriterBench) -> None:
    give(bench, item(3, "inspect"))
    assert bench.reader.by_id([ROWS[3].prediction_id])[0].true_label == "inspect"
    assert [r.record for r in bench.reader.samples("true=inspect")][0].at == ROWS[3].at


def test_labels_survive_a_kill_before_the_sums_were_stored(
    bench: WriterBench, tmp_path: Path
) -> None:
    give(bench, item(0, "ok"), item(1, "ok"))
    bench.writer.flush()
    give(bench, item(1, "stop"), item(2, "stop"))
    before = quality(bench)
    bench.writer.store.close()  # killed: the sums of the last two are not stored
    again = WriterBench(tmp_path, bench.clock.now)
    assert quality(again) == before
    again.writer.close()
    bench.writer._begin()


def test_feedback_for_a_stamp_that_no_longer_serves_has_its_yardstick(
    bench: WriterBench, tmp_path: Path
) -> None:
    bench.writer.close()
    again = WriterBench(tmp_path, bench.clock.now)
    again.writer.adopt(bundle("cd" * 32, rows=600))
    assert give(again, item(0, ROWS[0].label)) == ["joined"]
    assert quality(again).value_unit == "EUR"
    again.writer.close()
    bench.writer._begin()


def test_a_thousand_labels_of_one_request_are_one_transaction(bench: WriterBench) -> None:
    rows = [record(i, NOW) for i in range(1000, 2000)]
    bench.writer.write([(row, ()) for row in rows])
    found = give(bench, *(FeedbackItem(row.prediction_id, row.label) for row in rows))
    assert found == ["joined"] * 1000
    assert quality(bench).accuracy == 1.0
