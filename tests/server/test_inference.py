"""The native service over real gRPC, around an engine whose replica answers by rules."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from tests.support.patience import patience
from tests.support.ruled_engine import full, served
from tests.support.ruled_replica import LABELS
from tests.support.running import channel_to, idle_engine, listener, until
from tests.support.stub_replica import STAMP

MANY_SLICES = {f"tag{index}": "v" for index in range(17)}


def example(*texts: str, **slices: str) -> pb.Example:
    return pb.Example(parts=[pb.Part(text=text) for text in texts], slices=slices)


def request(*examples: pb.Example, **fields: Any) -> pb.PredictRequest:
    return pb.PredictRequest(examples=examples, **fields)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The packed details of a refusal, by the name of their type."""
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        found[kind.DESCRIPTOR.name] = message = kind()
        packed.Unpack(message)
    return found


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_answer_carries_scores_timing_and_the_stamp_in_body_and_trailer() -> None:
    async with served() as (_, channel):
        call = stubs.InferenceStub(channel).Predict(request(example("hum"), request_id="r1"))
        response = await call
        trailing = dict(await call.trailing_metadata())
    (result,) = response.results
    assert response.request_id == "r1"
    assert response.stamp.hex == result.stamp == trailing["trefoil-stamp"] == STAMP
    assert [score.label for score in result.prediction.scores] == list(LABELS)
    stages = [value for field, value in result.timing.ListFields() if field.name != "total_ms"]
    assert result.timing.forward_ms > 0 and result.batch_size == 1
    assert sum(stages) == pytest.approx(result.timing.total_ms, rel=1e-4)
    assert len(result.prediction_id) == 32


async def test_caller_without_a_deadline_has_the_servers_own() -> None:
    before = time.monotonic()
    async with served(default_deadline_s=3600.0) as (engine, channel):
        await stubs.InferenceStub(channel).Predict(request(example("hum")))
    (work,) = engine.received
    assert work.deadline is not None and work.deadline >= before + 3600.0


async def test_default_deadline_of_nought_is_none() -> None:
    async with served(default_deadline_s=0.0) as (engine, channel):
        await stubs.InferenceStub(channel).Predict(request(example("hum")))
    (work,) = engine.received
    assert work.deadline is None


async def test_parts_reach_the_engine_as_sent_and_in_order() -> None:
    sent = pb.Example(
        parts=[
            pb.Part(data=b"RIFF1234WAVE", id="a"),
            pb.Part(text="between"),
            pb.Part(modality=pb.IMAGE, data=b"\x89PNG", mime_type="image/png"),
        ],
        slices={"site": "b"},
    )
    async with served() as (engine, channel):
        metadata = (("trefoil-client", "press-7"), ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))
        await stubs.InferenceStub(channel).Predict(
            request(sent, session_id="s", priority=pb.HIGH, no_payload_sample=True),
            metadata=metadata,
            timeout=patience(30),
        )
    (work,) = engine.received
    assert work.example == sent.SerializeToString()
    assert (work.mix, work.slices, work.client) == ("audio+image+text", {"site": "b"}, "press-7")
    assert (work.session, work.priority, work.keep_payload) == ("s", 0, False)
    assert work.trace_parent == f"00-{'a' * 32}-{'b' * 16}-01"
    assert work.deadline is not None and work.estimated_tokens > 0


async def test_client_is_host_and_program_when_it_does_not_name_itself() -> None:
    async with served() as (engine, channel):
        await stubs.InferenceStub(channel).Predict(request(example("hum")))
    assert engine.received[0].client.startswith("127.0.0.1 grpc-python")


async def test_one_bad_row_never_fails_the_others() -> None:
    rows = [example("hum"), pb.Example(), example("INVALID_ARGUMENT TOO_DARK"), example("hiss")]
    async with served() as (_, channel):
        response = await stubs.InferenceStub(channel).Predict(request(*rows))
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["prediction", "fault", "fault", "prediction"]
    assert response.results[1].fault.field == "examples[1].parts"
    assert response.results[2].fault.field == "examples[2].parts[0].text"
    assert response.results[2].fault.reason == "TOO_DARK"


async def test_a_single_bad_row_is_a_status_with_details() -> None:
    async with served() as (_, channel):
        bad = request(example("hum", "INVALID_ARGUMENT TOO_DARK"))
        error = await refusal(stubs.InferenceStub(channel).Predict(bad))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(error)
    (violation,) = found["BadRequest"].field_violations
    assert (violation.field, violation.reason) == ("examples[0].parts[1].text", "TOO_DARK")
    assert found["ErrorInfo"].reason == "TOO_DARK"
    assert found["ErrorInfo"].metadata["stamp"] == STAMP
    assert dict(error.trailing_metadata())["trefoil-stamp"] == STAMP


async def test_several_bad_rows_are_faults_of_an_answered_request() -> None:
    rows = [example("INVALID_ARGUMENT A"), example("INVALID_ARGUMENT B")]
    async with served() as (_, channel):
        response = await stubs.InferenceStub(channel).Predict(request(*rows))
    assert [result.fault.reason for result in response.results] == ["A", "B"]


async def test_what_meets_every_row_fails_the_request_so_that_retry_policies_see_it() -> None:
    rows = [example("hum"), example("hiss")]
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        error = await refusal(stubs.InferenceStub(channel).Predict(request(*rows)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "WARMING"


async def test_a_full_server_says_when_to_come_back() -> None:
    async with full() as engine, listener(engine) as address, channel_to(address) as channel:
        error = await refusal(stubs.InferenceStub(channel).Predict(request(example("hum"))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (fault,) = engine.refused
    assert (fault.reason, fault.retry_after_s > 0) == ("QUEUE_FULL", True)
    delay = details(error)["RetryInfo"].retry_delay
    assert delay.ToMilliseconds() == int(fault.retry_after_s * 1000)


async def test_another_stamp_is_refused_with_the_serving_one() -> None:
    async with served() as (_, channel):
        pinned = request(example("hum"), expected_stamps=["cd" * 32])
        error = await refusal(stubs.InferenceStub(channel).Predict(pinned))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert dict(error.trailing_metadata())["trefoil-stamp"] == STAMP


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (request(), "examples", "EMPTY"),
        (
            request(example("a"), expected_stamps=["ab" * 6]),
            "expected_stamps[0]",
            "STAMP_MALFORMED",
        ),
        (request(example("a"), labels=["x", " "]), "labels[1]", "EMPTY"),
        (request(example("a"), labels=["x", "x"]), "labels[1]", "DUPLICATE_LABEL"),
        (request(example("a"), labels=["x" * 300]), "labels[0]", "LABEL_TOO_LONG"),
        (request(example("a"), task=9), "task", "UNKNOWN_TASK"),
        (request(example("a"), session_id="s" * 300), "session_id", "TOO_LONG"),
        (request(*[example("a")] * 65), "examples", "TOO_MANY_EXAMPLES"),
        (request(example(*["a"] * 65)), "examples[0].parts", "TOO_MANY_PARTS"),
        (request(pb.Example(parts=[pb.Part(id="x")])), "examples[0].parts[0]", "NO_SOURCE"),
        (
            request(pb.Example(parts=[pb.Part(text="x", modality=pb.IMAGE)])),
            "examples[0].parts[0].text",
            "WRONG_SOURCE",
        ),
        (request(example("a" * 300_000)), "examples[0].parts[0].text", "TEXT_TOO_LONG"),
        (
            request(pb.Example(parts=[pb.Part(upload_id="gone")])),
            "examples[0].parts[0].upload_id",
            "UNKNOWN_UPLOAD",
        ),
        (
            request(pb.Example(parts=[pb.Part(data=b"x", sha256="ab" * 32)])),
            "examples[0].parts[0].sha256",
            "SHA256_MISMATCH",
        ),
        (
            request(example("a", **MANY_SLICES)),
            "examples[0].slices",
            "TOO_MANY_SLICES",
        ),
    ],
)
async def test_bad_requests_are_refused_by_field_and_reason(
    bad: pb.PredictRequest, field: str, reason: str
) -> None:
    async with served() as (engine, channel):
        error = await refusal(stubs.InferenceStub(channel).Predict(bad))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(error)["BadRequest"].field_violations
    assert (violation.field, violation.reason) == (field, reason)
    assert engine.received == []


async def test_a_true_claim_of_the_content_passes() -> None:
    part = pb.Part(data=b"x", sha256=hashlib.sha256(b"x").hexdigest(), modality=pb.AUDIO)
    async with served() as (_, channel):
        response = await stubs.InferenceStub(channel).Predict(request(pb.Example(parts=[part])))
    assert response.results[0].prediction.label == "ok"


async def raw_predict(channel: grpc.aio.Channel, data: bytes) -> Any:
    call = channel.unary_unary(
        "/trefoil.v1.Inference/Predict", response_deserializer=pb.PredictResponse.FromString
    )
    return await call(data)


async def test_text_that_is_not_utf8_is_named_and_the_other_rows_are_answered() -> None:
    data = request(example("fine"), example("fine", "b@d")).SerializeToString()
    async with served() as (_, channel):
        response = await raw_predict(channel, data.replace(b"b@d", b"b\xffd"))
    assert response.results[0].prediction.label == "ok"
    assert response.results[1].fault.field == "examples[1].parts[1].text"
    assert response.results[1].fault.reason == "TEXT_NOT_UTF8"


async def test_a_label_that_is_not_utf8_is_named() -> None:
    data = request(example("fine"), labels=["good", "b@d"]).SerializeToString()
    async with served() as (_, channel):
        error = await refusal(raw_predict(channel, data.replace(b"b@d", b"b\xffd")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["BadRequest"].field_violations[0].field == "labels[1]"


async def test_bytes_that_are_no_message_are_the_callers_fault() -> None:
    async with served() as (_, channel):
        error = await refusal(raw_predict(channel, b"\xff\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cancelled_call_cancels_its_work() -> None:
    async with served() as (engine, channel):
        call = stubs.InferenceStub(channel).Predict(request(example("wait"), example("wait")))
        await until(lambda: engine.at_work == 2)
        call.cancel()
        await until(lambda: engine.counters.cancelled == 2)
        engine.gate.open()
        await until(lambda: not engine.at_work)


async def test_stream_answers_as_requests_finish_and_survives_a_bad_one() -> None:
    async with served() as (engine, channel):
        stream = stubs.InferenceStub(channel).PredictStream()
        await stream.write(request(example("wait"), request_id="slow"))
        await stream.write(request(request_id="empty"))
        await stream.write(request(example("hum"), request_id="quick"))
        first = [await stream.read(), await stream.read()]
        assert {response.request_id for response in first} == {"empty", "quick"}
        assert {response.results[0].WhichOneof("outcome") for response in first} == {
            "fault",
            "prediction",
        }
        engine.gate.open()
        await stream.done_writing()
        last = await stream.read()
        assert last.request_id == "slow" and last.results[0].stamp == STAMP
        assert await stream.read() is grpc.aio.EOF


async def test_stream_reads_no_more_than_it_may_have_in_flight() -> None:
    async with served() as (engine, channel):
        stream = stubs.InferenceStub(channel).PredictStream()
        for index in range(100):
            await stream.write(request(example("wait"), request_id=str(index)))
        await until(lambda: engine.at_work == 64)
        await asyncio.sleep(0.05)
        assert engine.at_work == 64 == len(engine.received)
        engine.gate.open()
        await stream.done_writing()
        answered = {response.request_id async for response in stream}
    assert len(answered) == 100


async def test_generated_text_comes_piece_by_piece_with_the_stamp_first_and_last() -> None:
    async with served() as (_, channel):
        call = stubs.InferenceStub(channel).Generate(pb.GenerateRequest(example=example("hum")))
        events = [event async for event in call]
    assert "".join(event.text for event in events) == "smoke near the drive"
    assert [event.stamp.hex for event in events] == [STAMP, "", "", "", STAMP]
    assert (events[-1].end.finish_reason, events[-1].end.tokens) == ("stop", 4)


async def test_cancelling_a_generation_cancels_its_work() -> None:
    async with served() as (engine, channel):
        endless = pb.GenerateRequest(example=example("endless"))
        call = stubs.InferenceStub(channel).Generate(endless)
        await call.read()
        call.cancel()
        await until(lambda: engine.counters.cancelled == 1)
        await until(lambda: not engine.at_work)


async def test_a_generation_at_fault_is_a_status() -> None:
    async with served() as (_, channel):
        bad = pb.GenerateRequest(example=example("INVALID_ARGUMENT TOO_DARK"))
        error = await refusal(stubs.InferenceStub(channel).Generate(bad).read())
        empty = await refusal(stubs.InferenceStub(channel).Generate(pb.GenerateRequest()).read())
    assert details(error)["BadRequest"].field_violations[0].field == "example.parts[0].text"
    assert details(empty)["BadRequest"].field_violations[0].field == "example.parts"


async def test_describe_tells_labels_limits_and_stamp() -> None:
    async with served() as (engine, channel):
        stub = stubs.InferenceStub(channel)
        await stub.Predict(request(*[example("sleep 0.001")] * 8))  # what a row takes is known now
        waiting = stub.Predict(request(example("wait")))
        await until(lambda: engine.at_work)
        described = await stub.Describe(pb.DescribeRequest())
        assert described.queue_seconds == engine.snapshot().queue_seconds > 0
        waiting.cancel()
    assert (described.stamp.hex, list(described.labels)) == (STAMP, list(LABELS))
    assert {limit.name for limit in described.limits} == {"max_parts", "image_pixels"}


async def test_describe_before_the_first_load_is_unavailable() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        error = await refusal(stubs.InferenceStub(channel).Describe(pb.DescribeRequest()))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_message_beyond_the_limit_is_refused_and_the_server_goes_on() -> None:
    async with served(max_message_bytes=1 << 20) as (engine, channel):
        stub = stubs.InferenceStub(channel)
        large = request(pb.Example(parts=[pb.Part(data=bytes(2 << 20))]))
        error = await refusal(stub.Predict(large))
        bomb = request(pb.Example(parts=[pb.Part(data=bytes(64 << 20))]))
        zipped = await refusal(stub.Predict(bomb, compression=grpc.Compression.Gzip))
        after = await stub.Predict(request(example("hum")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert zipped.code() is grpc.StatusCode.UNIMPLEMENTED  # without --accept-gzip
    assert after.results[0].prediction.label == "ok"
    assert len(engine.received) == 1


async def test_oversized_metadata_is_refused() -> None:
    async with served() as (_, channel):
        metadata = (("trefoil-client", "x" * 40_000),)
        call = stubs.InferenceStub(channel).Predict(request(example("hum")), metadata=metadata)
        error = await refusal(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
