"""The alert about the latency objective: two windows, a minimum number of requests, a history."""

from __future__ import annotations

import pytest

from server.telemetry.alerts.book import AlertBook, Transition
from server.telemetry.slo_burn import HOLD_S, LEAST, SloBurn
from tests.support.telemetry_bench import NOW, record

SLO_MS = 100.0
QUICK, SLOW = (record(0, total_ms=ms) for ms in (30.0, 300.0))


def played(minutes: list[tuple[int, int]]) -> SloBurn:
    """One (quick, slow) for each minute, the last one ends at its moment."""
    burn = SloBurn(SLO_MS)
    for minute, (quick, slow) in enumerate(minutes):
        burn.add([QUICK] * quick + [SLOW] * slow, minute * 60.0)
    return burn


@pytest.mark.parametrize(
    ("minutes", "burns"),
    [
        ([(1000, 0)] * 60, False),
        ([(1000, 5)] * 60, False),  # within the objective
        ([(1000, 0)] * 59 + [(0, 900)], False),  # a blip: one minute of the hour
        ([(800, 200)] * 60, True),
        ([(1000, 0)] * 45 + [(0, 1000)] * 15, True),
        ([(0, 1000)] * 30 + [(1000, 0)] * 30, False),  # over: the short window is well again
        ([(0, 2)] * 60, False),  # too few for a share
    ],
)
def test_both_windows_must_burn(minutes: list[tuple[int, int]], burns: bool) -> None:
    finding = played(minutes).finding((len(minutes) - 1) * 60.0)
    assert bool(finding.severity) is burns
    assert finding.kind == "latency"


def test_without_an_objective_nothing_burns_and_nothing_is_kept() -> None:
    burn = SloBurn(0.0)
    burn.add([SLOW] * 1000, 0.0)
    assert not burn.finding(0.0).severity and not burn._slots


def test_what_it_keeps_is_bounded_by_an_hour() -> None:
    burn = SloBurn(SLO_MS)
    for second in range(0, 3 * 3600, 5):
        burn.add([QUICK], float(second))
    assert len(burn._slots) <= 362


def test_it_is_an_alert_with_a_history_like_any_other() -> None:
    steps: list[Transition] = []
    book = AlertBook(steps.append)
    burn = SloBurn(SLO_MS)
    burn.add([SLOW] * LEAST, NOW)
    book.update([burn.finding(NOW)], NOW)
    (row,) = book.rows()
    assert (row.state, row.kind, row.severity) == ("firing", "latency", "critical")
    assert row.summary == (
        "100% of 100 requests in 5 min and 100% in 1 h took longer than 100 ms; "
        "the objective allows 1%"
    )
    book.update([burn.finding(NOW + 3)], NOW + 3)
    assert book.rows()[0].opened_unix_ms == row.opened_unix_ms, "its since does not move"
    later = NOW + 400
    burn.add([QUICK] * 1000, later)
    book.update([burn.finding(later)], later)
    book.update([burn.finding(later + HOLD_S)], later + HOLD_S)
    assert book.rows()[0].state == "resolved"
    assert [step.step.to_state for step in steps] == ["firing", "resolved"]
