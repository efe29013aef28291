"""When a server's trouble began, replicas that lag, canaries that were rolled back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from console.cache.trouble_since import TroubleSince, laggard
from console.panels.fleet import troubles
from console.state import status, status_messages
from console.state.dashboard import ServerLine
from console.state.domain import Link, ReplicaSnapshot, ServerSnapshot
from server.telemetry.rows import DeployRow
from tests.support.blank_rows import blank


def line(severity: str = "ok", state: str = "ready", *replicas: ReplicaSnapshot) -> ServerLine:
    snapshot = ServerSnapshot("gpu-01", state=state, replicas=replicas)
    return ServerLine(Link("a:1", "live", heard_s=100.0), snapshot, severity, state, "why", 0.0)


def replica(
    index: int, p95_ms: float, answered: int = 500, state: str = "ready"
) -> ReplicaSnapshot:
    return ReplicaSnapshot(index, state, p95_ms=p95_ms, answered=answered)


@pytest.mark.parametrize(
    ("times", "lags"),
    [
        ((40.0, 41.0), False),
        ((40.0, 800.0), True),
        ((2.0, 60.0), False),  # thirty times, and nobody feels it
        ((400.0, 800.0), False),
        ((40.0,), False),
    ],
)
def test_a_replica_lags_when_its_neighbours_are_far_faster(
    times: tuple[float, ...], lags: bool
) -> None:
    replicas = tuple(replica(n, p95) for n, p95 in enumerate(times))
    assert (laggard(ServerSnapshot(replicas=replicas)) is not None) is lags


def test_what_has_hardly_answered_or_does_not_serve_is_not_compared() -> None:
    for odd in (replica(1, 800.0, answered=20), replica(1, 800.0, state="loading")):
        assert laggard(ServerSnapshot(replicas=(replica(0, 40.0), odd))) is None


def test_a_replica_that_lags_for_some_seconds_is_named_with_its_figures() -> None:
    since = TroubleSince()
    slow = line("ok", "ready", replica(0, 40.0), replica(1, 800.0))
    assert since.marked([slow], (), 100.0)[0].severity == "ok"
    (still,) = since.marked([slow], (), 104.0)
    assert still.severity == "ok", "it has answered nothing more: an old figure"
    more = line("ok", "ready", replica(0, 40.0, 600), replica(1, 800.0, 510))
    (found,) = since.marked([more], (), 104.0)
    assert (found.state, found.since_s) == ("replica slow", 100.0)
    assert found.why == "replica 1: p95 800 ms, its neighbours 40 ms"
    (message,) = status_messages.unready([found])
    assert message.at_s == 100.0 and message.detail.startswith("gpu-01 replica slow: replica 1")
    well = line("ok", "ready", replica(0, 40.0, 700), replica(1, 42.0, 700))
    assert since.marked([well], (), 110.0)[0].severity == "ok"
    assert since.marked([more], (), 120.0)[0].severity == "ok", "it counts from the start again"


def test_since_is_when_the_state_changed() -> None:
    since = TroubleSince()
    assert math.isnan(since.marked([line()], (), 100.0)[0].since_s)
    assert since.marked([line("warning", "degraded")], (), 130.0)[0].since_s == 130.0
    assert since.marked([line("warning", "degraded")], (), 160.0)[0].since_s == 130.0
    assert math.isnan(since.marked([line()], (), 170.0)[0].since_s)
    assert since.marked([line("critical", "not ready")], (), 180.0)[0].since_s == 180.0


def test_what_was_so_before_the_console_began_is_since_the_last_death_or_unknown() -> None:
    death = blank(DeployRow, 90_000, "replica-death", "a" * 64, detail="replica 0 was killed")
    bad = line("warning", "degraded")
    assert TroubleSince().marked([bad], [("a:1", death)], 100.0)[0].since_s == 90.0
    assert math.isnan(TroubleSince().marked([bad], [("a:1", death)], 400.0)[0].since_s)
    assert math.isnan(TroubleSince().marked([bad], [("b:1", death)], 100.0)[0].since_s)


def test_the_end_of_a_bad_canary_is_in_the_headline_for_a_while() -> None:
    row = blank(DeployRow, 95_000, "canary-rolled-back", "b" * 64, detail="errors: 9 % against 0 %")
    servers = [line()]
    state = status.fleet_state(servers, (), (), (), 100.0, (), [("a:1", row)])
    assert state.state == "DEGRADED"
    assert state.sentence.startswith(
        "gpu-01: canary bbbbbbbb was rolled back: errors: 9 % against 0 % · since 00:01:35 UTC"
    )
    later = status.fleet_state(servers, (), (), (), 95.0 + 901, (), [("a:1", row)])
    assert later.state == "HEALTHY"
    by_hand = replace(row, action="rollback")
    quiet = status.fleet_state(servers, (), (), (), 100.0, (), [("a:1", by_hand)])
    assert quiet.state == "HEALTHY"


def test_a_death_is_in_the_headline_also_when_the_replica_is_replaced() -> None:
    why = "no sign of life for 6.1 s"
    back = ReplicaSnapshot(0, "ready", last_exit=why, last_exit_unix_ms=95_000)
    state = status.fleet_state([line("ok", "ready", back)], (), (), (), 100.0)
    assert state.sentence.startswith(
        "gpu-01: replica 0 died: no sign of life for 6.1 s · since 00:01:35 UTC"
    )
    later = status.fleet_state([line("ok", "ready", back)], (), (), (), 95.0 + 301)
    assert later.state == "HEALTHY"
    lost = replace(line("critical", "lost", back), why="nothing listens since 00:01:36")
    assert status.fleet_state([lost], (), (), (), 100.0).sentence.startswith("gpu-01: nothing")


def test_each_part_of_why_a_server_is_lost_has_its_line() -> None:
    """In one line, a window of 1280 pixels cut the time."""
    why = "nothing listens since 00:01:36 (connection refused)"
    lost = replace(line("critical", "lost"), why=why)
    shown = [text for text, _ in troubles(lost)]
    assert shown == ["nothing listens", "since 00:01:36", "(connection refused)"]
