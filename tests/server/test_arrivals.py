"""What a caller makes the server hold before its call has begun: half messages, compressed ones,
connections, messages without the right to make the call."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server import host
from server.api.arrivals import LONGEST_ARRIVAL_S, Arrivals
from server.api.call_budget import arrival_limits
from server.api.listener import UNASKED_BYTES, Listener
from server.config import ServerConfig
from server.ops.own_sockets import OwnSockets
from server.values import MIB
from tests.support.raw_http2 import RawConnection, message
from tests.support.ruled_engine import ruled
from tests.support.running import IDENTITY, channel_to, program, until
from tests.support.secure_listener import secure_listener

PREDICT = "/trefoil.v1.Inference/Predict"
STREAM = "/trefoil.v1.Inference/PredictStream"
HUM = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text="hum")])])
HALF = message(4 * MIB) + bytes(3 * MIB)


@asynccontextmanager
async def counted(
    longest_arrival_s: float = LONGEST_ARRIVAL_S, **settings: Any
) -> AsyncIterator[tuple[str, Arrivals]]:
    """The address of a listener, and what it counts. `settings` are fields of ServerConfig."""
    config = replace(ServerConfig(), listen="127.0.0.1:0", **settings)
    async with ruled() as engine:
        running = Listener(
            engine, config, IDENTITY, leave=lambda: None, longest_arrival_s=longest_arrival_s
        )
        address = await running.start()
        try:
            yield address, running.budget.arrivals
        finally:
            await running.stop(0)


async def pumped(connection: RawConnection, *streams: int) -> None:
    """Until these calls are over."""

    def over() -> bool:
        connection.pump()
        return all(stream in connection.over for stream in streams)

    await until(over)


async def sent(connection: RawConnection) -> None:
    def done() -> bool:
        connection.pump()
        return not any(connection.unsent.values())

    await until(done)


async def test_half_messages_hold_no_more_than_a_host_may() -> None:
    async with counted(arriving_peer_bytes=16 * MIB) as (address, kept):
        flood = await asyncio.to_thread(RawConnection.to, address)
        for _ in range(20):
            flood.call(PREDICT, HALF)

        def cut() -> bool:
            """All but those that may stay; most arrive in time to be cut with the others."""
            flood.pump()
            return len(flood.over) >= 15 and kept.holds <= 16 * MIB

        await until(cut)
        assert kept.refused["messages"] == len(flood.over)
        assert all(b"MESSAGES_ARRIVING" in over for over in flood.over.values())
        assert all(b"--arriving-peer-mb" in over for over in flood.over.values())
        async with channel_to(address) as channel:
            assert (await stubs.InferenceStub(channel).Predict(HUM)).results
        flood.close()


async def test_half_a_message_within_the_limit_may_take_its_time() -> None:
    whole = HUM.SerializeToString()
    async with counted(arriving_peer_bytes=16 * MIB) as (address, kept):
        slow = await asyncio.to_thread(RawConnection.to, address)
        half = slow.call(PREDICT, HALF)
        small = slow.call(PREDICT, message(len(whole)) + whole[:-1])
        await sent(slow)
        await until(lambda: kept.holds >= 3 * MIB)
        assert kept.holds < 4 * MIB and not kept.refused
        slow.unsent[small] = memoryview(whole[-1:])
        await pumped(slow, small)
        assert half not in slow.over and b"grpc-status" in slow.over[small]
        slow.close()


async def test_little_is_received_of_a_message_that_nobody_asks_for() -> None:
    whole = message(MIB) + bytes(MIB)
    async with counted(max_calls=1) as (address, _):
        caller = await asyncio.to_thread(RawConnection.to, address)
        served = caller.call(PREDICT, whole[:-1])
        await sent(caller)
        assert caller.stream_window == UNASKED_BYTES, "of a new call"
        refused = caller.call(PREDICT, whole)
        await pumped(caller, refused)
        assert b"TOO_MANY_CALLS" in caller.over[refused] and served not in caller.over
        assert caller.windows[refused] == 0, "and no more was allowed"
        caller.close()


async def test_many_calls_on_one_connection_are_not_taken_for_half_messages() -> None:
    """Heads and frames come with each message; what is left over after 3,000 is nothing."""
    async with counted(arriving_peer_bytes=1 * MIB) as (address, kept), channel_to(address) as it:
        stub = stubs.InferenceStub(it)
        waiting = stub.PredictStream()  # so that the connection always waits for a message
        await waiting.write(HUM)
        await waiting.read()
        pinned = (("authorization", "Bearer " + "x" * 700),)
        for _ in range(300):
            await asyncio.gather(*(stub.Predict(HUM, metadata=pinned) for _ in range(10)))
        assert not kept.refused and kept.holds < MIB
        await waiting.done_writing()


async def test_a_stream_ends_with_the_reason_and_after_its_answers() -> None:
    whole = HUM.SerializeToString()
    async with counted(arriving_peer_bytes=2 * MIB) as (address, kept):
        flood = await asyncio.to_thread(RawConnection.to, address)
        stream = flood.call(STREAM, message(len(whole)) + whole + HALF)
        await pumped(flood, stream)
        assert b"MESSAGES_ARRIVING" in flood.over[stream] and kept.refused["messages"] == 1
        flood.close()


async def test_a_message_that_never_comes_ends_its_call() -> None:
    async with counted(longest_arrival_s=0.2) as (address, _):
        slow = await asyncio.to_thread(RawConnection.to, address)
        call, stream = slow.call(PREDICT, HALF[:1000]), slow.call(STREAM)
        await pumped(slow, call)
        assert b"MESSAGE_TOO_SLOW" in slow.over[call]
        assert stream not in slow.over  # a stream may wait
        slow.close()


async def test_the_newest_connections_of_a_host_are_the_surplus() -> None:
    async with counted(max_connections_peer=4) as (address, kept), channel_to(address) as honest:
        stub = stubs.InferenceStub(honest)
        await stub.Predict(HUM)
        port = int(address.rpartition(":")[2])
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        await until(lambda: kept.refused["connections"] == 9)
        assert (await stub.Predict(HUM)).results
        await until(lambda: kept.open == 4)
        for one in flood:
            one.close()


@contextmanager
def accepting() -> Iterator[tuple[int, Callable[[int], socket.socket]]]:
    """A port, and a function that connects to it, is accepted on a CPU, and returns the caller."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as open_ones:
        listening = open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))

        def accepted(cpu: int) -> socket.socket:
            caller = open_ones.enter_context(socket.create_connection(listening.getsockname()))
            os.sched_setaffinity(0, {cpu})
            try:
                open_ones.enter_context(listening.accept()[0])
            finally:
                os.sched_setaffinity(0, allowed)
            return caller

        yield listening.getsockname()[1], accepted


def kernel_numbers_by_cpu() -> list[int]:
    """The CPUs of this process, that with the largest next number of a socket first."""
    allowed, numbers = os.sched_getaffinity(0), {}
    for cpu in allowed:
        os.sched_setaffinity(0, {cpu})
        with socket.socket() as one:
            numbers[cpu] = os.fstat(one.fileno()).st_ino
    os.sched_setaffinity(0, allowed)
    return sorted(numbers, key=lambda cpu: numbers[cpu], reverse=True)


class OneCall:
    """The context of a call whose message has arrived."""

    def __init__(self, caller: socket.socket) -> None:
        self._peer = f"ipv4:127.0.0.1:{caller.getsockname()[1]}"

    def peer(self) -> str:
        return self._peer

    async def read(self) -> bytes:
        return b"whole"


def closed(caller: socket.socket) -> bool:
    caller.settimeout(0.2)
    with suppress(TimeoutError):
        return not caller.recv(1)
    return False


async def test_what_the_kernel_numbers_a_connection_is_not_its_age() -> None:
    """Each CPU numbers sockets from a block of its own: the first connection has the largest."""
    largest, *_, smallest = kernel_numbers_by_cpu() * 2
    with accepting() as (port, accepted):
        now = 100.0
        limits = arrival_limits(replace(ServerConfig(), max_connections_peer=2))
        arrivals = Arrivals(limits, OwnSockets(port), clock=lambda: now)
        old = accepted(largest)
        arrivals.look()
        called = accepted(largest)
        await arrivals.read(OneCall(called), one_message=True)
        newer = [accepted(smallest) for _ in range(3)]
        now += 10
        arrivals.look()
        assert arrivals.refused["connections"] == 3
        assert [closed(one) for one in (old, called, *newer)] == [False] * 2 + [True] * 3


async def test_no_more_connections_than_in_all() -> None:
    async with counted(max_connections=3) as (address, kept):
        port = int(address.rpartition(":")[2])
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(9)]
        await until(lambda: kept.open == 3)
        for one in flood:
            one.close()
        await until(lambda: kept.open == 0)
        async with channel_to(address) as channel:
            assert (await stubs.InferenceStub(channel).Predict(HUM)).results


async def test_compressed_messages_are_refused_unless_they_are_asked_for() -> None:
    gzip = grpc.Compression.Gzip
    async with counted() as (address, _), channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.InferenceStub(channel).Predict(HUM, compression=gzip)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await stubs.InferenceStub(channel).Predict(HUM)).results
    async with counted(accept_gzip=True) as (address, _), channel_to(address) as channel:
        assert (await stubs.InferenceStub(channel).Predict(HUM, compression=gzip)).results


async def test_a_certificate_is_judged_before_the_message_has_come(tmp_path: Path) -> None:
    async with secure_listener(tmp_path, mutual=True) as site:
        pem = site.pem
        context = ssl.create_default_context(cafile=str(pem / "ca.pem"))
        context.load_cert_chain(pem / "client-observe.pem", pem / "client-observe.key")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", int(site.address.rpartition(":")[2])))
        wrapped = await asyncio.to_thread(context.wrap_socket, plain, server_hostname="localhost")
        caller = RawConnection.over_socket(wrapped)
        call = caller.call(PREDICT)  # no byte of the message was sent
        await pumped(caller, call)
        assert b"this method needs" in caller.over[call]
        caller.close()


def test_a_flood_of_half_messages_leaves_no_memory_behind(tmp_path: Path) -> None:
    """1.9 GB before messages were counted."""
    body = message(15_900_000) + bytes(15_800_000)
    with program("--warm-pool", "1") as running:
        status = Path(f"/proc/{running.process.pid}/status")
        flood = [RawConnection.to(running.address) for _ in range(4)]
        streams = [(one, one.call(PREDICT, body)) for one in flood for _ in range(15)]

        def over() -> bool:
            for one in flood:
                one.pump()
            return all(stream in one.over for one, stream in streams)

        asyncio.run(until(over, within_s=60))
        most = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
        assert most < 400 * MIB
        asyncio.run(until(lambda: rss_of(status) < 130 * MIB))
        for one in flood:
            one.close()


def rss_of(status: Path) -> int:
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) * 1024


def test_descriptors_are_asked_for_and_counted() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert host.descriptors(300) == 300
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert host.descriptors(100) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
