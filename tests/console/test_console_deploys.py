"""The journal of deploys, as the console shows it."""

from __future__ import annotations

import pytest

from console.state import deploys
from console.state.domain import ServerRecord
from console.state.events import timeline_events
from console.state.skew import compare
from server.telemetry.rows import DeployRow
from tests.console.test_console_status import NOW, link, snapshot
from tests.support.blank_rows import blank


@pytest.mark.parametrize(
    ("action", "mark", "severity"),
    [
        ("activate", "activate", "info"),
        ("rollback", "rollback", "warning"),
        ("refuse", "refuse", "warning"),
        ("canary", "canary", "info"),
        ("canary abort", "refuse", "warning"),
        ("canary_promoted", "activate", "info"),
        ("rehearse", "rehearse", "info"),
        ("load", "load", "info"),
        ("start", "start", "info"),
        ("stop", "stop", "info"),
        ("<b>defenestrate</b>", "other", "info"),
        ("", "other", "info"),
    ],
)
def test_every_deploy_has_a_mark(action: str, mark: str, severity: str) -> None:
    assert (deploys.mark_of(action), deploys.severity_of(action)) == (mark, severity)


def test_a_deploy_is_shown_with_its_detail_on_our_clock() -> None:
    row = DeployRow(int(NOW * 1000), "refuse", "ab" * 32, "t+abab", "cd" * 32, "kim", "golden 3")
    server = ServerRecord(link(offset_ms=500.0), snapshot())
    found = timeline_events((), [("h:1", row)], {"h:1": server}, ())[0]
    assert found.at_s == NOW - 0.5
    assert found.text == "gpu-01 refuse abababababab by kim: golden 3"
    assert (found.mark, found.severity) == ("refuse", "warning")
    assert "previous stamp cdcdcdcdcdcd" in found.detail and "golden 3" in found.detail


def test_since_counts_only_deploys_that_made_a_server_serve() -> None:
    result = snapshot(stamp="ab", stamp_parts={"weights": "1"})
    journal = [
        ("h:1", blank(DeployRow, int((NOW - ago) * 1000), action, "ab"))
        for ago, action in ((300, "activate"), (60, "rehearse"), (30, "load"), (10, "refuse"))
    ]
    assert compare([ServerRecord(link(), result)], journal, NOW)[0].since_s == NOW - 300


def test_a_switch_shows_the_previous_stamp_and_its_actor() -> None:
    row = DeployRow(0, "rollback", "7f" * 32, "", "0e" * 32, "kim", "p99 doubled")
    reported = deploys.sentence("gpu-01", row)
    assert reported == "gpu-01 rollback 7f7f7f7f7f7f from 0e0e0e0e0e0e by kim: p99 doubled"
