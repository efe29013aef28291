"""The alert book with a clock set by the test, silences, and the command that pages."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from server.telemetry.alerts.book import AlertBook, Transition
from server.telemetry.alerts.command import AlertCommand
from server.telemetry.errors import BadFilter, UnknownAlert
from server.telemetry.findings import Finding
from tests.support.patience import patience

BAD = Finding(
    "drift/aa/image",
    "drift",
    "warning",
    "image.brightness moved",
    "aa" * 32,
    features=("image.brightness",),
    slices=("site=b",),
    hold_s=100.0,
)
GOOD = replace(BAD, severity="", summary="")
MAYBE = replace(BAD, confirmed=False)
NOW = 1_790_000_000.0


class Reported:
    def __init__(self) -> None:
        self.steps: list[Transition] = []
        self.book = AlertBook(self.steps.append)

    def shown(self) -> list[str]:
        return [f"{t.step.from_state}>{t.step.to_state}{'!' if t.page else ''}" for t in self.steps]


def test_an_alert_waits_until_confirmed_then_fires_once() -> None:
    reported = Reported()
    for minute in range(5):
        reported.book.update([MAYBE], NOW + 60 * minute)
    assert reported.shown() == [] and reported.book.rows()[0].state == "pending"
    for minute in range(5, 9):
        reported.book.update([BAD], NOW + 60 * minute)
    assert reported.shown() == ["pending>firing!"]
    row = reported.book.rows()[0]
    assert (row.state, row.opened_unix_ms) == ("firing", int(NOW * 1000))
    assert [s.to_state for s in row.history] == ["pending", "firing"]


def test_what_was_never_confirmed_goes_without_a_page() -> None:
    reported = Reported()
    reported.book.update([MAYBE], NOW)
    reported.book.update([GOOD], NOW + 1)
    assert reported.shown() == ["pending>resolved"]
    assert reported.book.rows() == []


def test_it_closes_only_after_its_hold_and_a_relapse_restarts_the_hold() -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    reported.book.update([GOOD], NOW + 10)
    reported.book.update([BAD], NOW + 60)
    reported.book.update([GOOD], NOW + 70)
    reported.book.update([GOOD], NOW + 169)
    assert reported.shown() == ["pending>firing!"]
    reported.book.update([GOOD], NOW + 170)
    assert reported.shown() == ["pending>firing!", "firing>resolved!"]
    assert reported.book.rows()[0].closed_unix_ms == int((NOW + 170) * 1000)


def test_getting_worse_pages_again_and_takes_the_acknowledgement_back() -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    reported.book.acknowledge(reported.book.rows()[0].id, "ann", "looking", NOW + 1)
    assert reported.book.rows()[0].acknowledged_by == "ann"
    reported.book.update([replace(BAD, severity="critical")], NOW + 2)
    row = reported.book.rows()[0]
    assert (row.severity, row.acknowledged_by) == ("critical", "")
    assert reported.shown() == ["pending>firing!", "firing>firing", "firing>firing!"]
    reported.book.update([BAD], NOW + 3)
    assert reported.book.rows()[0].severity == "critical"


def test_flapping_doubles_the_hold_each_time() -> None:
    reported = Reported()
    bad, good = replace(BAD, hold_s=600.0), replace(GOOD, hold_s=600.0)
    now, holds = NOW, []
    for _ in range(4):
        reported.book.update([bad], now)
        began = now
        while reported.book.rows()[0].state == "firing":
            now += 60
            reported.book.update([good], now)
        holds.append(now - began - 60)
        now += 60
    assert holds == [600, 1200, 2400, 4800]


def test_a_new_stamp_starts_afresh_and_is_left_alone_for_a_quarter_of_an_hour() -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    reported.book.deployed(NOW + 60)
    assert reported.shown()[-1] == "firing>resolved!"
    fresh = replace(BAD, key="drift/bb/image", stamp="bb" * 32)
    reported.book.update([fresh], NOW + 120)
    assert reported.book.rows()[0].state == "pending"
    reported.book.update([fresh], NOW + 60 + 900)
    assert reported.book.rows()[0].state == "firing"


def test_a_clock_set_back_holds_up_neither_opening_nor_closing() -> None:
    reported = Reported()
    reported.book.deployed(NOW)
    back = NOW - 86_400
    reported.book.update([BAD], back)
    assert reported.book.rows()[0].state == "firing"
    reported.book.update([GOOD], back + 60)
    reported.book.update([GOOD], back - 3600)
    reported.book.update([GOOD], back - 3600 + BAD.hold_s)
    assert reported.book.rows()[0].state == "resolved"


def test_a_silenced_alert_fires_without_a_page_and_the_silence_ends_by_itself() -> None:
    reported = Reported()
    reported.book.silence("kind=drift feature=image.*", NOW + 3600, "ann", "lamp change", NOW)
    reported.book.update([BAD], NOW + 1)
    assert reported.shown() == ["pending>firing"] and reported.book.rows()[0].silenced
    reported.book.update([replace(BAD, severity="high")], NOW + 3601)
    assert not reported.book.rows()[0].silenced
    assert reported.shown() == ["pending>firing", "firing>firing!", "firing>firing!"]
    assert reported.steps[1].step.detail == "a silence ended"
    assert reported.book.silences() == []


@pytest.mark.parametrize(
    ("matcher", "hit"),
    [
        ("kind=drift", True),
        ("kind=latency", False),
        ("slice=site=b", True),
        ("slice=site=a", False),
        ("feature=image.* severity=warning", True),
        ("feature=image.* severity=critical", False),
        ("key=drift/*", True),
        ("kind=*", True),
    ],
)
def test_a_matcher_needs_every_term(matcher: str, hit: bool) -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    reported.book.silence(matcher, NOW + 60, "ann", "", NOW)
    assert reported.book.rows()[0].silenced is hit


def test_a_matcher_may_be_an_alert_id_and_a_silence_can_be_ended() -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    silence = reported.book.silence(reported.book.rows()[0].id, NOW + 60, "ann", "", NOW)
    assert reported.book.rows()[0].silenced
    ended = reported.book.end_silence(silence.id, NOW + 5)
    assert not reported.book.rows()[0].silenced and ended.until_unix_ms == int((NOW + 5) * 1000)


@pytest.mark.parametrize("matcher", ["", "  ", "colour=red", "feature="])
def test_an_empty_matcher_is_refused(matcher: str) -> None:
    with pytest.raises(BadFilter):
        Reported().book.silence(matcher, NOW + 60, "ann", "", NOW)


@pytest.mark.parametrize("until", [NOW, NOW - 5, NOW + 400 * 86400, float("nan"), float("inf")])
def test_a_silence_must_end(until: float) -> None:
    with pytest.raises(ValueError, match="end"):
        Reported().book.silence("kind=drift", until, "ann", "", NOW)


def test_unknown_ids_are_named() -> None:
    reported = Reported()
    with pytest.raises(UnknownAlert, match="nope"):
        reported.book.acknowledge("nope", "ann", "", NOW)
    with pytest.raises(UnknownAlert, match="nope"):
        reported.book.end_silence("nope", NOW)


def test_after_a_restart_a_firing_alert_goes_on_without_a_page() -> None:
    reported = Reported()
    reported.book.update([BAD], NOW)
    again = Reported()
    again.book.restore(reported.book.rows(), reported.book.silences())
    again.book.update([BAD], NOW + 60)
    assert again.shown() == []
    assert again.book.rows()[0].id == reported.book.rows()[0].id


def test_open_alerts_come_worst_first() -> None:
    reported = Reported()
    for key, severity in (("a", "warning"), ("b", "critical"), ("c", "high")):
        reported.book.update([replace(BAD, key=key, severity=severity)], NOW)
    reported.book.update([replace(MAYBE, key="d", severity="critical")], NOW)
    assert [r.key for r in reported.book.rows()] == ["b", "c", "a", "d"]


def transition() -> Transition:
    reported = Reported()
    reported.book.update([BAD], NOW)
    return reported.steps[0]


def outcome_of(command: str, limit_s: float = 20.0) -> str:
    ended: list[str] = []
    ready = threading.Event()

    def done(alert: str, outcome: str) -> None:
        ended.append(outcome)
        ready.set()

    runner = AlertCommand(command, done, limit_s)
    runner.page(transition())
    assert ready.wait(patience(30))
    runner.close()
    return ended[0]


def test_the_command_gets_the_alert_as_json(tmp_path: Path) -> None:
    target = tmp_path / "alert.json"
    script = tmp_path / "page.py"
    script.write_text(f"import sys; open({str(target)!r}, 'w').write(sys.stdin.read())")
    assert outcome_of(f"{sys.executable} {script}") == "exit 0"
    content = json.loads(target.read_text())
    assert content["severity"] == "warning" and content["features"] == ["image.brightness"]
    assert content["transition"]["to_state"] == "firing"


def test_a_command_that_hangs_is_killed_with_all_it_started() -> None:
    assert outcome_of("sh -c 'sleep 60 & sleep 60'", limit_s=0.3) == "killed after 0 s"


def test_a_command_that_fails_or_is_missing_is_reported() -> None:
    assert outcome_of("sh -c 'exit 3'") == "exit 3"
    with pytest.raises(ValueError, match="empty"):
        AlertCommand("  ")
    with pytest.raises(ValueError, match="/nowhere/pager is not an executable"):
        AlertCommand("/nowhere/pager --loud")


def test_a_command_that_goes_away_later_is_reported_until_one_succeeds(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\nexit 0\n")
    pager.chmod(0o755)
    ended: queue.Queue[str] = queue.Queue()
    runner = AlertCommand(str(pager), lambda alert, outcome: ended.put(outcome))
    pager.rename(tmp_path / "gone")
    runner.page(transition())
    assert ended.get(timeout=patience(30)).startswith("cannot start")
    assert runner.trouble.startswith("cannot start")
    (tmp_path / "gone").rename(pager)
    runner.page(transition())
    assert ended.get(timeout=patience(30)) == "exit 0" and runner.trouble == ""
    runner.close()


def test_a_pager_that_hangs_holds_no_server_up_that_is_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = AlertCommand("sleep 60")
    for _ in range(150):
        runner.page(transition())
    assert "pages dropped" in runner.trouble
    began = time.monotonic()
    runner.close(0.5)
    assert time.monotonic() - began < min(patience(5), 50), "the command sleeps for 60"


def test_the_command_receives_the_name_of_the_server(tmp_path: Path) -> None:
    target = tmp_path / "alert.json"
    ended = threading.Event()
    runner = AlertCommand(
        f"cp /dev/stdin {target}", lambda *_: ended.set(), about={"server": "line-3"}
    )
    runner.page(transition())
    assert ended.wait(patience(30))
    runner.close()
    assert json.loads(target.read_text())["server"] == "line-3"
