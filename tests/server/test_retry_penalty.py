"""Connections that come back too early are held, with a clock set by the test."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.handlers import PACED_BYTES, Handlers
from server.api.retry_penalty import RefusalPace, RetryPenalty
from server.request.status import Refused, bad_input
from server.types import Fault


class Sleeper:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def penalty(time: Sleeper, **bounds: float) -> RetryPenalty:
    return RetryPenalty(clock=time, sleep=time.sleep, **bounds)  # type: ignore[arg-type]


async def test_a_hurried_call_waits_until_the_time_its_connection_was_given() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    assert not await retry_penalty.hold("a", None)
    retry_penalty.refused("a", 0.5)
    time.now += 0.1
    assert await retry_penalty.hold("a", None)
    assert time.slept == [0.4]


async def test_a_caller_who_waits_as_asked_is_never_held() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    for _ in range(3):
        retry_penalty.refused("a", 0.5)
        time.now += 0.5
        assert not await retry_penalty.hold("a", None)
    assert not retry_penalty.active


async def test_connections_do_not_slow_each_other() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    retry_penalty.refused("a", 0.5)
    assert retry_penalty.early_s("a") == 0.5
    assert retry_penalty.early_s("b") == 0.0


async def test_a_connection_of_many_callers_has_a_refusal_for_each_of_them() -> None:
    """Its other callers were held for the refusal of the first."""
    time = Sleeper()
    retry_penalty = penalty(time)
    with retry_penalty.open_call("a"), retry_penalty.open_call("a"), retry_penalty.open_call("a"):
        for _ in range(2):
            retry_penalty.refused("a", 0.6)
            assert retry_penalty.early_s("a") == 0.0
        retry_penalty.refused("a", 0.6)
    assert round(retry_penalty.early_s("a"), 6) == 0.2  # a third of the time: one of three
    time.now += 0.6
    assert retry_penalty.early_s("a") == 0.0


async def test_callers_that_wait_are_still_counted() -> None:
    """They have no call open: a caller beside them that was answered was held as an early one."""
    time = Sleeper()
    retry_penalty = penalty(time)
    with retry_penalty.open_call("a"), retry_penalty.open_call("a"), retry_penalty.open_call("a"):
        pass
    while time.now < 200.0:
        retry_penalty.refused("a", 3.0)
        assert retry_penalty.early_s("a") == 0.0
        time.now += 1.5  # two of three wait at every moment
    time.now += 100.0
    retry_penalty.refused("a", 3.0)
    assert retry_penalty.early_s("a") > 0, "callers that left are forgotten"


async def test_one_hurried_caller_is_not_taken_for_many() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    refusals = 0
    while time.now < 110.0:
        with retry_penalty.open_call("a"):
            await retry_penalty.hold("a", None)
            retry_penalty.refused("a", 0.5)
        refusals += 1
        time.now += 0.01
    assert refusals <= 10.0 / 0.5 + 2


async def test_a_hold_is_bounded_in_time_and_leaves_a_deadline_its_rest() -> None:
    time = Sleeper()
    retry_penalty = penalty(time, longest_s=1.0)
    retry_penalty.refused("a", 30.0)
    for remaining_s in (None, 0.5, 0.1):
        await retry_penalty.hold("a", remaining_s)
    assert time.slept == [1.0, 0.4, 0.05]


async def test_memory_of_connections_and_number_of_sleepers_are_bounded() -> None:
    time = Sleeper()
    retry_penalty = penalty(time, most_peers=2, most_held=0)
    for peer in "abcab":
        with retry_penalty.open_call(peer):
            retry_penalty.refused(peer, 0.5)
            assert not await retry_penalty.hold(peer, None)
    assert time.slept == [] and len(retry_penalty._peers) == 2


class Still:
    """A clock that stands, and what was slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))


def pace(time: Still, **bounds: float) -> RefusalPace:
    return RefusalPace(clock=time, sleep=time.sleep, **bounds)  # type: ignore[arg-type]


async def test_refusals_of_a_host_leave_at_a_rate_after_a_burst() -> None:
    time = Still()
    paced = pace(time, per_s=10.0, burst=3, longest_s=0.25)
    for _ in range(8):
        await paced.hold("a", None)
    assert time.slept == [0.1, 0.2, 0.25, 0.25, 0.25]
    await paced.hold("b", None)
    assert len(time.slept) == 5, "another host is not slowed"
    time.now += 10
    for _ in range(3):
        await paced.hold("a", None)
    assert len(time.slept) == 5, "and one that pauses has its burst again"


async def test_a_paced_refusal_comes_before_the_deadline() -> None:
    time = Still()
    paced = pace(time, per_s=1.0, burst=0, longest_s=5.0)
    for remaining_s in (3.0, 0.1, None):
        await paced.hold("a", remaining_s)
    assert time.slept == [1.0, 0.05, 3.0]


async def test_pacing_is_bounded() -> None:
    time = Still()
    paced = pace(time, burst=0, most_hosts=2, most_held=0)
    for host in ("a", "b", "c"):
        await paced.hold(host, None)
    assert time.slept == [] and len(paced._due) == 2


class Refusing:
    """A service that refuses every call, one without bytes for a reason of its own."""

    async def Predict(self, data: bytes, _context: Any) -> pb.PredictResponse:
        if data:
            raise Refused(bad_input("examples", "TOO_MANY", "too many rows"))
        raise Refused(Fault("UNAVAILABLE", "", "DRAINING", "the server drains"))


async def test_only_a_small_request_at_fault_is_paced() -> None:
    """A large one would be kept in memory while its refusal waits."""
    time = Still()
    handlers = Handlers(lambda: None, RetryPenalty(), pace(time, per_s=10.0, burst=0))
    server = grpc.aio.server()
    service = pb.DESCRIPTOR.services_by_name["Inference"]
    server.add_generic_rpc_handlers((handlers.of(service, Refusing()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = stubs.InferenceStub(channel)
        large = pb.PredictRequest(request_id="r" * (PACED_BYTES + 1))
        for request in (pb.PredictRequest(), pb.PredictRequest(request_id="r"), large):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Predict(request)
    await server.stop(0)
    assert time.slept == [0.1]
