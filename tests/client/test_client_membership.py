"""The Python client over servers that come and go: found by name, left before they refuse."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest

from console.feed import address as reach
from console.state.access import PLAIN
from proto.inference_pb2 import DescribeRequest
from proto.inference_pb2_grpc import InferenceStub
from server.engine import Engine
from server.telemetry_port import NullTelemetry
from tests.support.patience import patience
from tests.support.running import IDENTITY, ROOT, listener, until
from tests.support.stub_replica import stub_config, stub_pool
from trefoil import AsyncClient, RetryPolicy, Unavailable, text
from trefoil.channels import direct, open_channel
from trefoil.discovery import changes, resolve, tls_name

ONCE = RetryPolicy(max_attempts=1)
SESSIONS = [f"session-{n}" for n in range(24)]


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[tuple[str, Engine]]:
    """(address, engine) of a server with one stub replica."""
    config = stub_config()
    engine = Engine(config, stub_pool(config), NullTelemetry())
    try:
        await engine.start()
        await until(lambda: engine.serving, 60)
        async with listener(engine, identity=replace(IDENTITY, name=name)) as address:
            yield address, engine
    finally:
        await engine.stop()


def listed(file: Path, *addresses: str) -> None:
    file.write_text("# the fleet\n\n" + "".join(f"{address}  # one\n" for address in addresses))


async def homes(client: AsyncClient) -> dict[str, str]:
    answers = [await client.predict(text("hum"), session=session) for session in SESSIONS]
    return dict(zip(SESSIONS, (answer.server for answer in answers), strict=True))


async def test_targets_are_resolved_as_they_are_written(tmp_path: Path) -> None:
    listed(tmp_path / "fleet", "10.0.0.1:8433", "10.0.0.2:8433", "10.0.0.1:8433")
    fleet = f"file:{tmp_path / 'fleet'}"
    assert await resolve([fleet, "gpu-1:8433"]) == ("10.0.0.1:8433", "10.0.0.2:8433", "gpu-1:8433")
    assert "127.0.0.1:8433" in await resolve(["dns:///localhost:8433"])
    assert await resolve(["dns:///[::1]:8433"]) == ("[::1]:8433",)
    assert changes([fleet]) and changes(["dns:///a:1"]) and not changes(["gpu-1:8433"])
    assert tls_name(["dns:///trefoil.prod.svc:8433"]) == "trefoil.prod.svc"
    with pytest.raises(ValueError, match="dns:///HOST:PORT"):
        await resolve(["dns:///nowhere"])


async def test_no_server_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    listed(tmp_path / "fleet")
    async with AsyncClient(f"file:{tmp_path / 'fleet'}") as client:
        with pytest.raises(Unavailable, match="no server is named there"):
            await client.predict(text("hum"))


async def test_sessions_follow_the_name_of_a_server_not_its_address(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    async with serving("north") as (north, _):
        async with serving("south") as (south, _):
            listed(fleet, north, south)
            async with AsyncClient(f"file:{fleet}") as client:
                before = await homes(client)
        assert set(before.values()) == {north, south}
        async with serving("south") as (again, _):  # restarted, at another address
            listed(fleet, north, again)
            async with AsyncClient(f"file:{fleet}") as client:
                after = await homes(client)
    assert after == {s: north if home == north else again for s, home in before.items()}


async def test_servers_that_come_get_traffic_and_those_that_leave_lose_no_call(
    tmp_path: Path,
) -> None:
    fleet = tmp_path / "fleet"
    seen: set[str] = set()
    ended = asyncio.Event()

    async def caller(client: AsyncClient) -> None:
        while not ended.is_set():
            seen.add((await client.predict(text("hum"), timeout_s=patience(30))).server)

    async with serving("north") as (north, leaver), serving("south") as (south, _):
        listed(fleet, north)
        async with AsyncClient(f"file:{fleet}", retry_policy=ONCE) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(caller(client))
                await until(lambda: north in seen, 60)
                listed(fleet, north, south)
                await until(lambda: south in seen, 120)
                leaver.leave()
                members = client._servers.members
                await until(lambda: any(s.leaving for s in members), 60)
                await until(lambda: not any(s.leaving and s.calls for s in members), 60)
                await leaver.drain(patience(10))
                seen.clear()
                await until(lambda: south in seen, 60)
                ended.set()
    assert seen == {south}


async def test_a_server_that_is_gone_costs_one_call_and_not_one_again_and_again(
    tmp_path: Path,
) -> None:
    """Nothing is in flight there, so it would be the choice of every call that tries it again."""
    fleet = tmp_path / "fleet"
    lost, answered = 0, set()
    async with serving("north") as (north, _), AsyncExitStack() as short:
        south, _ = await short.enter_async_context(serving("south"))
        listed(fleet, north, south)
        async with AsyncClient(f"file:{fleet}", retry_policy=ONCE) as client:
            await client.predict(text("hum"))
            await short.aclose()
            for _ in range(200):
                try:
                    answered.add((await client.predict(text("hum"))).server)
                except Unavailable:
                    lost += 1
                await asyncio.sleep(0.02)
    assert lost <= 1 and answered == {north}


FORK = """
import os, sys
from trefoil import Client, TrefoilError, text

client = Client(sys.argv[1])
assert client.predict(text("hum")).label
child = os.fork()
if child == 0:
    try:
        client.predict(text("hum"))
    except TrefoilError as error:
        os._exit(7 if error.reason == "FORKED" else 8)
    os._exit(9)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert client.predict(text("hum")).label, "the parent's goes on"
client.close()
"""


async def test_a_client_made_before_a_fork_reports_it_in_the_child() -> None:
    async with serving("north") as (address, _):
        run = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", FORK, address],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=patience(60),
        )
    assert run.returncode == 0, run.stderr


@asynccontextmanager
async def a_proxy() -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """(its URL, the first line of each connection) of a proxy that connects to nothing."""
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait((await reader.readline()).decode().strip())
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize(
    "opened",
    [partial(open_channel, access=None), partial(reach.open_channel, access=PLAIN)],
    ids=["client", "console"],
)
async def test_a_proxy_is_asked_for_names_and_for_no_address(
    opened: Callable[[str], grpc.aio.Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_grpc_proxy", "no_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with a_proxy() as (url, asked), serving("north") as (address, _):
        monkeypatch.setenv("http_proxy", url)
        port = address.rpartition(":")[2]
        for near in (address, f"localhost:{port}"):
            async with opened(near) as channel:
                await InferenceStub(channel).Describe(DescribeRequest(), timeout=patience(20))
        assert asked.empty()
        async with opened("plant.example:8433") as channel:
            channel.get_state(try_to_connect=True)
            first = await asyncio.wait_for(asked.get(), patience(20))
        assert first.startswith("CONNECT plant.example:8433 ")
    for far in ("10.4.0.7:8433", "[fd00::7]:8433"):
        assert direct(far) == reach.direct(far) == (("grpc.enable_http_proxy", 0),)
