"""What callers notice when a server leaves, dies or joins."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.fleet.calls import ONCE, PAUSE_S, Load, load, said
from benchmarks.fleet.site import AGE_S, PLACES, PORT, SETTLE_S, TARGET, Site
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from trefoil import AsyncClient, RetryPolicy, text

Where = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Way:
    """How callers come to the servers; `opened` tells which server a session's call reaches."""

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
    """A proxy that has no server in service for a moment is asked again: only places count here."""
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
        site.note(f"{label}: SIGTERM of each in turn, no retries", said(one), not one.failed)


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
        site.note(f"{label}: SIGKILL of one, {kind}", said(one), one.failed <= bound)


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


async def join(site: Site, callers: int) -> None:
    """A client of gRPC's own, which looks a name up again only when a connection ends."""
    await site.end("west", signal.SIGTERM)
    config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
    options = [
        ("grpc.service_config", config),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    async with grpc.aio.insecure_channel(TARGET, options=options) as channel:
        stub, seen = InferenceStub(channel), Counter[str]()
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                described = await stub.Describe(pb.DescribeRequest(), timeout=30)
                seen[described.server_name] += 1
                await asyncio.sleep(PAUSE_S)

        async with load(callers, TARGET, ONCE) as counted:
            tasks = [asyncio.create_task(caller()) for _ in range(4)]
            await asyncio.sleep(3.0)
            await site.join("west")
            joined, ours_s, plain_s = time.monotonic(), 0.0, 0.0
            west = f"{PLACES['west']}:{PORT}"
            while time.monotonic() - joined < 3 * AGE_S and not (ours_s and plain_s):
                await asyncio.sleep(0.1)
                passed = time.monotonic() - joined
                ours_s = ours_s or (passed if counted.by_server[west] else 0.0)
                plain_s = plain_s or (passed if seen["west"] else 0.0)
            counted.by_server.clear()
            seen.clear()
            await asyncio.sleep(5.0)
            share, plain = _share(counted.by_server, west), _share(seen, "west")
            stop.set()
            await asyncio.gather(*tasks)
    for who, first_s, part, most_s in (
        ("client", ours_s, share, 10.0 + 2.0),
        ("plain gRPC, round_robin", plain_s, plain, AGE_S * 1.1 + 2.0),
    ):
        site.note(
            f"{who}: a new server's first call, then its share",
            f"{first_s:.1f} s, {part:.0%}",
            0 < first_s <= most_s and 0.2 < part < 0.5,
        )
    site.note("client: calls while it joined", said(counted), counted.failed == 0)


def _share(seen: Counter[str], name: str) -> float:
    return seen[name] / max(1, sum(seen.values()))
