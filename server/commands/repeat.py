"""A small closed-loop load: the same request repeatedly, with a fixed number in flight."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import grpc
from tqdm import tqdm

from proto import inference_pb2 as pb
from server.commands.client import CommandConnection
from server.telemetry.outputs import STAGES
from trefoil import TrefoilError, Unavailable
from trefoil.errors import error_of, error_of_fault

# A refused caller waits for the server's retry time, or this long.
BACK_OFF_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    repeat: int
    concurrency: int
    unary: bool  # each request is a call; otherwise all share one stream
    timeout_s: float


@dataclass(slots=True)
class Summary:
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    stages_ms: Counter[str] = field(default_factory=Counter)
    batch_rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_error: TrefoilError | None = None
    gone: bool = False  # the server is no longer reachable: the load ends early

    def plain(self) -> dict[str, Any]:
        answered = max(len(self.latencies_ms), 1)
        return {
            "answered": len(self.latencies_ms),
            "errors": dict(self.errors),
            "seconds": round(self.seconds, 3),
            "per_second": round(len(self.latencies_ms) / max(self.seconds, 1e-9), 2),
            "latency_ms": {f"p{percent}": self._percentile(percent) for percent in (50, 95, 99)},
            "mean_timings_ms": {
                stage: round(self.stages_ms[stage] / answered, 3) for stage in STAGES
            },
            "mean_batch_size": round(self.batch_rows / answered, 2),
        }

    def readable(self) -> str:
        found = self.plain()
        latency, stages = found["latency_ms"], found["mean_timings_ms"]
        lines = [
            f"{found['answered']} answered in {found['seconds']:.2f} s: "
            f"{found['per_second']:.1f} a second, batches of {found['mean_batch_size']:.1f}",
            f"  latency  p50 {latency['p50']:.1f}  p95 {latency['p95']:.1f}  "
            f"p99 {latency['p99']:.1f} ms, as seen from here",
            "  stages   " + "  ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items()) + " ms",
        ]
        lines += [f"  {count} x {reason}" for reason, count in self.errors.most_common()]
        return "\n".join(lines)

    def add(self, result: pb.Result, took_ms: float) -> None:
        self.latencies_ms.append(took_ms)
        self.batch_rows += result.batch_size
        for stage in STAGES:
            self.stages_ms[stage] += getattr(result.timing, f"{stage}_ms")

    def fail(self, error: TrefoilError) -> None:
        self.errors[f"{error.code} {error.reason}".strip()] += 1
        self.first_error = self.first_error or error
        self.gone = self.gone or error.unreachable

    def _percentile(self, percent: int) -> float:
        """The smallest latency that at least `percent` % of the answers did not exceed."""
        ordered = sorted(self.latencies_ms)
        rank = -(-percent * len(ordered) // 100)
        return round(ordered[rank - 1], 3) if ordered else 0.0


class PredictStream:
    """Requests over one stream, each awaited separately. Costs half as much as one call for
    each."""

    def __init__(self, client: CommandConnection) -> None:
        self._call = client.inference.PredictStream()
        self._server = client.address
        self._waiting: dict[str, asyncio.Future[pb.PredictResponse]] = {}
        self._writing = asyncio.Lock()
        self._error: TrefoilError = Unavailable("the stream was closed", "UNAVAILABLE")
        self._reader = asyncio.create_task(self._read())

    async def predict(self, request: pb.PredictRequest) -> pb.PredictResponse:
        """`request.request_id` must be unique among those in flight."""
        answer: asyncio.Future[pb.PredictResponse] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        try:
            async with self._writing:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._reader
            raise self._error from None
        return await answer

    async def close(self) -> None:
        if not self._reader.done():
            await self._call.done_writing()
        await self._reader

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._waiting.pop(response.request_id).set_result(response)
        except grpc.aio.AioRpcError as error:
            self._error = error_of(error, self._server)
        for answer in self._waiting.values():
            answer.set_exception(self._error)
        self._waiting.clear()


async def run_load(
    client: CommandConnection, request: pb.PredictRequest, load: Load, progress: TextIO
) -> Summary:
    """Send the request `load.repeat` times; a refused caller backs off and is counted."""
    summary = Summary()
    stream = None if load.unary else PredictStream(client)
    left = iter(range(load.repeat))

    async def send(one: pb.PredictRequest) -> pb.PredictResponse:
        if stream is None:
            return await client.unary(client.inference.Predict, one, load.timeout_s)
        async with asyncio.timeout(load.timeout_s):
            return await stream.predict(one)

    with tqdm(total=load.repeat, unit="req", file=progress, leave=False) as bar:

        async def caller() -> None:
            for number in left:  # shared: each number goes to one caller
                if summary.gone:
                    return
                await _once(send, request, number, summary)
                bar.update()

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(min(load.concurrency, load.repeat))))
        summary.seconds = time.perf_counter() - began
    if stream is not None:
        await stream.close()
    return summary


async def _once(
    send: Callable[[pb.PredictRequest], Awaitable[pb.PredictResponse]],
    request: pb.PredictRequest,
    number: int,
    summary: Summary,
) -> None:
    one = pb.PredictRequest()
    one.CopyFrom(request)
    one.request_id = str(number)
    began = time.perf_counter()
    try:
        (result,) = (await send(one)).results
        if result.HasField("fault"):
            raise error_of_fault(result.fault, result.stamp, "")
    except TimeoutError:
        summary.errors["DEADLINE_EXCEEDED"] += 1
    except TrefoilError as error:
        summary.fail(error)
        await asyncio.sleep(error.retry_after_s or BACK_OFF_S)
    else:
        summary.add(result, (time.perf_counter() - began) * 1e3)
