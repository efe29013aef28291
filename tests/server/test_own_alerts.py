"""What the server reports about itself: a held event loop, guards whose files fail."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.arrivals import Arrivals
from server.api.call_budget import CallBudget, arrival_limits, shares_of
from server.api.retry_penalty import RefusalPace
from server.commands import serve
from server.config import ServerConfig
from server.http.limits import ConnectionLimit
from server.ops import access_control
from server.ops.loop_lag import BEAT_S, HELD_S, SHOWN_S, LoopLag, place_of
from server.ops.otel_setup import front_of
from server.ops.own_alerts import OwnAlerts, OwnTrouble
from server.security import tokens
from server.telemetry.findings import Finding
from server.telemetry.otel.metric_definitions import COUNTERS, GAUGES
from server.telemetry_port import NullTelemetry
from server.types import Outcome, Work
from tests.support.ruled_engine import RuledEngine, ruled
from tests.support.running import channel_to, listener, until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Kept(NullTelemetry):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Finding] = []

    def report(self, findings: Sequence[Finding]) -> None:
        self.found += findings


class Holding(RuledEngine):
    """Computes on the event loop, as a front must not."""

    async def predict(self, work: Work) -> Outcome:
        time.sleep(3 * HELD_S)  # noqa: ASYNC251 - it is what must be found
        return await super().predict(work)


def test_the_longest_turn_is_kept_with_its_place_for_a_minute() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    for took_s, where in ((0.01, "a"), (0.9, "b"), (0.4, "c")):
        clock.now += BEAT_S + took_s
        lag.look(lambda where=where: where)  # type: ignore[misc]
        lag.beat(clock.now)
    assert lag.longest_s == pytest.approx(0.9) and "0.90 s by b" in lag.trouble
    clock.now += SHOWN_S
    assert lag.longest_s == 0.0 and lag.trouble == ""


def test_a_machine_that_is_late_is_measured_but_nobody_is_blamed() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    clock.now += 1.0
    lag.look(lambda: "")
    lag.beat(clock.now)
    assert lag.longest_s > HELD_S and lag.trouble == ""


@pytest.mark.parametrize("rows", [1, 2])
async def test_the_method_that_holds_the_loop_is_named(rows: int) -> None:
    lag = LoopLag()
    example = pb.Example(parts=[pb.Part(text="hum")])
    async with (
        ruled(kind=Holding) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        lag.start()
        await asyncio.sleep(2 * BEAT_S)
        await stubs.InferenceStub(channel).Predict(pb.PredictRequest(examples=[example] * rows))
        await until(lambda: lag.trouble)
    lag.stop()
    assert "/trefoil.v1.Inference/Predict in " in lag.trouble
    assert lag.longest_s >= HELD_S


def test_a_place_is_the_innermost_line_of_the_server() -> None:
    assert place_of(sys._getframe()).startswith("test_own_alerts.py:")


def test_a_trouble_is_reported_while_it_lasts_and_once_it_is_over() -> None:
    kept, text, chores = Kept(), [""], [0]

    def chore() -> None:
        chores[0] += 1

    alerts = OwnAlerts(kept, [OwnTrouble("server/audit", "high", lambda: text[0])], [chore])
    alerts.look()
    assert kept.found == []  # nothing was ever wrong
    text[0] = "the disk is full"
    alerts.look()
    text[0] = ""
    alerts.look()
    found = [(one.key, one.severity, one.summary) for one in kept.found]
    assert found == [("server/audit", "high", "the disk is full"), ("server/audit", "", "")]
    assert chores[0] == 3


def secured(folder: Path, data: Path) -> ServerConfig:
    tokens.add(folder / "tokens", "alice", "admin", 0)
    return replace(
        ServerConfig(), tokens=folder / "tokens", tls_cert=folder / "server.pem", data=data
    )


def test_tokens_with_a_data_folder_that_cannot_be_written_serve_and_raise_an_alert(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    access = access_control.access_of(secured(tmp_path, tmp_path / "file" / "data"))
    (line,) = access.messages
    assert line.startswith("WITHOUT AN AUDIT FILE: ") and len(access.guards) == 1
    access.close()
    good = access_control.access_of(secured(tmp_path, tmp_path / "data"))
    assert good.messages == [] and (tmp_path / "data" / "audit.jsonl").exists()
    good.close()


def test_the_guards_of_a_server_raise_alerts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    access, kept, lag = access_control.access_of(secured(tmp_path, data)), Kept(), LoopLag(Clock())
    alerts = serve._own_alerts(kept, access, lag)
    alerts.look()
    assert kept.found == []
    (tmp_path / "tokens").write_text("{")
    (data / "audit.jsonl").unlink()
    os.symlink("/dev/full", data / "audit.jsonl")
    assert access.audit is not None
    access.audit.write("/trefoil.v1.Admin/Drain", None, "ipv4:10.0.0.7:1", denied=True)
    alerts.look()
    assert {one.key for one in kept.found} == {"server/tokens", "server/audit"}
    assert {one.severity for one in kept.found} == {"high"}
    access.close()


async def test_calls_and_lag_are_metrics() -> None:
    config = ServerConfig()
    arrivals = Arrivals(arrival_limits(config))
    budget = CallBudget(shares_of(config), lambda: "", arrivals, RefusalPace())
    names = {reading.name for reading in front_of(budget, LoopLag())}
    own = "calls.open calls.refused connections.open connections.cut messages.arriving messages.cut"
    assert names == {f"trefoil.{name}" for name in (*own.split(), "front.loop.lag")}
    names |= {reading.name for reading in front_of(budget, LoopLag(), ConnectionLimit(1, 1))}
    assert len(names) == 9 and names <= COUNTERS.keys() | GAUGES.keys()
