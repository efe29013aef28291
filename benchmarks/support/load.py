"""Closed-loop load: each caller sends its next request when its last one is answered.

Runs as its own process and takes one JSON command on each line of standard input ({"targets":
[...], "callers": C, "seconds": S, "mode": "stream" | "unary"}), so that its imports are paid once.
Answers one JSON line. Used by benchmarks/serve.py; the same client for every server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import grpc

from benchmarks.support.payloads import pool
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub

CHANNEL = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
Send = Callable[[pb.PredictRequest], Awaitable[pb.PredictResponse]]


class StreamCaller:
    """Requests of many callers over one bidirectional stream, matched by id."""

    def __init__(self, stub: InferenceStub) -> None:
        self._call = stub.PredictStream()
        self._waiting: dict[str, asyncio.Future[pb.PredictResponse]] = {}
        self._reader = asyncio.create_task(self._read())
        self._write = asyncio.Lock()

    async def __call__(self, request: pb.PredictRequest) -> pb.PredictResponse:
        answer: asyncio.Future[pb.PredictResponse] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        async with self._write:  # grpc.aio allows one writer at a time
            await self._call.write(request)
        return await answer

    async def _read(self) -> None:
        async for response in self._call:
            self._waiting.pop(response.request_id).set_result(response)

    async def close(self) -> None:
        await self._call.done_writing()
        await self._reader


async def caller(
    send: Send, index: int, examples: list[pb.Example], until: float, times: list[float]
) -> int:
    failed = 0
    turn = index * 7
    while not times or time.perf_counter() < until:  # at least one request, however short the time
        request = pb.PredictRequest(request_id=f"{index}-{turn}")
        request.examples.append(examples[turn % len(examples)])
        turn += 1
        began = time.perf_counter()
        try:
            answer = await send(request)
            failed += not answer.results[0].HasField("prediction")
        except grpc.aio.AioRpcError:
            failed += 1
        times.append(time.perf_counter() - began)
    return failed


def at(times: list[float], share: float) -> float:
    """Milliseconds at this quantile; 0 when nothing was measured."""
    if not times:
        return 0.0
    return 1000 * sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def run(command: dict[str, object], examples: list[pb.Example]) -> dict[str, float]:
    targets = [str(t) for t in command["targets"]]  # type: ignore[attr-defined]
    channels = [grpc.aio.insecure_channel(t, options=CHANNEL) for t in targets]
    stubs = [InferenceStub(channel) for channel in channels]
    streams = [StreamCaller(stub) for stub in stubs] if command["mode"] == "stream" else []
    sends: list[Send] = list(streams) or [stub.Predict for stub in stubs]
    times: list[float] = []
    began = time.perf_counter()
    until = began + float(command["seconds"])  # type: ignore[arg-type]
    callers = int(command["callers"])  # type: ignore[call-overload]
    failed = await asyncio.gather(
        *(caller(sends[i % len(sends)], i, examples, until, times) for i in range(callers))
    )
    took = time.perf_counter() - began
    for stream in streams:
        await stream.close()
    for channel in channels:
        await channel.close()
    return {
        "rps": len(times) / took,
        "p50_ms": at(times, 0.5),
        "p95_ms": at(times, 0.95),
        "p99_ms": at(times, 0.99),
        "failed": float(sum(failed)),
        "requests": float(len(times)),
    }


def main() -> None:
    examples = pool(48)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line), examples))), flush=True)


if __name__ == "__main__":
    main()
