"""What the console shows of one server: its replicas, its formats, its errors; always as plain
text."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest
from grpc import aio

from console.feed import faults
from console.panels.server import alike, facts_of
from console.state.causes import causes_of
from console.state.domain import (
    ReplicaSnapshot,
    ServerRecord,
)
from console.state.events import timeline_events
from console.state.sanitize import sanitized
from console.state.status import fleet_state
from console.state.timetext import clock_text
from server.telemetry.rows import DeployRow, FormatCount
from tests.console.test_console_status import NOW, alert, line, link, snapshot
from tests.support.blank_rows import blank


def test_the_death_of_a_replica_is_an_event_a_fact_and_a_cause() -> None:
    why = "no progress for 30 s after 812.0 s; started again"
    row = blank(
        DeployRow,
        at_unix_ms=int((NOW - 60) * 1000),
        action="replica-exit",
        stamp="ab" * 32,
        detail=f"replica 1 {why}",
    )
    event = timeline_events((), [("h:1", row)], {"h:1": ServerRecord(link(), snapshot())}, ())[0]
    assert (event.text, event.severity) == (f"gpu-01 replica 1 {why}", "warning")
    replica = ReplicaSnapshot(
        index=1,
        state="ready",
        p95_ms=31.0,
        in_flight=2,
        last_progress_unix_ms=int((NOW - 4) * 1000),
        last_exit=why,
        last_exit_unix_ms=int((NOW - 60) * 1000),
    )
    texts = [fact.text for fact in facts_of(line(snapshot=snapshot(replicas=(replica,))), NOW)]
    assert "#1 p95 31 ms · 2 in flight · last progress 4.0 s ago" in texts
    assert f"#1 died at {clock_text(NOW - 60)}: {why}" in texts
    late = replace(alert("latency", summary="p99 812 ms"), opened_s=NOW - 50)
    result = fleet_state([line()], [], [], [late], NOW, causes_of([], [("h:1", row)], {}))
    assert "p99 812 ms, 10 s after one of its replicas died" in result.sentence


@pytest.mark.parametrize(
    ("code", "details", "phrase"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: "
         "ipv4:127.0.0.1:9: Failed to connect to remote host: connect: Connection refused (111)",
         "connection refused"),
        (grpc.StatusCode.UNAVAILABLE, "DNS resolution failed for x:1",
         "the host name is not known"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "the connection broke"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "no answer in time"),
        (grpc.StatusCode.PERMISSION_DENIED, "needs the role operator",
         "this token may not do that: needs the role operator"),
        (grpc.StatusCode.NOT_FOUND, "no alert a", "no alert a"),
    ],
)  # fmt: skip
def test_no_text_of_grpc_is_shown(code: grpc.StatusCode, details: str, phrase: str) -> None:
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details)
    assert faults.phrase(error) == phrase


def test_replicas_that_fail_alike_are_one_trouble() -> None:
    replicas = tuple(
        ReplicaSnapshot(index=n, state="ready" if n < 2 else "slow", reason="" if n < 2 else "p50")
        for n in range(6)
    )
    groups = alike(replicas)
    assert [[r.index for r in group] for group in groups] == [[2, 3, 4, 5], [0, 1]]


def test_plain_text_cannot_move_the_cursor_or_the_reading_direction() -> None:
    assert sanitized("a\x1b[31m\x00b\u202egnp.exe\nc") == "a\ufffd[31m\ufffdb\ufffdgnp.exe c"
    assert sanitized("Z" * 5000).endswith("… (5,000 characters)")
    assert sanitized("Grüße 音") == "Grüße 音"


def test_formats_that_are_refused_are_shown_with_their_share() -> None:
    refused = (FormatCount("M4A", 30, "audio", 100), FormatCount("PDF", 1, "", 1003))
    shown = snapshot(refused_formats=refused, parts_cut=1200)
    texts = [fact.text for fact in facts_of(line(snapshot=shown), NOW)]
    assert "refused formats: M4A 30 (30 % of rows with sound), PDF 1 (0.1 % of rows)" in texts
    assert "1,200 parts of which some was not used" in texts
