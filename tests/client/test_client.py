"""The Python client against real servers on loopback: retries, deadlines, pins, large parts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc
from server.engine import Engine
from tests.support import media_bytes as made
from tests.support.patience import patience
from tests.support.ruled_engine import RuledEngine, full, hold, ruled, served, teach
from tests.support.running import idle_engine, listener, until
from tests.support.stub_replica import STAMP
from trefoil import (
    AsyncClient,
    Client,
    Connection,
    DeadlineExceeded,
    InputRefused,
    Overloaded,
    Prediction,
    RetryPolicy,
    StampMismatch,
    TrefoilError,
    Unavailable,
    image,
    text,
)
from trefoil.options import Options
from trefoil.request import Request
from trefoil.retry_loop import RetryLoop
from trefoil.retry_policy import Deadline
from trefoil.uploads import Uploads

OTHER = "cd" * 32
LARGE = made.sound() + bytes(5 << 20)


@asynccontextmanager
async def withheld_from(rows: int) -> AsyncIterator[RuledEngine]:
    """An engine whose stamp is not the expected one before so many rows have come."""
    async with ruled() as engine:
        engine.why_withheld = lambda: "" if len(engine.received) >= rows else "not this stamp"
        await until(lambda: engine.snapshot().state == "NOT_READY")
        yield engine


@asynccontextmanager
async def drained() -> AsyncIterator[RuledEngine]:
    async with ruled() as engine:
        await engine.drain(0.0)
        yield engine


@asynccontextmanager
async def client_of(
    *engines: Engine, retry_policy: RetryPolicy | None = None
) -> AsyncIterator[AsyncClient]:
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(listener(engine)) for engine in engines]
        client = AsyncClient(addresses, retry_policy=retry_policy or RetryPolicy())
        yield await stack.enter_async_context(client)


async def test_an_answer_is_plain_data_with_where_it_came_from() -> None:
    async with ruled() as engine, client_of(engine) as client:
        found = await client.predict(text("hum"), embedding=True, slices={"site": "a"})
    assert (found.label, found.stamp, found.attempts) == ("ok", STAMP, 1)
    assert found.confidence == pytest.approx(0.7) and found.scores["look"] == pytest.approx(0.15)
    assert found.embedding == (0.5, 0.5, 0.5, 0.5) and found.timings_ms["forward"] > 0
    assert found.server.startswith("127.0.0.1:")


async def test_a_passing_trouble_is_asked_again_with_the_same_request_id() -> None:
    async with withheld_from(2) as engine, client_of(engine) as client:
        found = await client.predict(text("hum"))
    assert (found.label, found.attempts, len(engine.received)) == ("ok", 3, 3)
    assert len({work.request for work in engine.received}) == 1 and engine.received[0].request


async def test_a_full_server_is_called_again_no_sooner_than_it_asked() -> None:
    async with full() as engine, client_of(engine) as client:
        asking = asyncio.create_task(client.predict(text("hum")))
        await until(lambda: engine.refused)
        engine.gate.open()
        found = await asking
    assert found.attempts == 1 + len(engine.refused) == len(engine.received)
    assert engine.came_no_sooner_than_asked()


async def test_no_wait_is_begun_that_the_deadline_would_cut_short() -> None:
    async with ruled() as engine, client_of(engine) as client:
        await teach(engine, 0.05)
        rows = hold(engine, 512)  # of 25 s: it asks for 5 s, the most it asks for
        with pytest.raises(Overloaded) as caught:  # and not, after a wait, DeadlineExceeded
            await client.predict(text("hum"), timeout_s=4.0)
        assert engine.at_work == len(rows)
    assert caught.value.retry_after_s == pytest.approx(5.0) and caught.value.attempts == 1


async def test_a_full_server_does_not_stop_a_call_without_a_session() -> None:
    found = []
    async with full() as busy, ruled() as idle, client_of(busy, idle) as client:
        for _ in range(8):
            found.append(await client.predict(text("hum"), timeout_s=patience(5.0)))
            if busy.refused:  # once
                busy.gate.open()
                await until(lambda: not busy.at_work)
    assert len(busy.refused) <= 1 and sum(one.attempts for one in found) == 8 + len(busy.refused)


async def test_the_deadline_ends_the_call_and_the_work() -> None:
    async with ruled() as engine, client_of(engine) as client:
        with pytest.raises(DeadlineExceeded):
            await client.predict(text("wait"), timeout_s=patience(0.3))
        await until(lambda: engine.counters.cancelled)
        assert len(engine.received) == 1, "not asked again"
        engine.gate.open()
        await until(lambda: not engine.at_work)  # not left running


async def test_all_attempts_share_one_deadline() -> None:
    policy = RetryPolicy(max_attempts=1000, initial_backoff_s=0.05, max_backoff_s=0.05)
    async with drained() as engine, client_of(engine, retry_policy=policy) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.predict(text("hum"), timeout_s=patience(3.0))  # it asks for 1 s each
    assert 1 < len(engine.received) < 1000, "the deadline ended it, not the number of attempts"


async def test_attempts_are_bounded() -> None:
    policy = RetryPolicy(3, 0.01, 0.02)
    async with drained() as engine, client_of(engine, retry_policy=policy) as client:
        with pytest.raises(Unavailable) as caught:
            await client.predict(text("hum"))
    assert (caught.value.attempts, len(engine.received)) == (3, 3)
    assert caught.value.reason == "DRAINING"


async def test_refused_input_is_never_asked_again_and_names_its_field() -> None:
    async with ruled() as one, ruled() as other, client_of(one, other) as client:
        with pytest.raises(InputRefused) as caught:
            await client.predict(text("fine"), text("INVALID_ARGUMENT TOO_DARK"), session="s")
    assert caught.value.field == "examples[0].parts[1].text"
    assert (caught.value.reason, caught.value.attempts) == ("TOO_DARK", 1)


async def test_a_message_no_server_takes_is_refused_input_not_overload() -> None:
    async with ruled() as engine, listener(engine, max_message_bytes=1 << 20) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(InputRefused) as caught:
                await client.predict(image(bytes(2 << 20)))
    assert caught.value.attempts == 1


async def test_another_stamp_is_an_error_with_the_serving_one() -> None:
    async with ruled() as engine:
        async with client_of(engine) as client:
            with pytest.raises(StampMismatch) as caught:
                await client.predict(text("hum"), stamps=OTHER)
            assert (caught.value.serving, caught.value.attempts) == (STAMP, 1)
            found = await client.predict(text("hum"), stamps={OTHER, STAMP})
            assert found.stamp == STAMP
            with pytest.raises(ValueError, match="64 hex digits"):
                await client.predict(text("hum"), stamps=STAMP[:12])
        async with listener(engine) as address, AsyncClient(address, stamps=OTHER) as pinned:
            with pytest.raises(StampMismatch):
                await pinned.predict(text("hum"))
            with pytest.raises(StampMismatch):
                await pinned.generate(text("hum")).read_all()
            assert await pinned.served() == {address: STAMP}


class LosesPins(inference_pb2_grpc.InferenceServicer):
    """Passes requests on to a server without the stamps they expect, as a careless proxy would."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)

    async def Predict(
        self, request: pb.PredictRequest, context: grpc.aio.ServicerContext
    ) -> pb.PredictResponse:
        request.ClearField("expected_stamps")
        answer: pb.PredictResponse = await self._stub.Predict(request)
        return answer


async def test_an_answer_from_a_stamp_that_is_not_pinned_is_not_let_through() -> None:
    async with served() as (engine, channel):
        proxy = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServicer_to_server(LosesPins(channel), proxy)
        port = proxy.add_insecure_port("127.0.0.1:0")
        await proxy.start()
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(StampMismatch) as caught:
                await client.predict(text("hum"), stamps=OTHER)
        await proxy.stop(None)
    assert caught.value.serving == STAMP and engine.counters.answered == 1


async def test_of_several_rows_only_those_in_passing_trouble_are_asked_again() -> None:
    short = text("RESOURCE_EXHAUSTED REPLICA_MEMORY once")
    async with ruled() as engine, client_of(engine) as client:
        rows = [[text("a")], [short], [text("INVALID_ARGUMENT BAD")], [text("b")]]
        first, later, bad, last = await client.predict_many(rows)
    assert isinstance(first, Prediction) and isinstance(last, Prediction)
    assert isinstance(later, Prediction) and later.attempts == 2
    assert isinstance(bad, InputRefused) and bad.field == "examples[2].parts[0].text"
    assert len(engine.received) == 5


async def test_a_large_part_is_uploaded_to_the_server_that_is_asked() -> None:
    async with withheld_from(1) as one, withheld_from(1) as other, client_of(one, other) as client:
        found = await client.predict(text("hum"), image(LARGE), session="s")
    assert found.attempts == 3, "one server, the other, and the first of them again"
    assert sorted((len(one.received), len(other.received))) == [1, 2]
    for engine in (one, other):
        for work in engine.received:
            parts = pb.Example.FromString(work.example).parts
            assert parts[0].text == "hum" and parts[1].data == LARGE


async def test_an_upload_that_a_server_forgot_is_repeated() -> None:
    options, deadline = Options(), Deadline.after(30.0)
    example = pb.Example(parts=[image(LARGE)])
    uploads = Uploads([example], options.metadata("r"))
    async with (
        ruled() as engine,
        listener(engine) as address,
        AsyncClient(address) as client,
    ):
        retries = RetryLoop(client._servers, RetryPolicy(), "", deadline)
        (sent,) = await uploads.examples_for(client._servers.members[0], [0], deadline)
        assert sent.parts[0].upload_id
        uploads._uploads[address][0, 0] = "0" * 32  # as after a restart of the server
        (found,) = await Request("r", 1, options, uploads, retries).answer()
    assert isinstance(found, Prediction) and found.attempts == 1


async def test_nobody_there_is_unavailable_after_a_few_quick_attempts() -> None:
    async with listener(idle_engine()) as address:
        pass
    async with AsyncClient(address, retry_policy=RetryPolicy(3, 0.01, 0.02)) as client:
        with pytest.raises(Unavailable) as caught:
            await client.predict(text("hum"))
        (refusal,) = (await client.served()).values()
    assert caught.value.reason == "" and caught.value.server == address
    assert isinstance(refusal, Unavailable)


async def test_a_closed_client_reports_it() -> None:
    async with ruled() as engine, listener(engine) as address:
        client = Client(address)
        reading: Any = iter(client.generate(text("hum")))
        assert await asyncio.to_thread(next, reading) == "smoke "
        await asyncio.to_thread(client.close)
        reading.close()
        with pytest.raises(TrefoilError, match="closed"):
            client.predict(text("hum"))
        client.close()


@pytest.mark.parametrize(
    ("servers", "balance", "complaint"),
    [
        ((), "rendezvous", "at least one"),
        (("a:1", "a:1"), "rendezvous", "each address once"),
        (("a:1",), "dice", "neither"),
        (("name:1",), "ring_hash", "numeric"),
        (("127.0.0.1:1", "[::1]:1"), "ring_hash", "one ring"),
    ],
)
async def test_what_cannot_be_balanced_is_reported(
    servers: tuple[str, ...], balance: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        AsyncClient(servers, balance=balance)
    with pytest.raises(ValueError, match=complaint):
        Client(servers, balance=balance)
    assert all(thread.name != "trefoil" for thread in threading.enumerate()), "none is left"


async def test_a_connection_calls_any_stub_once_and_raises_the_same_errors() -> None:
    async with (
        withheld_from(1) as engine,
        listener(engine) as address,
        Connection(address) as connection,
    ):
        stub = inference_pb2_grpc.InferenceStub(connection.channel)
        request = pb.PredictRequest(examples=[pb.Example(parts=[text("hum")])])
        with pytest.raises(Unavailable) as refused:
            await connection.unary(stub.Predict, request)
        assert (refused.value.reason, len(engine.received)) == ("NOT_EXPECTED_STAMP", 1)
        assert not refused.value.unreachable
        request.ClearField("examples")
        with pytest.raises(InputRefused) as caught:
            await connection.unary(stub.Predict, request)
        assert (caught.value.field, caught.value.server) == ("examples", address)
        await until(lambda: engine.snapshot().state == "READY")
        asked = pb.GenerateRequest(example=pb.Example(parts=[text("hum")]))
        events = [event async for event in connection.stream(stub.Generate, asked)]
        assert events[-1].HasField("end")
    with pytest.raises(Unavailable) as gone:
        async with Connection(address) as connection:
            stub = inference_pb2_grpc.InferenceStub(connection.channel)
            await connection.unary(stub.Describe, pb.DescribeRequest())
    assert gone.value.unreachable


async def test_a_connection_uploads_what_is_too_large_for_a_message() -> None:
    async with listener(idle_engine()) as address, Connection(address) as connection:
        example = pb.Example(parts=[text("hum"), image(LARGE)], slices={"site": "a"})
        sent = await connection.upload(example, 30.0)
    assert sent.parts[0].text == "hum" and sent.parts[1].upload_id and not sent.parts[1].data
    assert dict(sent.slices) == {"site": "a"}


async def test_a_fault_of_a_row_reads_like_the_refusal_of_a_call() -> None:
    async with ruled() as engine, client_of(engine) as client:
        bad = text("INVALID_ARGUMENT TOO_DARK")
        of_row, _ = await client.predict_many([[bad], [text("hum")]])
        with pytest.raises(InputRefused) as of_call:
            await client.predict(bad)
    assert isinstance(of_row, InputRefused) and of_row.message == of_call.value.message
    assert of_row.message.startswith("examples[0].parts[0].text: ")
    assert of_row.message.endswith(" [TOO_DARK]")


def test_the_time_a_server_names_is_waited_for_and_a_little_more() -> None:
    """Callers that were given the same time do not come back at the same moment."""
    policy = RetryPolicy(initial_backoff_s=0.01)
    for error in (Overloaded("full", retry_after_s=2.0), Unavailable("warming", retry_after_s=2.0)):
        waits = [policy.wait_s(error, 1, False, iter([n / 10]).__next__) for n in range(11)]
        assert waits[0] == 2.0 and waits[-1] == 2.5
        assert len(set(waits)) == 11
    assert (policy.wait_s(Unavailable("gone"), 1, False) or 1.0) <= 0.01
