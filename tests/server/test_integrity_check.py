"""A replica's check of what it loaded: on its thread, through the pool, as state and alert."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from proto import observe_pb2 as pb
from proto import replica_pb2
from proto.observe_pb2_grpc import ObserveStub
from server.engine import Engine
from server.ops.skew_alert import REPEAT_S, SkewAlert
from server.replica.integrity_check import IntegrityCheck
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from tests.support.patience import patience
from tests.support.running import channel_to, idle_engine, listener, until
from tests.support.stopped import stop
from tests.support.stub_bundles import Unkept
from tests.support.stub_replica import StubWatch, stub_config, stub_pool

WEIGHTS = "file weights/model.safetensors later was changed on disk\n"
FUNCTION = "memory pipelines.models.qwen.log_mel.mel now was replaced in memory\n"


class Answers:
    """What an IntegrityCheck on a thread of its own sends, until its front is gone."""

    def __init__(self, path: Path, interval_s: float) -> None:
        self.sent: queue.SimpleQueue[replica_pb2.Looked] = queue.SimpleQueue()
        self.gone = False
        self.check = IntegrityCheck(StubWatch(str(path)), self._send, interval_s)
        self.thread = threading.Thread(target=self.check.run)
        self.thread.start()

    def _send(self, message: replica_pb2.FromReplica) -> None:
        if self.gone:
            raise ConnectionError
        self.sent.put(message.looked)

    def next(self) -> replica_pb2.Looked:
        return self.sent.get(timeout=patience(20))


def test_it_looks_at_once_then_in_turns_and_when_asked(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "moved", 0.05)
    assert not answers.next().changed
    (tmp_path / "moved").write_text(WEIGHTS)
    while not (looked := answers.next()).changed:
        pass
    (item,) = looked.changed
    assert (item.kind, item.name, item.affects_answers_now) == (
        "file",
        "weights/model.safetensors",
        False,
    )
    assert looked.took_ms > 0 and not looked.verify_id
    answers.check.ask(replica_pb2.Verify(id=7, disk=True))
    while (looked := answers.next()).verify_id != 7:
        pass
    assert [item.message for item in looked.changed] == ["was changed on disk", "differs in a byte"]
    answers.gone = True
    answers.thread.join(20)
    assert not answers.thread.is_alive()


def test_a_check_that_fails_reports_it_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "moved").write_text("broken")
    answers = Answers(tmp_path / "moved", 0.05)
    assert answers.next().error == "RuntimeError: it is broken"
    (tmp_path / "moved").unlink()
    while answers.next().error:
        pass
    answers.gone = True
    answers.thread.join(20)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(
    moved: Path, replicas: int = 1, interval_s: float = 0.05
) -> AsyncIterator[Engine]:
    """An engine over stub replicas that report what the file `moved` holds."""
    config = stub_config(warm_pool=replicas)
    stub = {"moved": moved, "skew-interval": interval_s}
    engine = Engine(config, stub_pool(config, **stub), Unkept())
    await engine.start()
    try:
        await until(lambda: engine.snapshot().warm_replicas == replicas)
        await until(lambda: all(r.self_check.at for r in engine.snapshot().replicas))
        yield engine
    finally:
        await engine.stop()


async def test_a_report_of_a_replica_degrades_the_server_until_healed(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    async with running(moved, replicas=2) as engine:
        moved.write_text(WEIGHTS + FUNCTION)
        await until(lambda: len(engine.snapshot().replicas[1].self_check.changed) == 2)
        await until(lambda: engine.snapshot().state == "DEGRADED")
        seen = "READY"  # what watchers get trails the snapshot by a look
        while seen != "DEGRADED":
            seen = await asyncio.wait_for(engine.changed(seen), patience(20))
        reason = engine.snapshot().reason
        assert reason.startswith("version skew: replica ")  # what changes answers comes first
        assert "pipelines.models.qwen.log_mel.mel was replaced in memory and " in reason
        moved.write_text("broken")
        await until(lambda: "cannot compare itself" in engine.snapshot().reason)
        moved.unlink()
        await until(lambda: engine.snapshot().state == "READY")


async def test_verifying_waits_for_every_replica_and_reads_the_disk_once(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.write_text(WEIGHTS)
    async with running(moved, replicas=2, interval_s=60) as engine:
        assert not engine.snapshot().replicas[0].self_check.verified_at
        began = time.time()
        await asyncio.wait_for(engine.verify(), patience(20))
        checks = [replica.self_check for replica in engine.snapshot().replicas]
        assert all(check.verified_at >= began for check in checks)
        assert [len(check.changed) for check in checks] == [2, 1]  # one more is found on disk


async def test_verifying_does_not_wait_for_a_replica_that_dies(tmp_path: Path) -> None:
    async with running(tmp_path / "none") as engine:
        replica = engine.snapshot().replicas[0]

        stop(replica.pid)  # it will not answer
        stat = Path(f"/proc/{replica.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        asked = asyncio.create_task(engine.verify())
        await asyncio.sleep(0.2)
        assert not asked.done()
        os.kill(replica.pid, signal.SIGKILL)
        await asyncio.wait_for(asked, patience(20))


async def test_skew_is_an_alert_that_gets_worse_and_resolves(tmp_path: Path) -> None:
    moved, clock = tmp_path / "moved", Clock()
    telemetry = Telemetry(TelemetrySettings(tmp_path / "data"))
    try:
        async with running(moved) as engine:
            alert = SkewAlert(engine, telemetry, clock)

            async def becomes(count: int, severity: str, state: str) -> str:
                await until(lambda: len(engine.snapshot().replicas[0].self_check.changed) == count)
                clock.now += REPEAT_S
                alert.look()
                (row,) = await asyncio.to_thread(telemetry.alerts)
                assert (row.kind, row.severity, row.state) == ("skew", severity, state)
                return row.summary

            alert.look()
            assert not await asyncio.to_thread(telemetry.alerts)
            moved.write_text(WEIGHTS)
            summary = await becomes(1, "high", "firing")
            assert "weights/model.safetensors was changed on disk" in summary
            moved.write_text(WEIGHTS + FUNCTION)
            assert "replaced in memory and 1 more" in await becomes(2, "critical", "firing")
            moved.unlink()
            await becomes(0, "critical", "resolved")
    finally:
        await asyncio.to_thread(telemetry.close)


async def test_a_new_process_that_is_what_it_loaded_ends_the_alert_of_the_one_before(
    tmp_path: Path,
) -> None:
    moved = tmp_path / "moved"
    for content, state in ((WEIGHTS, "firing"), ("", "resolved")):
        telemetry = Telemetry(TelemetrySettings(tmp_path / "data"))
        moved.write_text(content)
        try:
            async with running(moved) as engine:
                SkewAlert(engine, telemetry).look()
                (row,) = await asyncio.to_thread(telemetry.alerts)
                assert row.state == state
        finally:
            await asyncio.to_thread(telemetry.close)


async def test_verify_over_the_wire_answers_with_a_snapshot(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "none", interval_s=60) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        event = await ObserveStub(channel).Verify(pb.VerifyRequest())
    assert event.snapshot.server == "press-7"
    assert event.snapshot.replicas[0].self_check.verified_unix_ms


async def test_a_verify_request_that_is_no_message_is_refused() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        call = channel.unary_unary("/trefoil.v1.Observe/Verify")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\xff\xff")
