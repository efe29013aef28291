"""`server status` at a glance: at most fifteen lines, colours only on a terminal, repeated with
--watch; bars that only move forward; the next steps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proto import inference_pb2
from proto import observe_pb2 as pb
from server.commands.output.answer_text import prediction_of, readable
from server.commands.output.progress_bar import OF_LOAD, OF_REHEARSAL, Forward
from server.commands.output.status_summary import GREEN, RED, summary
from server.main import main
from server.ops.event_log import PLAIN
from server.telemetry.findings import Finding
from server.telemetry.rows import AlertRow
from server.telemetry.store.history import TimeSpan
from tests.support.patience import patience
from tests.support.telemetry_writer import WriterBench

AT = 1_790_000_000.0


def worst() -> pb.ServerSnapshot:
    """As much as there can be to show."""
    snapshot = pb.ServerSnapshot(
        server="line-3",
        version="0.1.0",
        state=pb.DEGRADED,
        reason="2 of 8 replicas are warm",
        started_unix_ms=int(AT * 1000) - 7_200_000,
        stamp="ab" * 32,
        stamp_name="triage-1+abababababab",
        warm_replicas=2,
        wanted_replicas=8,
        queued=3,
        queue_limit=512,
        requests=1200,
        slo_ms=200,
        insecure=True,
    )
    for index in range(8):
        state = "ready" if index < 2 else "loading"
        snapshot.replicas.add(index=index, state=state, reason="warming", p95_ms=10.0 * index)
    snapshot.refused_formats.add(format="M4A", rows=30, medium="audio", of_rows=100)
    return snapshot


def alerts() -> list[pb.AlertRow]:
    severities = ("warning", "critical", "high", "warning")
    opened = int(AT * 1000) - 600_000
    return [
        pb.AlertRow(id=str(i), severity=one, state="firing", summary=one, opened_unix_ms=opened)
        for i, one in enumerate(severities)
    ]


def test_there_are_fifteen_lines_at_most() -> None:
    lines = summary(worst(), alerts(), AT, colours=False).splitlines()
    assert len(lines) == 15
    assert lines[0] == "line-3  DEGRADED: 2 of 8 replicas are warm"
    assert "  replicas 2 of 8 warm, 0 rows in them" in lines
    assert "           4 loading: warming (and 4 more)" in lines
    assert "  queue    3 of 512" in lines
    latency = "  p95      70.0 ms of the slowest replica, the queue included"
    assert f"{latency}; the objective is 200 ms" in lines
    assert "  formats  refused: M4A 30 (30 % of rows with sound)" in lines
    assert lines[-3:] == [
        "  alerts   4, the worst 2:",
        "           critical, 10 min: critical",
        "           high, 10 min: high",
    ]


def test_colours_are_asked_for() -> None:
    snapshot = pb.ServerSnapshot(server="a", state=pb.READY)
    assert "\033" not in summary(worst(), alerts(), AT, colours=False)
    assert summary(snapshot, [], AT, colours=True).startswith(f"a  {GREEN}READY{PLAIN}\n")
    assert f"{RED}critical{PLAIN}" in summary(worst(), alerts(), AT, colours=True)


def test_what_a_caller_sent_reaches_no_terminal() -> None:
    row = pb.AlertRow(id="1", severity="high", state="firing", summary="site=\033[2J")
    assert "\033" not in summary(worst(), [row], AT, colours=False)


def test_short_form_is_the_usual_one(tiny_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--server", tiny_server]) == 0
    short = capsys.readouterr().out
    assert main(["status", "--server", tiny_server, "--json"]) == 0
    snapshot = json.loads(capsys.readouterr().out)
    assert short.startswith("tiny  READY\n") and snapshot["stamp"] in short
    assert len(short.splitlines()) <= 15 and "  alerts   " in short and "\033" not in short
    assert main(["status", "--server", tiny_server, "--full"]) == 0
    assert "evidence of readiness" in capsys.readouterr().out


def test_watch_shows_it_again_until_interrupted(tiny_server: str) -> None:
    command = [sys.executable, "-m", "server.main", "status", "--server", tiny_server]
    shown = subprocess.Popen(
        [*command, "--watch", "0.1"],
        stdout=subprocess.PIPE,
        text=True,
        # A job in the background of a shell is begun with it ignored, and so are its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert shown.stdout is not None
        heads = 0
        for line in shown.stdout:
            assert "\033" not in line
            heads += line.startswith(("tiny  READY", "tiny  DEGRADED"))  # by what ran before
            if heads == 3:
                break
        shown.send_signal(signal.SIGINT)
        assert shown.wait(patience(20)) == 130
    finally:
        shown.kill()
        shown.wait()
        if shown.stdout is not None:
            shown.stdout.close()


def test_watch_goes_without_json(tiny_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["status", "--server", tiny_server, "--watch", "--json"])
    assert end.value.code == 2 and "--watch goes without" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shares", "steps"),
    [
        (OF_LOAD, [("copying", 0), ("copying", 1), ("room", 0), ("loading", 0), ("loading", 0.5)]),
        (OF_LOAD, [("loading", 1), ("loading", 0.2), ("proving", 1), ("ready", 1)]),
        (OF_LOAD, [("rolling", 0), ("loading 1", 0.5), ("proving 1", 0.5), ("loading 2", 0.6)]),
        (OF_REHEARSAL, [("loading", 1), ("proving", 1), ("replaying", 0.0), ("replaying", 1)]),
    ],
)
def test_bars_move_forward_only(
    shares: dict[str, tuple[float, float]], steps: list[tuple[str, float]]
) -> None:
    forward = Forward(shares)
    assert all(forward.moved(*step) >= 0.0 for step in steps)
    assert 0.0 < forward.at <= 1.0
    forward.moved("ready", 1.0)
    assert forward.at == pytest.approx(1.0)


def test_each_step_has_its_own_stretch() -> None:
    forward = Forward(OF_LOAD)
    assert forward.moved("copying", 1.0) > 0.0
    assert forward.moved("loading", 0.5) > 0.0 and forward.moved("loading", 1.0) > 0.0
    assert forward.moved("proving", 1.0) > 0.0 and forward.at < 1.0


@pytest.mark.parametrize(("mass", "shown"), [(0.02, True), (0.97, False)])
def test_answer_that_fits_no_label_is_shown_with_its_mass(mass: float, shown: bool) -> None:
    prediction = inference_pb2.Prediction(label="ok", closed_set_mass=mass)
    result = inference_pb2.Result(prediction=prediction)
    text = readable(prediction_of(inference_pb2.PredictResponse(results=[result])))
    line = "  doubt    outside the label set: closed_set_mass 0.02, usually above 0.5"
    assert (line in text) is shown and ("doubt" in text) is shown


def test_alert_that_lasts_is_in_the_history_of_the_last_hour(tmp_path: Path) -> None:
    bench = WriterBench(tmp_path)
    bench.writer.report([Finding("skew/loaded", "skew", "high", "changed", "")])
    bench.clock.now += 2 * 86400
    now = bench.clock.now
    found = list(bench.reader.history(TimeSpan(now - 3600, now), ["alert"]))
    assert [row.state for row in found if isinstance(row, AlertRow)] == ["firing"]
