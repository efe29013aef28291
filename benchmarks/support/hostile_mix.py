"""The attacks of a hostile peer on a server, each kind repeated, at a low CPU priority.

Runs as its own process until it is ended:

    python -m benchmarks.support.hostile_mix ADDRESS SCRAPE [ONLY]

ONLY: the kinds whose name has this text, else all.

One JSON line names the kinds before it begins; another at the end has how often each was carried
out, refusals included. Payloads that attack decoders are in tests/pipelines instead.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto import inference_pb2 as pb
from proto import observe_pb2
from proto.inference_pb2_grpc import InferenceStub
from proto.observe_pb2_grpc import ObserveStub
from server.api import open_inference_messages as v2
from server.request.wire import EXAMPLE, varint
from tests.support.raw_http2 import RawConnection, frame, message

MIB = 1 << 20
PREDICT = "/trefoil.v1.Inference/Predict"
STREAM = "/trefoil.v1.Inference/PredictStream"
FACE = "\N{GRINNING FACE}"
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_concurrent_streams", 4096)]
CALL_S = 20.0
PAUSE_S = 4.0  # between two attacks of one kind


def text_row(text: str = "hum") -> pb.Example:
    return pb.Example(parts=[pb.Part(text=text)])


def inputs() -> bytes:
    """A ModelInfer request with 10,000 tiny inputs."""
    request = v2.ModelInferRequest(model_name="triage")
    for _ in range(10_000):
        one = request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
        one.contents.bytes_contents.append(b"a")
    return bytes(request.SerializeToString())


def pins() -> bytes:
    """A request with 200,000 expected stamps and 64 rows."""
    stamps = [f"{index:064x}" for index in range(200_000)]
    return bytes(
        pb.PredictRequest(examples=[text_row()] * 64, expected_stamps=stamps).SerializeToString()
    )


def parts() -> bytes:
    """A request of 16 MB with one row of 8 million empty parts."""
    row = b"\x0a\0" * 8_000_000
    return EXAMPLE + varint(len(row)) + row


def tagged() -> bytes:
    row = text_row()
    row.slices.update({f"{number:x}" + FACE * 255: FACE * 256 for number in range(16)})
    return bytes(pb.PredictRequest(examples=[row]).SerializeToString())


class Mix:
    """One method for each kind; each carries out its attack once."""

    def __init__(self, address: str, scrape: str, only: str = "") -> None:
        self.address = address
        self.scrape = scrape
        self.only = only
        self.done: Counter[str] = Counter()
        self.bodies = {"inputs": inputs(), "pins": pins(), "tags": tagged(), "parts": parts()}
        self.half = message(15_900_000) + bytes(15_800_000)
        self.bomb = gzip.compress(bytes(16_500_000))

    async def run(self) -> None:
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "half messages": self.half_messages,
            "half messages in streams": self.half_streams,
            "compressed bombs": self.bombs,
            "health watches": self.watches,
            "observers at 0.1 s": self.observers,
            "10,000 inputs": lambda: self.call(
                "/inference.GRPCInferenceService/ModelInfer", "inputs"
            ),
            "200,000 pins": lambda: self.call(PREDICT, "pins"),
            "8 million parts": lambda: self.call(PREDICT, "parts"),
            "tags of emoji": lambda: self.call(PREDICT, "tags"),
            "one upload in 32 parts": self.upload,
            "uploads with long types": self.long_types,
            "2,000 calls at once": self.burst,
            "feedback": self.feedback,
            "empty connections": self.connections,
            "idle streams": self.streams,
            "garbage": self.garbage,
            "half scrapes": self.scrapes,
            "labels in JSON": self.nested,
            "predictions": self.predictions,
        }
        kinds = {name: attack for name, attack in kinds.items() if self.only in name}
        print(json.dumps(list(kinds)), flush=True)
        async with asyncio.TaskGroup() as group:
            for kind, attack in kinds.items():
                group.create_task(self.again(kind, attack))

    async def again(self, kind: str, attack: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError, OSError, asyncio.InvalidStateError, TimeoutError):
                await asyncio.wait_for(attack(), 2 * CALL_S)
            self.done[kind] += 1
            await asyncio.sleep(PAUSE_S)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=OPTIONS)

    async def call(self, path: str, body: str) -> None:
        async with self.channel() as channel:
            await channel.unary_unary(path)(self.bodies[body], timeout=CALL_S)

    # ---- before a call has begun ---------------------------------------------------------------

    async def half_messages(self, path: str = PREDICT, calls: int = 12) -> None:
        connection = await asyncio.to_thread(RawConnection.to, self.address)
        streams = [connection.call(path, self.half) for _ in range(calls)]
        for _ in range(80):
            connection.pump()
            if connection.closed or all(stream in connection.over for stream in streams):
                break
            await asyncio.sleep(0.05)
        connection.close()

    async def half_streams(self) -> None:
        await self.half_messages(STREAM, 6)

    async def bombs(self) -> None:
        connection = await asyncio.to_thread(RawConnection.to, self.address)
        body = b"\1" + len(self.bomb).to_bytes(4, "big") + self.bomb
        encoding = (("grpc-encoding", "gzip"),)
        for _ in range(250):
            connection.call(PREDICT, body, encoding)
            connection.pump()
        for _ in range(20):
            connection.pump()
            await asyncio.sleep(0.05)
        connection.close()

    async def connections(self) -> None:
        host, _, port = self.address.rpartition(":")
        where = (host.strip("[]"), int(port))
        made = [socket.create_connection(where, 2) for _ in range(600)]
        await asyncio.sleep(3)
        for one in made:
            one.close()

    async def garbage(self) -> None:
        connection = await asyncio.to_thread(RawConnection.to, self.address)
        connection.call(PREDICT, os.urandom(60_000))
        connection.sock.sendall(frame(0xFE, 0xFF, 7, b"?" * 100) + os.urandom(5000))
        connection.pump(0.2)
        connection.close()

    async def scrapes(self) -> None:
        host, _, port = self.scrape.rpartition(":")
        made = [socket.create_connection((host, int(port)), 2) for _ in range(40)]
        for one in made:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        await asyncio.sleep(2)
        for one in made:
            one.close()

    # ---- calls ---------------------------------------------------------------------------------

    async def watches(self) -> None:
        async with AsyncExitStack() as stack:
            calls = []
            for _ in range(9):
                channel = await stack.enter_async_context(self.channel())
                stub = health_pb2_grpc.HealthStub(channel)
                calls += [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
            await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
            await asyncio.sleep(3)

    async def observers(self) -> None:
        async with self.channel() as channel:
            request = observe_pb2.WatchRequest(interval_s=0.1)
            calls = [ObserveStub(channel).Watch(request) for _ in range(100)]
            await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
            await asyncio.sleep(3)

    async def streams(self) -> None:
        async with self.channel() as channel:
            calls = [InferenceStub(channel).PredictStream() for _ in range(600)]
            await asyncio.sleep(3)
            for call in calls:
                call.cancel()

    async def upload(self) -> None:
        async def pieces() -> object:
            header = pb.UploadHeader(total_bytes=30 * MIB, mime_type="image/png")
            yield pb.UploadChunk(header=header)
            for _ in range(30):
                yield pb.UploadChunk(data=bytes(MIB))

        async with self.channel() as channel:
            stub = InferenceStub(channel)
            kept = await stub.Upload(pieces(), timeout=CALL_S)
            parts = [pb.Part(upload_id=kept.upload_id)] * 32
            await stub.Predict(
                pb.PredictRequest(examples=[pb.Example(parts=parts)]), timeout=CALL_S
            )

    async def long_types(self) -> None:
        async def header() -> object:
            long = pb.UploadHeader(total_bytes=60, mime_type="x" * (15 * MIB))
            yield pb.UploadChunk(header=long)

        async with self.channel() as channel:
            for _ in range(3):
                with suppress(grpc.aio.AioRpcError):
                    await InferenceStub(channel).Upload(header(), timeout=CALL_S)

    async def burst(self) -> None:
        request = pb.PredictRequest(examples=[pb.Example()])
        async with self.channel() as channel:
            stub = InferenceStub(channel)
            calls = (stub.Predict(request, timeout=CALL_S) for _ in range(2000))
            await asyncio.gather(*calls, return_exceptions=True)

    async def feedback(self) -> None:
        items = [
            pb.FeedbackItem(prediction_id=f"{n:032x}", label=FACE * 900, source=FACE * 900)
            for n in range(1000)
        ]
        async with self.channel() as channel:
            await InferenceStub(channel).Feedback(pb.FeedbackRequest(items=items), timeout=CALL_S)

    async def nested(self) -> None:
        async with self.channel() as channel:
            request = v2.ModelInferRequest(model_name="triage")
            one = request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
            one.contents.bytes_contents.append(b"a")
            request.parameters["labels"].string_param = "[" * 100_000 + "]" * 100_000
            path = "/inference.GRPCInferenceService/ModelInfer"
            await channel.unary_unary(path)(request.SerializeToString(), timeout=CALL_S)

    async def predictions(self) -> None:
        """Valid requests, as many as one connection may have open."""
        request = pb.PredictRequest(examples=[text_row(f"row {n}") for n in range(8)])
        async with self.channel() as channel:
            await InferenceStub(channel).Predict(request, timeout=CALL_S)


async def attack(address: str, scrape: str, only: str = "") -> None:
    mix = Mix(address, scrape, only)
    running = asyncio.create_task(mix.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with suppress(asyncio.CancelledError):
        await running
    print(json.dumps(mix.done), flush=True)


if __name__ == "__main__":
    os.nice(10)  # the server is measured, not the attacking client
    asyncio.run(attack(*sys.argv[1:]))
    os._exit(0)
