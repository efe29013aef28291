"""More than a pool can answer: refused early, with a time, and never computed in vain. Counts, no
times: benchmarks/overload.py has those."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc

from proto import inference_pb2 as pb
from proto import replica_pb2
from proto.inference_pb2_grpc import InferenceStub
from server.engine import Engine
from server.replica.batching import Budget
from server.replica.executor import Executor
from server.replica.model import Ready
from server.replica.work_queue import Crew
from server.telemetry.record import FeatureSpec, Record
from tests.support.patience import patience
from tests.support.ruled_engine import hold, ruled, teach
from tests.support.running import channel_to, listener, until
from tests.support.stub_replica import StubModel, stub_config, stub_pool, work
from trefoil.errors import error_of

FULL = pb.PredictRequest(
    examples=[pb.Example(parts=[pb.Part(text="RESOURCE_EXHAUSTED REPLICA_MEMORY")])]
)
HUM = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(text="hum")])])


class CountingModel(StubModel):
    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[str] = []
        self.computed = 0

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        self.prepared.append(work.id)
        return super().prepare(work, example)

    def forward(self, rows: Sequence[Any]) -> Any:
        self.computed += len(rows)
        return super().forward(rows)


def executor(model: CountingModel, ended: threading.Semaphore) -> Executor:
    def sent(message: replica_pb2.FromReplica) -> None:
        for _ in range(message.HasField("done") + len(message.done_batch.items)):
            ended.release()

    made = Executor(model, sent, Budget(8, 1000), Crew(1, shared_cores=False), 4)
    made.start()
    return made


def submit(made: Executor, count: int, expires_in_s: float, text: str = "x") -> None:
    batch = replica_pb2.WorkBatch()
    for number in range(count):
        batch.items.add(id=f"{text}/{number}", expires_in_s=expires_in_s)
    made.submit(batch, [work("", text).example] * count)


def test_an_expired_or_cancelled_row_is_never_decoded() -> None:
    """A third of the replicas' time went into rows that nobody waited for any more."""
    model, ended = CountingModel(), threading.Semaphore(0)
    made = executor(model, ended)
    submit(made, 1, 0.0, "slow 0.3")  # keeps the only decoder
    submit(made, 20, 0.05)
    submit(made, 20, 0.0, "gone")
    made.cancel([f"gone/{number}" for number in range(20)])
    for _ in range(41):
        assert ended.acquire(timeout=patience(20))
    assert model.prepared == ["slow 0.3/0"] and model.computed == 1


def test_a_row_with_less_time_than_its_forward_takes_is_refused_before_it() -> None:
    model, ended = CountingModel(), threading.Semaphore(0)
    made = executor(model, ended)
    for _ in range(30):  # what a row takes here is learned: about 50 ms
        submit(made, 1, 0.0, "sleep 0.05")
        assert ended.acquire(timeout=patience(20))
    before = model.computed
    submit(made, 5, 0.005, "sleep 0.05")
    for _ in range(5):
        assert ended.acquire(timeout=patience(20))
    assert model.computed == before


class Kept:
    """What telemetry would get."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)


async def test_every_request_of_polite_callers_is_answered_or_refused_with_a_time() -> None:
    """128 callers with 1 s each want more than one replica of 10 ms a row can do."""
    config = stub_config(warm_pool=1, max_calls=4096)
    pool, kept = stub_pool(config, rows=2), Kept()
    engine = Engine(config, pool, kept)
    await engine.start()
    row_s = patience(0.01)  # as the deadline: the load stays what it is
    codes: Counter[str] = Counter()
    timeless = attempts = 0
    try:
        await until(lambda: pool.serving == 1)
        async with listener(engine) as address, channel_to(address) as channel:
            stub = InferenceStub(channel)
            request = pb.PredictRequest(
                examples=[pb.Example(parts=[pb.Part(text=f"sleep {row_s}")])]
            )
            for _ in range(10):
                await stub.Predict(request)
            end = time.monotonic() + 3.0

            async def caller() -> None:
                nonlocal timeless, attempts
                while time.monotonic() < end:
                    attempts += 1
                    try:
                        await stub.Predict(request, timeout=patience(1.0))
                        codes["OK"] += 1
                    except grpc.aio.AioRpcError as failed:
                        error = error_of(failed, address)
                        codes[f"{error.code} {error.reason}"] += 1
                        timeless += not error.retry_after_s
                        await asyncio.sleep(error.retry_after_s * (1 + 0.25 * random.random()))

            await asyncio.gather(*(caller() for _ in range(128)))
    finally:
        await engine.stop()
    assert attempts == codes.total() and codes["OK"] and not timeless, codes
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED DEADLINE_UNREACHABLE"}, codes
    assert not [record for record in kept.records if "DEADLINE_UNREACHABLE" in record.error]
    counters = engine.snapshot().counters
    assert counters.refused == codes.total() - codes["OK"]


async def test_a_hurried_connection_is_held_before_its_request_is_received() -> None:
    """And one beside it is answered at once; room lets the hurried one through."""
    async with (
        ruled() as engine,
        listener(engine, default_deadline_s=0.0) as address,
        channel_to(address, use_local_subchannel_pool=1) as hurried,
        channel_to(address, use_local_subchannel_pool=1) as polite,
    ):
        await teach(engine, 0.05)
        for _ in range(2):
            first = await _refused(hurried, address, FULL)
        received = len(engine.received)
        assert received == 2  # there was room for a usual row: it was looked at
        rows = hold(engine, 256)  # of 12 s: too many for a caller with 4 s, not for one without end
        await until(lambda: engine.at_work == 256)
        early = asyncio.create_task(_refused(hurried, address, HUM, 4.0))
        await asyncio.sleep(0.05)
        assert (await InferenceStub(polite).Predict(HUM)).results[0].prediction.label
        error = await early
        assert error.reason == "DEADLINE_UNREACHABLE"
        assert error.retry_after_s >= first.retry_after_s > 0, "no shorter time for coming early"
        assert len(engine.received) == received + 256 + 1  # the polite one's
        engine.gate.open()
        assert all([(await row).answer for row in rows])
        assert (await InferenceStub(hurried).Predict(HUM)).results[0].prediction.label


async def _refused(
    channel: grpc.aio.Channel,
    address: str,
    request: pb.PredictRequest,
    timeout_s: float | None = None,
) -> Any:
    try:
        await InferenceStub(channel).Predict(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as failed:
        return error_of(failed, address)
    raise AssertionError("it was answered")
