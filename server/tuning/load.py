"""Short loads on one server: closed loop (each caller waits for its answer) and open loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from server.tuning.objective import LoadResult, Trial, TuningObjective

CALLERS = (1, 4, 16, 64)
# If more callers bring less than this much more throughput, still more callers will bring none.
GAIN = 1.05

# The server is on this host, which an `http_proxy` cannot reach.
HERE = (("grpc.enable_http_proxy", 0),)


class Loader:
    """Sends `examples` in turn to one server over one channel. Payloads are encoded only once."""

    def __init__(
        self, target: str, examples: Sequence[pb.Example], objective: TuningObjective
    ) -> None:
        self._channel = grpc.aio.insecure_channel(
            target, [("grpc.use_local_subchannel_pool", 1), *HERE]
        )
        self._predict: Any = InferenceStub(self._channel).Predict  # type: ignore[no-untyped-call]
        self._requests = [pb.PredictRequest(examples=[one]) for one in examples]
        self._objective = objective

    async def close(self) -> None:
        await self._channel.close()

    async def trial(self, seconds: float) -> Trial:
        """Loads of `seconds` each with 1, 4, 16 and 64 callers, until more callers bring no
        gain."""
        loads: list[LoadResult] = []
        for callers in CALLERS:
            loads.append(await self.closed(callers, seconds))
            if len(loads) > 1 and loads[-1].per_second < GAIN * loads[-2].per_second:
                break
            if not self._objective.met(loads[-1]):
                break
        return Trial(tuple(loads))

    async def closed(self, callers: int, seconds: float) -> LoadResult:
        measured = _Measured()
        turn = itertools.cycle(self._requests)
        began = time.perf_counter()
        until = began + seconds

        async def caller() -> None:
            while time.perf_counter() < until:
                if not await self._once(next(turn), measured):
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(caller() for _ in range(callers)))
        return measured.result(callers, time.perf_counter() - began)

    async def open(self, per_second: float, seconds: float, seed: int = 1) -> LoadResult:
        """Arrivals at random times (a Poisson process), whether or not answers come back."""
        measured = _Measured()
        turn = itertools.cycle(self._requests)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for at_s in _arrivals(per_second, seconds, seed):
                await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
                group.create_task(self._once(next(turn), measured))
        return measured.result(0, max(seconds, 1e-9))

    async def _once(self, request: pb.PredictRequest, measured: _Measured) -> bool:
        began = time.perf_counter()
        with contextlib.suppress(grpc.aio.AioRpcError):
            response = await self._predict(request, timeout=self._objective.deadline_s)
            if not response.results[0].HasField("fault"):
                measured.latencies_ms.append((time.perf_counter() - began) * 1e3)
                return True
        measured.failed += 1
        return False


class _Measured:
    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.failed = 0

    def result(self, callers: int, seconds: float) -> LoadResult:
        return LoadResult(callers, seconds, tuple(self.latencies_ms), self.failed)


def _arrivals(per_second: float, seconds: float, seed: int) -> Iterator[float]:
    drawn, at_s = random.Random(seed), 0.0
    while (at_s := at_s + drawn.expovariate(per_second)) < seconds:
        yield at_s
