"""Hosts are dealt to several sockets of one port, so that calls of one do not wait behind those of
another."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest

from server.api.listen_address import CannotListen
from server.api.listener import Listener
from server.config import ServerConfig
from server.ops.host_lanes import LANES, deal, lanes
from tests.support.raw_http2 import RawConnection
from tests.support.running import IDENTITY, idle_engine, until

pytestmark = pytest.mark.skipif(lanes()[0] == 1, reason=f"lanes: {lanes()[1]}")


@contextmanager
def sharing(family: int, host: str) -> Iterator[list[socket.socket]]:
    """As many listening sockets of one port as there are lanes."""
    with ExitStack() as open_ones:
        found: list[socket.socket] = []
        for _ in range(LANES):
            one = open_ones.enter_context(socket.socket(family))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((host, found[0].getsockname()[1] if found else 0))
            one.listen()
            one.setblocking(False)
            found.append(one)
        yield found


def lane_of(sockets: list[socket.socket], family: int, source: str, to: str) -> int:
    with socket.socket(family) as caller:
        caller.bind((source, 0))
        caller.connect((to, sockets[0].getsockname()[1]))
        while True:
            for number, one in enumerate(sockets):
                with suppress(BlockingIOError):
                    one.accept()[0].close()
                    return number


def test_each_host_has_one_socket_and_all_sockets_are_used() -> None:
    hosts = [f"127.0.{number % 3}.{number + 1}" for number in range(100)]
    with sharing(socket.AF_INET, "127.0.0.1") as sockets:
        deal(sockets[0].getsockname()[1], LANES)
        found = [[lane_of(sockets, socket.AF_INET, host, "127.0.0.1") for host in hosts]
                 for _ in range(3)]  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == set(range(LANES))
    assert max(map(found[0].count, range(LANES))) < 35, "about 12 each"


def test_the_lanes_of_both_families_on_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = {}
    for seed in range(16):
        monkeypatch.setattr("secrets.randbits", lambda _, seed=seed: seed << 5)
        with sharing(socket.AF_INET6, "::") as sockets:
            deal(sockets[0].getsockname()[1], LANES)
            six = [lane_of(sockets, socket.AF_INET6, "::1", "::1") for _ in range(3)]
            four = [lane_of(sockets, socket.AF_INET, "127.0.0.1", "127.0.0.1") for _ in range(3)]
        assert len(set(six)) == len(set(four)) == 1
        lane[seed] = (six[0], four[0])
    assert len({six for six, _ in lane.values()}) > 3, "it cannot be known beforehand"
    assert len({four for _, four in lane.values()}) > 3
    assert any(six != four for six, four in lane.values())


class InOrder(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The methods of calls, in the order in which gRPC hands them over."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.seen.append(details.method)
        return await continuation(details)


async def test_calls_of_other_hosts_do_not_wait_behind_a_flood_of_one() -> None:
    order = InOrder()
    config = replace(ServerConfig(), listen="127.0.0.1:0", max_streams=500)
    running = Listener(idle_engine(), config, IDENTITY, lambda: None, interceptors=(order,))
    port = int((await running.start()).rpartition(":")[2])
    flood = RawConnection.over_socket(socket.create_connection(("127.0.0.1", port)))
    others = []
    for number in range(16):
        source = (f"127.0.0.{number + 2}", 0)
        caller = socket.create_connection(("127.0.0.1", port), source_address=source)
        others.append(RawConnection.over_socket(caller))
    for _ in range(400):
        flood.call("/flood/Call")
    flood.pump()
    time.sleep(0.2)  # noqa: ASYNC251  while the loop stands, nothing is handed over
    for one in others:
        one.call("/other/Call")
        one.pump()
    time.sleep(0.2)  # noqa: ASYNC251
    await until(lambda: len(order.seen) == 416)
    early = order.seen[: 8 * LANES].count("/other/Call")
    assert early >= 4, "all but those that share the socket of the flood"
    for one in (flood, *others):
        one.close()
    await running.stop(0)


async def test_connections_of_all_lanes_together_are_limited() -> None:
    config = replace(ServerConfig(), listen="127.0.0.1:0", max_connections=5)
    running = Listener(idle_engine(), config, IDENTITY, lambda: None)
    port = int((await running.start()).rpartition(":")[2])
    with ExitStack() as open_ones:
        for number in range(20):
            source = (f"127.0.0.{number + 1}", 0)
            one = socket.create_connection(("127.0.0.1", port), source_address=source)
            open_ones.enter_context(one)
        arrivals = running.budget.arrivals
        await until(lambda: arrivals.refused["connections"] and arrivals.open == 5)
    await running.stop(0)


async def test_two_servers_that_start_at_once_do_not_share_the_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each may look at the address before the other has bound it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr("server.api.listener.check_free", lambda *_: None)
    config = replace(ServerConfig(), listen=f"127.0.0.1:{port}")
    first, second, third = (
        Listener(idle_engine(), config, IDENTITY, lambda: None) for _ in range(3)
    )
    await first.start()
    with pytest.raises(CannotListen, match="taken since it was looked at"):
        await second.start()
    await first.stop(0)
    assert (await third.start()).endswith(f":{port}")
    await third.stop(0)
