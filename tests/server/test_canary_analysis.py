"""A candidate against the active bundle: a worse one is rolled back, and one that is not worse is
found fine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from server.routing.canary_analysis import CanaryAnalysis, Measure
from server.telemetry.outputs import Timing
from server.telemetry.quality.pricing import yardsticks
from server.telemetry.record import BundleFiles
from server.telemetry.stamps.feedback import JOINED, FeedbackItem, FeedbackResult
from server.types import Answer, Fault, Outcome, Work
from tests.support.stub_replica import work

LABELS = ("ok", "stop")
OBJECTIVE = (
    b'{"unit": "EUR", "value": {"ok": {"ok": 0, "stop": -50}, "stop": {"ok": -900, "stop": 200}}}'
)
BUNDLE = BundleFiles("ab" * 32, "triage", (), LABELS, b"", OBJECTIVE)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def outcome(row: Work, confidence: float, total_ms: float, fault: Fault | None = None) -> Outcome:
    answer = Answer("stop", (), b"", b"", confidence=confidence, closed_set_mass=1.0)
    timing = Timing(total_ms=total_ms)
    return Outcome(row.id, None if fault else answer, fault, timing, 1, "", 0)


Row = Callable[[np.random.Generator, bool], tuple[float, float, bool]]


def even(random: np.random.Generator, _candidate: bool) -> tuple[float, float, bool]:
    """(confidence, milliseconds, whether it fails) of a row."""
    return (
        float(random.beta(8, 2)),
        float(random.lognormal(3, 0.4)),
        bool(random.random() < 0.002),
    )


def run(
    row_of: Row, rows: int = 6000, share: float = 0.1, seed: int = 0
) -> tuple[CanaryAnalysis, list[tuple[Measure, ...]]]:
    """The analysis at its end, and its result every second of it (100 rows)."""
    clock, random = Clock(), np.random.default_rng(seed)
    sticks = yardsticks(BUNDLE, BUNDLE)
    analysis, looks = CanaryAnalysis(sticks.before, sticks.now, clock), []
    for number in range(rows):
        candidate = bool(random.random() < share)
        confidence, total_ms, fails = row_of(random, candidate)
        row = work(str(number), "x")
        fault = Fault("INTERNAL", "", "DIED", "") if fails else None
        analysis.ended(candidate, row, outcome(row, confidence, total_ms, fault))
        clock.now += 0.01
        if number % 100 == 99:
            looks.append(analysis.measures())
    return analysis, looks


def worse(looks: list[tuple[Measure, ...]]) -> set[str]:
    return {m.name for measures in looks for m in measures if m.verdict == "worse"}


def test_an_equal_candidate_is_found_fine_and_never_sent_back() -> None:
    for seed in range(3):
        _, looks = run(even, rows=9000, share=0.2, seed=seed)
        assert worse(looks) == set()
        verdicts = {m.name: m.verdict for m in looks[-1]}
        assert verdicts.pop("realised value") == verdicts.pop("accuracy") == "none"
        assert set(verdicts.values()) == {"fine"}, looks[-1]


def test_more_failing_rows_are_found() -> None:
    def row(random: np.random.Generator, candidate: bool) -> tuple[float, float, bool]:
        confidence, total_ms, fails = even(random, candidate)
        return confidence, total_ms, fails or (candidate and random.random() < 0.06)

    assert worse(run(row)[1]) == {"errors"}


def test_slowness_is_found_and_a_busy_moment_of_both_is_not() -> None:
    def slow(random: np.random.Generator, candidate: bool) -> tuple[float, float, bool]:
        confidence, total_ms, fails = even(random, candidate)
        return confidence, total_ms * (1.8 if candidate else 1.0), fails

    def busy(random: np.random.Generator, candidate: bool) -> tuple[float, float, bool]:
        confidence, total_ms, fails = even(random, candidate)
        return confidence, total_ms * (1 + 2 * random.random()), fails

    assert worse(run(slow)[1]) == {"latency"}
    assert worse(run(busy)[1]) == set()


def test_a_machine_that_gets_slower_for_both_is_no_evidence_about_the_candidate() -> None:
    """For half a minute a third slower every two seconds: the active bundle's p95 lags behind."""
    seen = 0

    def row(random: np.random.Generator, candidate: bool) -> tuple[float, float, bool]:
        nonlocal seen
        seen += 1
        confidence, total_ms, fails = even(random, candidate)
        return confidence, total_ms * 1.35 ** min(seen // 200, 15), fails

    assert worse(run(row, rows=6000, share=0.2)[1]) == set()


def test_lower_confidence_lowers_the_estimated_value_and_both_are_found() -> None:
    def unsure(random: np.random.Generator, candidate: bool) -> tuple[float, float, bool]:
        confidence, total_ms, fails = even(random, candidate)
        return confidence - (0.12 if candidate else 0.0), total_ms, fails

    assert worse(run(unsure)[1]) == {"confidence", "estimated value"}


def test_what_turned_out_to_be_true_outweighs_confident_answers() -> None:
    analysis, _ = run(even, rows=9000)
    random = np.random.default_rng(7)
    for number in range(9000):
        right = (
            0.9
            if analysis._waiting.get(str(number), (analysis.active,))[0] is analysis.active
            else 0.5
        )
        label = "stop" if random.random() < right else "ok"
        analysis.learnt(FeedbackItem(str(number), label), FeedbackResult(str(number), JOINED))
    found = {m.name: m for m in analysis.measures()}["realised value"]
    assert found.verdict == "worse" and "EUR" in found.detail
    reported_twice = analysis.candidate.realised.n
    analysis.learnt(FeedbackItem("8999", "ok"), FeedbackResult("8999", JOINED))
    assert analysis.candidate.realised.n == reported_twice


def test_more_wrong_answers_are_found_where_rare_disasters_hide_them_in_the_value() -> None:
    dear = replace(BUNDLE, objective=OBJECTIVE.replace(b"-50", b"-50000"))
    for worth_more, expected in ((False, "worse"), (True, "none")):
        analysis, _ = run(even, rows=2000, share=0.3)
        stick = yardsticks(dear, dear).before
        analysis.active.stick = analysis.candidate.stick = stick
        random = np.random.default_rng(7)
        for name, (side, *_) in [*analysis._waiting.items()]:
            right = random.random() < (0.91 if side is analysis.active else 0.7)
            value = 9e9 if worth_more and side is analysis.candidate else None
            item = FeedbackItem(name, "stop" if right else "ok", value=value)
            analysis.learnt(item, FeedbackResult(name, JOINED))
        found = {m.name: m for m in analysis.measures()}
        assert found["accuracy"].verdict == expected, found["accuracy"]


def test_few_rows_decide_nothing_unless_most_of_them_fail() -> None:
    analysis, _ = run(even, rows=600)
    assert [m.verdict for m in analysis.measures()] == ["unsure"]
    assert analysis.broken() == ""
    died = Fault("INTERNAL", "", "DIED", "")
    for number in range(40):
        row = work(f"c{number}", "x")
        analysis.ended(True, row, outcome(row, 0.9, 10.0, died))
    assert "40 of its last 40 rows failed" in analysis.broken()


def test_cancelled_rows_are_nobodys_fault() -> None:
    analysis = CanaryAnalysis()
    row = work("a", "x")
    analysis.ended(True, row, outcome(row, 0.9, 1.0, Fault("CANCELLED", "", "", "")))
    assert analysis.candidate.errors.n == 0


def test_a_few_long_sessions_are_too_little_to_decide() -> None:
    clock = Clock()
    analysis = CanaryAnalysis(clock=clock)
    for number in range(4000):
        session = number % 10
        row = work(str(number), "x", session=f"line-{session}")
        analysis.ended(session == 3, row, outcome(row, 0.5 if session == 3 else 0.9, 10.0))
    (found,) = analysis.measures()
    assert found.verdict == "unsure" and "1 of 30 sessions" in found.detail


def test_two_bundles_are_valued_by_one_price_list() -> None:
    dearer = OBJECTIVE.replace(b"-900", b"-9000")
    ours = yardsticks(BUNDLE, replace(BUNDLE, objective=dearer)).now
    assert ours.realised("stop", "ok", 1.0) == -900
    assert ours.estimated("stop", 0.99) > ours.estimated("stop", 0.6)
