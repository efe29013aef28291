"""The Python client over several servers: sessions stay, little moves, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from server.pool import affinity
from tests.support.listener_process import WORDS, listener_processes
from tests.support.patience import patience
from tests.support.ruled_engine import RuledEngine, ruled
from tests.support.running import Program, listener
from tests.support.stub_replica import STAMP
from trefoil import (
    AsyncClient,
    RetryPolicy,
    StampMismatch,
    TextInterrupted,
    Unavailable,
    text,
)
from trefoil.servers import Server, Servers, rank

SESSIONS = [f"session-{n}" for n in range(60)]
SLOW = ("--pause-ms", "60")
BALANCES = ("rendezvous", "ring_hash")


def test_clients_and_servers_rank_alike() -> None:
    members = ["10.0.0.7:8433", "gpu-1:8433", "[::1]:8433", "Ofen-Nord:8433"]
    for session in ["", "ü", *SESSIONS]:
        assert rank(session, members) == affinity.rank(session, members)


def test_a_server_that_was_not_reached_is_left_alone_longer_each_time() -> None:
    now = 0.0
    members = [Server(address, None, None) for address in ("a:1", "b:1")]
    servers = Servers(members, clock=lambda: now, draw=lambda: 0.0)
    home = servers.choose("s")
    servers.mark(home, reached=False)
    servers.mark(home, reached=False)  # another call that was under way: counts once
    assert servers.choose("s") is not home
    now = 0.11
    assert servers.choose("s") is home
    servers.mark(home, reached=False)
    now = 0.25
    assert servers.choose("s") is not home
    servers.mark(home, reached=True)
    assert servers.choose("s") is home


async def homes(engines: dict[str, RuledEngine], client: AsyncClient) -> dict[str, set[str]]:
    """Session -> the servers that saw it, over three requests each."""
    for engine in engines.values():
        engine.received.clear()
    for _ in range(3):
        await asyncio.gather(*(client.predict(text("hum"), session=s) for s in SESSIONS))
    return {
        session: {
            address
            for address, engine in engines.items()
            if any(work.session == session for work in engine.received)
        }
        for session in SESSIONS
    }


@pytest.mark.parametrize("balance", BALANCES)
async def test_when_one_of_three_servers_goes_only_its_sessions_move(balance: str) -> None:
    engines: dict[str, RuledEngine] = {}
    async with AsyncExitStack() as stack:
        last = AsyncExitStack()
        for exits in (stack, stack, last):
            engine = await exits.enter_async_context(ruled())
            engines[await exits.enter_async_context(listener(engine))] = engine
        gone = list(engines)[-1]
        client = await stack.enter_async_context(AsyncClient(list(engines), balance=balance))
        before = await homes(engines, client)
        assert all(len(seen) == 1 for seen in before.values()), "sticky"
        await last.aclose()
        after = await homes(engines, client)
    lived_there = {session for session in SESSIONS if before[session] == {gone}}
    assert {session for session in SESSIONS if after[session] != before[session]} == lived_there
    assert 6 <= len(lived_there) <= 38, "about one in three of 60"


@pytest.fixture
def three() -> Iterator[list[Program]]:
    with listener_processes((), (), ()) as running:
        yield running


async def under_load(client: AsyncClient, three: list[Program]) -> tuple[int, int, int]:
    """Kill one of three servers under 16 callers: how many were answered, lost, asked twice."""
    answered, lost, twice = 0, 0, 0

    async def caller(number: int) -> None:
        nonlocal answered, lost, twice
        for _ in range(30):
            try:
                found = await client.predict(text("hum"), session=f"caller-{number}")
            except Unavailable:
                lost += 1
            else:
                answered += 1
                twice += found.attempts > 1

    async def kill() -> None:
        """While calls are under way on it: stopped first, it answers none."""
        while answered < 100:  # noqa: ASYNC110  callers do not know of it
            await asyncio.sleep(0.01)
        three[1].process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(patience(0.5))
        three[1].process.kill()

    await asyncio.gather(kill(), *(caller(number) for number in range(16)))
    return answered, lost, twice


@pytest.mark.parametrize("balance", BALANCES)
async def test_a_server_killed_under_load_costs_no_request(
    balance: str, three: list[Program]
) -> None:
    addresses = [server.address for server in three]
    async with AsyncClient(addresses, balance=balance) as client:
        answered, lost, twice = await under_load(client, three)
    assert (answered, lost) == (480, 0)
    assert twice > 0, "some were under way on it"


async def test_without_retries_the_same_kill_does_cost_requests(three: list[Program]) -> None:
    """Else the test above would prove nothing."""
    addresses = [server.address for server in three]
    async with AsyncClient(addresses, retry_policy=RetryPolicy(max_attempts=1)) as client:
        _, lost, _ = await under_load(client, three)
    assert lost > 0


async def pieces_with_kill(client: AsyncClient, servers: dict[str, Program]) -> list[str]:
    """The pieces of a text whose server is killed after the third of them."""
    pieces: list[str] = []
    writing = client.generate(text("hum"))
    async for piece in writing:
        pieces.append(piece)
        if len(pieces) == 3:
            (busy,) = [m.address for m in client._servers.members if m.calls]
            servers[busy].process.kill()
    assert writing.result is not None and writing.result.text == "".join(pieces)
    assert (writing.result.stamp, writing.result.attempts) == (STAMP, 2)
    return pieces


async def test_a_text_whose_server_dies_goes_on_without_a_gap_or_an_echo() -> None:
    with listener_processes(SLOW, SLOW) as (one, two):
        servers = {one.address: one, two.address: two}
        async with AsyncClient(list(servers)) as client:
            pieces = await pieces_with_kill(client, servers)
    assert "".join(pieces).split() == WORDS.split()


@pytest.mark.parametrize(
    ("flags", "cause", "reason"),
    [
        (("--stamp", "cd" * 32), StampMismatch, "STAMP_MISMATCH"),
        (("--words", "smoke near another drive of station nine"), type(None), "TEXT_DIFFERS"),
        (("--words", "smoke"), type(None), "TEXT_DIFFERS"),
    ],
)
async def test_a_text_that_cannot_go_on_as_it_began_reports_it(
    flags: tuple[str, ...], cause: type, reason: str
) -> None:
    with listener_processes(SLOW, flags) as (one, two):
        async with AsyncClient([one.address, two.address]) as client:
            client._servers.members[1].calls = 1  # so that the first is the idlest
            seen: list[str] = []
            with pytest.raises(TextInterrupted) as caught:
                async for piece in client.generate(text("hum")):
                    seen.append(piece)
                    if len(seen) == 3:
                        one.process.kill()
    assert caught.value.text == "".join(seen) == "smoke near the "
    assert caught.value.reason == reason
    assert isinstance(caught.value.__cause__, cause)
