"""A server that stops: calls are served while health reports it; connections reach their maximum
age."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.ops.leaving import connection_age_s, lame_duck_s
from server.ops.otel_setup import state_of
from tests.support.patience import patience
from tests.support.running import channel_to, idle_engine, listener, program
from trefoil import AsyncClient, RetryPolicy, text

NO_RETRY = RetryPolicy(max_attempts=1)
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("asked", "managed", "environment", "expected"),
    [
        (None, False, {}, 0.0),
        (None, True, {}, 5.0),
        (None, False, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 5.0),
        (0.0, True, {}, 0.0),
        (12.5, False, {}, 12.5),
    ],
)
def test_who_started_the_server_decides_how_long_it_still_serves(
    asked: float | None, managed: bool, environment: dict[str, str], expected: float
) -> None:
    assert lame_duck_s(asked, managed, environment)[0] == expected


def test_connections_age_where_others_than_this_machine_connect() -> None:
    assert connection_age_s(None, local=True)[0] == 0.0
    assert connection_age_s(None, local=False)[0] == 300.0
    assert connection_age_s(7.0, local=True)[0] == 7.0


def test_a_server_that_leaves_is_not_counted_as_sick() -> None:
    engine = idle_engine()
    for state, ready, draining in (("NOT_READY", 0.0, 0.0), ("DRAINING", 0.0, 1.0)):
        found = {one.name: one.value for one in state_of(replace(engine.snapshot(), state=state))}
        assert (found["trefoil.ready"], found["trefoil.draining"]) == (ready, draining)


async def test_calls_are_served_while_health_reports_that_the_server_leaves(
    tiny_bundle: Path,
) -> None:
    flags = ("--bundle", str(tiny_bundle), "--warm-pool", "1", "--lame-duck", "3600")
    with program(*flags) as server:
        async with AsyncClient(server.address, retry_policy=NO_RETRY) as client:
            async with channel_to(server.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(health_pb2.HealthCheckRequest(service="trefoil.ready"))
                await watch.read()
                server.process.send_signal(signal.SIGTERM)
                changed = await asyncio.wait_for(watch.read(), patience(20))
                assert changed.status == NOT_SERVING
                answer = await client.predict(text("the press rattles"), timeout_s=patience(30))
                assert answer.label
                watch.cancel()
            server.process.send_signal(signal.SIGTERM)  # skips the rest of the hour
            code = await asyncio.to_thread(server.process.wait, patience(60))
    lines = "\n".join(server.lines)
    assert code == 0
    assert "SIGTERM: leaving, still serving for 3600 s; send the signal again to drain now" in lines
    assert "SIGTERM: draining; send the signal again to exit immediately" in lines
    assert "drained" in lines


def sockets_to(port: int) -> set[int]:
    """Local ports of the established connections of this machine to `port`."""
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == "01" and int(row[2].rpartition(":")[2], 16) == port
    }


async def test_a_connection_of_its_age_is_replaced_and_no_call_fails() -> None:
    engine = idle_engine()
    async with listener(engine, connection_age_s=0.3) as address, channel_to(address) as channel:
        port = int(address.rpartition(":")[2])
        health = health_pb2_grpc.HealthStub(channel)
        seen: set[int] = set()

        async def asked() -> None:
            request = health_pb2.HealthCheckRequest(service="trefoil.live")
            await health.Check(request, wait_for_ready=True)
            seen.update(sockets_to(port))

        end = time.monotonic() + patience(30)
        while len(seen) < 3 and time.monotonic() < end:
            await asked()
            await asyncio.sleep(0.05)
        assert len(seen) >= 3


async def test_a_watch_on_an_old_connection_goes_on_within_the_grace() -> None:
    engine = idle_engine()
    async with listener(engine, connection_age_s=0.2) as address, channel_to(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="trefoil.startup"))
        assert (await watch.read()).status == NOT_SERVING
        port = int(address.rpartition(":")[2])
        before = sockets_to(port)

        async def replaced() -> None:
            while True:
                await health.Check(
                    health_pb2.HealthCheckRequest(service="trefoil.live"), wait_for_ready=True
                )
                if sockets_to(port) - before:
                    return
                await asyncio.sleep(0.05)

        await asyncio.wait_for(replaced(), patience(30))
        engine.leave()
        assert (await asyncio.wait_for(watch.read(), patience(20))).status != NOT_SERVING
        watch.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await watch.read()
