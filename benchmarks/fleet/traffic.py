"""What callers notice when a server leaves, dies or joins."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.fleet.calls import ONCE, Load, failures, load
from benchmarks.fleet.site import AGE_S, PLACES, PORT, SETTLE_S, TARGET, Site
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from trefoil import AsyncClient, RetryPolicy, text

PLAIN = "plain gRPC, round_robin"
# Share of its even part, for a server; with some fifty calls a second this is beyond chance.
ENOUGH = 0.75
SHARE_S = 10.0  # the period in which a share is counted
Where = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way from callers to the servers; `opened` returns the server that a session's call
    reaches."""

    label: str
    target: str | list[str]
    opened: Callable[[], Any]


@asynccontextmanager
async def through_client() -> AsyncIterator[Where]:
    async with AsyncClient(TARGET, retry_policy=ONCE) as client:

        async def where(session: str) -> str:
            return (await client.predict(text("where"), session=session)).server

        yield where


@asynccontextmanager
async def through_proxy(address: str) -> AsyncIterator[Where]:
    """A proxy that has no server in service for a moment is called again: only the placement counts
    here."""
    async with grpc.aio.insecure_channel(f"{address}:{PORT}") as channel:

        async def where(session: str) -> str:
            metadata = (("session-id", session),)
            for attempt in itertools.count():
                try:
                    described = await InferenceStub(channel).Describe(
                        pb.DescribeRequest(), metadata=metadata
                    )
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == 100:
                        raise
                    await asyncio.sleep(0.5)
            return f"{PLACES[described.server_name]}:{PORT}"

        yield where


@asynccontextmanager
async def through_plain() -> AsyncIterator[Where]:
    """gRPC's own client, which resolves a name again only when a connection ends."""
    config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
    options = [
        ("grpc.service_config", config),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    async with grpc.aio.insecure_channel(TARGET, options=options) as channel:
        stub = InferenceStub(channel)

        async def where(session: str) -> str:
            described = await stub.Describe(pb.DescribeRequest(), timeout=30)
            return f"{PLACES[described.server_name]}:{PORT}"

        yield where


async def sticky(site: Site, ways: Sequence[Way]) -> None:
    """The same departure and return of a server, through every way."""
    sessions = [f"press-{number}" for number in range(30)]
    gone = f"{PLACES['west']}:{PORT}"
    async with AsyncExitStack() as stack:
        where = {way.label: await stack.enter_async_context(way.opened()) for way in ways}
        first = {}
        for label, ask in where.items():
            first[label] = {session: await ask(session) for session in sessions}
            again = [await ask(s) == first[label][s] for s in sessions for _ in range(3)]
            what = f"{sum(again)} of {len(again)}"
            site.note(f"{label}: calls of sessions that stay", what, all(again))
        await site.end("west", signal.SIGTERM)
        await asyncio.sleep(SETTLE_S)
        for label, ask in where.items():
            moved = {s for s in sessions if await ask(s) != first[label][s]}
            homeless = {s for s in sessions if first[label][s] == gone}
            site.note(
                f"{label}: one of 3 leaves, sessions that move",
                f"{len(moved)} of 30, {len(moved - homeless)} without need",
                moved == homeless,
            )
        await site.join("west")
        await asyncio.sleep(SETTLE_S)
        for label, ask in where.items():
            back = sum([await ask(s) == first[label][s] for s in sessions])
            site.note(f"{label}: it returns, sessions at home", f"{back} of 30", back == 30)


async def leave(site: Site, ways: Sequence[Way], callers: int, pause_s: float) -> None:
    async with AsyncExitStack() as stack:
        counted = await _loads(stack, ways, callers, ONCE, pause_s)
        for name in PLACES:
            await site.end(name, signal.SIGTERM)
            await site.join(name)
            await asyncio.sleep(SETTLE_S)
    for label, one in counted.items():
        site.note(f"{label}: SIGTERM of each in turn, no retries", failures(one), not one.failed)


async def kill(
    site: Site, ways: Sequence[Way], callers: int, retry: RetryPolicy, pause_s: float
) -> None:
    async with AsyncExitStack() as stack:
        counted = await _loads(stack, ways, callers, retry, pause_s)
        await asyncio.sleep(2.0)
        await site.end("south", signal.SIGKILL)
        await asyncio.sleep(5.0)
    await site.join("south")
    bound = callers if retry is ONCE else 0
    kind = "no retries" if retry is ONCE else "with retries"
    for label, one in counted.items():
        site.note(f"{label}: SIGKILL of one, {kind}", failures(one), one.failed <= bound)


async def _loads(
    stack: AsyncExitStack,
    ways: Sequence[Way],
    callers: int,
    retry: RetryPolicy,
    pause_s: float,
) -> dict[str, Load]:
    return {
        way.label: await stack.enter_async_context(load(callers, way.target, retry, pause_s))
        for way in ways
    }


@dataclass(slots=True)
class Answered:
    """When each call of some callers was answered, on the monotonic clock, and by which server."""

    calls: list[tuple[float, str]] = field(default_factory=list)

    def first(self, server: str) -> float:
        return next((at for at, name in self.calls if name == server), float("inf"))

    def share(self, server: str, begin: float, end: float) -> float:
        names = [name for at, name in self.calls if begin <= at < end]
        return names.count(server) / max(1, len(names))

    def takes_its_share(self, server: str, began: float, end: float) -> float:
        """The start of the first two seconds in which the server gets most of its even share of the
        calls."""
        least = ENOUGH / len(PLACES)
        steps = (began + second / 2 for second in range(int(2 * (end - began))))
        return next((at for at in steps if self.share(server, at, at + 2) >= least), float("inf"))


async def join(site: Site, ways: Sequence[Way], callers: int, pause_s: float) -> None:
    """Each call has a new session, so that a proxy can choose for every one."""
    await site.end("west", signal.SIGTERM)
    ways = [*ways, Way(PLAIN, TARGET, through_plain)]
    stop = asyncio.Event()
    answered = {way.label: Answered() for way in ways}
    west = f"{PLACES['west']}:{PORT}"

    async def caller(where: Where, found: Answered, number: int) -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            server = await where(f"{number} {turn}")
            found.calls.append((time.monotonic(), server))
            await asyncio.sleep(pause_s)

    async with AsyncExitStack() as stack:
        counted = await _loads(stack, [w for w in ways if w.label != PLAIN], callers, ONCE, pause_s)
        tasks = []
        for way in ways:
            where = await stack.enter_async_context(way.opened())
            calls = (caller(where, answered[way.label], number) for number in range(4))
            tasks += [asyncio.create_task(one) for one in calls]
        await asyncio.sleep(3.0)
        await site.join("west")
        joined = time.monotonic()
        aged = joined + AGE_S * 1.1  # gRPC varies the age by a tenth
        await asyncio.sleep(AGE_S * 1.1 + SHARE_S)
        stop.set()
        await asyncio.gather(*tasks)
    for label, found in answered.items():
        first, takes = found.first(west), found.takes_its_share(west, joined, aged)
        part = found.share(west, aged, aged + SHARE_S)
        site.note(
            f"{label}: a new server's first call, its share, then of the calls",
            f"{first - joined:.1f} s, {takes - joined:.1f} s, {part:.0%}",
            max(first, takes) <= aged and abs(part - 1 / 3) < 0.1,
        )
    for label, one in counted.items():
        site.note(f"{label}: calls while it joined", failures(one), one.failed == 0)
