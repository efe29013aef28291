"""Requests made to cost more than they weigh: refused from their sizes, at a cost that grows no
faster than the message. Bounds are counts and bytes, never times."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api import open_inference_messages as v2
from server.api.open_inference_tensors import MOST_ELEMENTS, examples_of, labels_of
from server.config import ServerConfig
from server.request.caller import Caller
from server.request.status import DETAILS_KEY, Refused, bad_input, spoken, trailers
from server.request.uploads import UploadLimits, UploadStore
from server.request.validation import Terms, Validator
from server.request.wire import varint, with_contents
from server.types import Fault
from tests.support.ruled_engine import served
from tests.support.running import channel_to, idle_engine, listener
from tests.support.stub_replica import STAMP

CALLER = Caller("ipv4:10.0.0.7:1", "10.0.0.7", "someone", "", None)
CONFIG = ServerConfig()
MIB = 1 << 20


def calls_of(work: Callable[[], object]) -> int:
    """How many functions `work` calls, those written in C among them."""
    count = 0

    def look(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        work()
    except Refused:
        pass
    finally:
        sys.setprofile(None)
    return count


def reason_of(work: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.faults[0].reason


def tensors(inputs: int, elements: int, raw: bool) -> Any:
    kind = v2.ModelInferRequest.InferInputTensor
    content = [b"a"] * elements
    request = v2.ModelInferRequest(model_name="triage")
    for _ in range(inputs):
        one = kind(name="text", datatype="BYTES", shape=[1, elements])
        if raw:
            request.raw_input_contents.append(b"".join(b"\1\0\0\0a" for _ in content))
        else:
            one.contents.bytes_contents.extend(content)
        request.inputs.append(one)
    return request


def predict(stamps: int = 0, labels: int = 0, rows: int = 1) -> bytes:
    example = pb.Example(parts=[pb.Part(text="hum")])
    request = pb.PredictRequest(
        examples=[example] * rows,
        labels=[f"label {index}" for index in range(labels)],
        expected_stamps=[f"{index:064x}" for index in range(stamps)],
    )
    return bytes(request.SerializeToString())


def validator(config: ServerConfig = CONFIG, uploads: UploadStore | None = None) -> Validator:
    return Validator(config, uploads or UploadStore(UploadLimits()))


async def test_ten_thousand_inputs_are_refused_at_once() -> None:
    request = tensors(10_000, 1, raw=True)
    async with served() as (engine, channel):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "TOO_MANY_FIELDS" in str(caught.value.details()) and not engine.received
    assert reason_of(lambda: examples_of(request)) == "TOO_MANY_INPUTS"
    assert calls_of(lambda: examples_of(request)) < 50


@pytest.mark.parametrize("raw", [True, False])
def test_elements_are_counted_over_all_inputs_of_a_request(raw: bool) -> None:
    request = tensors(3, MOST_ELEMENTS // 2, raw)
    assert reason_of(lambda: examples_of(request)) == "TOO_MANY_ELEMENTS"


@pytest.mark.parametrize(
    "of_size",
    [
        lambda size: lambda: examples_of(tensors(size // 8, 8, raw=True)),
        lambda size: lambda: examples_of(tensors(size // 8, 8, raw=False)),
        lambda size: lambda: validator().predict(predict(labels=size), CALLER),
        lambda size: (
            lambda: validator(replace(CONFIG, max_expected_stamps=size)).predict(
                predict(stamps=size), CALLER
            )
        ),
        lambda size: (
            lambda: validator(replace(CONFIG, max_parts=size)).work(
                pb.Example(parts=[pb.Part(text="hum")] * size).SerializeToString(),
                "examples[0]",
                validator().predict(predict(), CALLER).terms,
            )
        ),
    ],
    ids=["raw", "contents", "labels", "stamps", "parts"],
)
def test_a_message_twice_as_large_costs_no_more_than_twice_as_much(
    of_size: Callable[[int], Callable[[], object]],
) -> None:
    of_size(16)()  # what is made once
    small, large = calls_of(of_size(64)), calls_of(of_size(256))
    assert large < 4.2 * small


async def test_two_hundred_thousand_pins_are_refused_before_any_is_read() -> None:
    async with served() as (engine, channel):
        stub = stubs.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(pb.PredictRequest.FromString(predict(stamps=200_000, rows=64)))
        assert "TOO_MANY_FIELDS" in str(caught.value.details()) and not engine.received
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(pb.PredictRequest.FromString(predict(stamps=10_000, rows=64)))
        assert "TOO_MANY_STAMPS" in str(caught.value.details()) and not engine.received
        request = pb.PredictRequest.FromString(predict(rows=64))
        request.expected_stamps.extend([STAMP] * 64)
        await stub.Predict(request)
    pins = [work.expected_stamps for work in engine.received]
    assert len(pins) == 64 and all(one is pins[0] for one in pins)
    data = predict(stamps=200_000, rows=64)
    assert calls_of(lambda: validator().predict(data, CALLER)) < 100


def named_by(parts: int, size: int) -> tuple[Validator, bytes]:
    uploads = UploadStore(UploadLimits())
    receiving = uploads.reserve("10.0.0.7", size, "", "image/png")
    receiving.add(b"\x89PNG" + bytes(size - 4))
    kept = uploads.keep("10.0.0.7", receiving)
    row = pb.Example(parts=[pb.Part(upload_id=kept.id)] * parts)
    return validator(replace(CONFIG, max_parts=64), uploads), row.SerializeToString()


def test_parts_that_name_one_large_upload_are_refused_from_sizes_alone() -> None:
    check, row = named_by(parts=64, size=30 * MIB)
    terms = check.predict(predict(), CALLER).terms
    tracemalloc.start()
    try:
        assert reason_of(lambda: check.work(row, "examples[0]", terms)) == "EXAMPLE_TOO_LARGE"
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_an_upload_is_copied_once_into_the_row_and_its_hash_is_not_made_again() -> None:
    check, row = named_by(parts=2, size=8 * MIB)
    terms = check.predict(predict(), CALLER).terms
    tracemalloc.start()
    try:
        work = check.work(row, "examples[0]", terms)
        assert tracemalloc.get_traced_memory()[1] < 17 * MIB
    finally:
        tracemalloc.stop()
    found = pb.Example.FromString(work.example)
    assert [len(part.data) for part in found.parts] == [8 * MIB] * 2
    assert {part.mime_type for part in found.parts} == {"image/png"} and work.mix == "image"


def test_rows_of_one_request_cannot_name_more_than_the_queue_holds() -> None:
    check, row = named_by(parts=2, size=30 * MIB)
    terms = check.predict(predict(), CALLER).terms
    works = [check.work(row, f"examples[{index}]", terms) for index in range(4)]
    assert reason_of(lambda: check.work(row, "examples[4]", terms)) == "REQUEST_TOO_LARGE"
    assert sum(len(work.example) for work in works) <= CONFIG.queue_bytes


def test_a_row_put_together_is_what_protobuf_would_have_written() -> None:
    contents = {0: b"x" * 127, 2: b"y" * 70_000}
    example = pb.Example(slices={"site": "a"})
    example.parts.add(upload_id="1", id="first", mime_type="image/png", sha256="0" * 64)
    example.parts.add(text="hum")
    example.parts.add(upload_id="2", modality=pb.AUDIO, pcm=pb.PcmFormat(channels=2))
    expected = pb.Example()
    expected.CopyFrom(example)
    for index, content in contents.items():
        expected.parts[index].data = content
    assert pb.Example.FromString(with_contents(example, contents)) == expected
    assert [varint(n) for n in (0, 127, 128, 300)] == [b"\0", b"\x7f", b"\x80\1", b"\xac\2"]


@pytest.mark.parametrize("name", ["id", "mime_type", "upload_id"])
def test_strings_of_a_part_are_limited(name: str) -> None:
    part = pb.Part(text="hum")
    setattr(part, name, "x" * 1000)
    row = pb.Example(parts=[part])
    check = validator()
    terms = check.predict(predict(), CALLER).terms
    data = row.SerializeToString()
    assert reason_of(lambda: check.work(data, "examples[0]", terms)) == "TOO_LONG"


def test_a_long_mime_type_or_many_small_uploads_hold_no_memory() -> None:
    store = UploadStore(UploadLimits(peer_count=3))
    assert reason_of(lambda: store.reserve("a", 1, "", "x" * (15 * MIB))) == "TOO_LONG"
    for _ in range(3):
        receiving = store.reserve("a", 1, "")
        receiving.add(b"x")
        store.keep("a", receiving)
    assert reason_of(lambda: store.reserve("a", 1, "")) == "PEER_UPLOADS_FULL"
    store.reserve("b", 1, "")
    assert store.total_bytes == 4


@pytest.mark.parametrize(("length", "field"), [(1000, "header.mime_type: "), (MIB, "header: ")])
async def test_an_upload_with_a_long_mime_type_is_refused_with_its_field(
    length: int, field: str
) -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        header = pb.UploadHeader(total_bytes=1, mime_type="x" * length)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.InferenceStub(channel).Upload(iter([pb.UploadChunk(header=header)]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(field)


def test_lists_within_lists_are_not_labels() -> None:
    request = v2.ModelInferRequest()
    request.parameters["labels"].string_param = "[" * 100_000 + "]" * 100_000
    assert reason_of(lambda: labels_of(request.parameters)) == "LABELS_MALFORMED"


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600"])
def test_a_refusal_fits_into_the_metadata_of_a_client(letter: str) -> None:
    text = letter * 9000
    faults = [bad_input(text, "REASON", text) for _ in range(64)]
    sent = {key: value for key, value in trailers(faults, STAMP)}
    details = sent[DETAILS_KEY]
    assert isinstance(details, bytes)
    assert len(spoken(faults[0]).encode()) * 3 + len(details) * 4 / 3 < 7 << 10
    assert spoken(Fault("INTERNAL", "", "X", "short")) == "short [X]"


def test_every_process_gives_the_same_bytes_for_a_refusal() -> None:
    """Else the order of its map is that of a hash which each process seeds by itself."""
    ((_, _), (_, details)) = trailers((bad_input("parts[0]", "REASON", "text"),), STAMP)
    assert isinstance(details, bytes)
    assert 0 < details.index(b"\x0a\x05field") < details.index(b"\x0a\x05stamp")


async def test_a_long_name_of_an_input_is_trimmed_in_the_refusal() -> None:
    request = v2.ModelInferRequest(model_name="triage")
    request.inputs.add(name="\U0001f600" * 9000, datatype="BYTES", shape=[1])
    async with served() as (_, channel):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(str(caught.value.details())) <= 500


def test_tags_are_limited_in_bytes_for_each_row_is_stored_with_them() -> None:
    face = "\N{GRINNING FACE}"
    row = pb.Example(parts=[pb.Part(text="hum")])
    row.slices.update({f"{number:x}" + face * 255: face * 256 for number in range(16)})
    with pytest.raises(Refused) as caught:
        validator().work(row.SerializeToString(), "examples[0]", Terms())
    (fault,) = caught.value.faults
    assert (fault.field, fault.reason) == ("examples[0].slices", "SLICES_TOO_LONG")
    assert "4096" in fault.message
