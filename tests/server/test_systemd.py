"""The messages to a service manager, on a real datagram socket: in order, and only when true."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.engine import Engine
from server.ops.systemd import ServiceManager, service_manager
from tests.server.test_engine import Kept
from tests.support.patience import patience
from tests.support.running import ROOT, program, until
from tests.support.stub_replica import stub_config, stub_pool

ENOUGH = 1 << 16


class Receiver:
    """The manager's end: `heard` in order of arrival."""

    def __init__(self, name: str) -> None:
        self.heard: list[str] = []
        self._came = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while text := self._socket.recv(ENOUGH):
            with self._came:
                self.heard.append(text.decode())
                self._came.notify_all()

    def wait_for(self, text: str, within_s: float = 20.0) -> None:
        with self._came:
            assert self._came.wait_for(lambda: text in self.heard, patience(within_s)), self.heard

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())  # an empty datagram ends the thread
        self._thread.join(10)
        self._socket.close()


@contextmanager
def receiver(name: str) -> Iterator[Receiver]:
    running = Receiver(name)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(str(tmp_path / "notify")) as running:
        yield running


def test_without_a_manager_nothing_is_sent() -> None:
    nobody = service_manager({})
    assert nobody == ServiceManager() and not nobody.ready() and not nobody.status("x")


def test_an_abstract_socket_is_reached_and_a_status_stays_one_line() -> None:
    name = f"trefoil-{secrets.token_hex(8)}"
    with receiver("\0" + name) as manager:
        assert service_manager({"NOTIFY_SOCKET": f"@{name}"}).status("loading\nREADY=1")
        manager.wait_for("STATUS=loading READY=1")


@pytest.mark.parametrize("address", ["vsock:2:1", "relative/path"])
def test_an_address_of_another_kind_is_reported_and_not_used(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert service_manager({"NOTIFY_SOCKET": address}) == ServiceManager()
    assert address in caplog.text


def test_a_manager_that_is_gone_does_not_stop_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not ServiceManager(str(tmp_path / "gone")).ready()
    assert "was not notified" in caplog.text


def test_children_do_not_inherit_the_socket_and_a_watchdog_of_others_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1", "A": ""}
    assert service_manager(environment) == ServiceManager("/n", 0.0)
    assert environment == {"A": ""}
    ours = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    assert service_manager(ours).watchdog_s == 60.0


async def test_ready_is_not_sent_while_every_replica_is_slow_but_the_watchdog_is_fed(
    manager: Receiver, tmp_path: Path
) -> None:
    config = stub_config(probe_interval_s=0.3)
    engine = Engine(config, stub_pool(config, probes="slow,slow,slow,slow,right"), Kept())
    attending = asyncio.create_task(ServiceManager(str(tmp_path / "notify"), 0.06).attend(engine))
    try:
        await engine.start()
        await until(lambda: engine.snapshot().state == "NOT_READY")
        assert manager.heard and set(manager.heard) == {"WATCHDOG=1"}
        await until(lambda: engine.snapshot().state == "READY")
        await until(lambda: "READY=1" in manager.heard)
        assert manager.heard.count("READY=1") == 1
    finally:
        attending.cancel()
        await engine.stop()


def test_a_whole_life_is_notified_in_order(
    manager: Receiver, tmp_path: Path, tiny_bundle: Path
) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    flags = ("--bundle", str(tiny_bundle), "--warm-pool", "1", "--grace", "7")
    with program(*flags, environment=environment) as server:
        manager.wait_for("READY=1")
        with grpc.insecure_channel(server.address) as channel:
            request = health_pb2.HealthCheckRequest(service="trefoil.ready")
            answer = health_pb2_grpc.HealthStub(channel).Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() == 0
    stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=42000000"  # 5 s of lame duck, 7 of grace, 30
    manager.wait_for("STATUS=drained")
    heard = manager.heard
    first = next(i for i, line in enumerate(heard) if line.startswith("STATUS=listening on"))
    warming = next(i for i, line in enumerate(heard) if line.startswith("STATUS=replica 0"))
    assert first < warming < heard.index("READY=1") < heard.index(stopping)
    assert heard.index(stopping) < heard.index("STATUS=drained")
    assert heard.count("READY=1") == heard.count(stopping) == 1
    assert not any(line.startswith("WATCHDOG") for line in heard)  # nobody asked


def test_a_refusal_is_notified_too(manager: Receiver, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.main", "--bundle", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert done.returncode == 78
    manager.wait_for(f"STATUS=refused: {tmp_path} is not a bundle: it has no manifest.json")
    assert "READY=1" not in manager.heard
