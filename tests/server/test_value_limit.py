"""Messages and JSON texts of very many small values are refused before they are parsed."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import inference_pb2 as pb
from proto import observe_pb2
from server.api import open_inference_messages as v2
from server.api.open_inference_tensors import labels_of
from server.http.exchange import json_of
from server.http.form import MOST_FIELDS, fields_of
from server.http.refusals import HttpRefused
from server.request.lazy_parse import example_of, message_of, parse_feedback, parse_predict
from server.request.status import Refused
from server.request.value_limit import MOST_VALUES, has_too_many_fields, has_too_many_values
from server.request.wire import varint
from tests.server.test_hostile_requests import calls_of, reason_of
from tests.support.ruled_engine import served

TENSOR = v2.ModelInferRequest.InferInputTensor.DESCRIPTOR
CONTENTS = TENSOR.fields_by_name["contents"].message_type
MESSAGES = (
    *(kind.DESCRIPTOR for kind in (pb.PredictRequest, pb.GenerateRequest, pb.Example)),
    *(kind.DESCRIPTOR for kind in (pb.FeedbackRequest, v2.ModelInferRequest)),
    *(kind.DESCRIPTOR for kind in (observe_pb2.SamplesRequest, observe_pb2.WatchRequest)),
    TENSOR, CONTENTS,
)  # fmt: skip
LISTS = [(kind, field) for kind in MESSAGES for field in kind.fields if field.is_repeated]


def field_of(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def many(field: FieldDescriptor, count: int) -> bytes:
    """The smallest values that a list of this kind can have."""
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE):
        return field_of(field.number, b"") * count
    if field.type == field.TYPE_FLOAT:
        return (varint(field.number << 3 | 5) + bytes(4)) * count
    if field.type == field.TYPE_DOUBLE:
        return (varint(field.number << 3 | 1) + bytes(8)) * count
    return field_of(field.number, bytes(count - 1))


@pytest.mark.parametrize(("kind", "field"), LISTS, ids=lambda one: one.name)
def test_every_list_is_counted(kind: Descriptor, field: FieldDescriptor) -> None:
    assert not has_too_many_fields(many(field, MOST_VALUES), kind)
    assert has_too_many_fields(many(field, MOST_VALUES + 1), kind)


@pytest.mark.parametrize("field", list(CONTENTS.fields), ids=lambda one: one.name)
def test_a_list_within_a_message_is_counted(field: FieldDescriptor) -> None:
    few, lots = (
        field_of(5, field_of(5, many(field, MOST_VALUES - more))) for more in (2, 1)
    )  # in `inputs`, in `contents`: two fields more
    assert not has_too_many_fields(few, v2.ModelInferRequest.DESCRIPTOR)
    assert has_too_many_fields(lots, v2.ModelInferRequest.DESCRIPTOR)


def test_contents_and_broken_bytes_are_not_walked() -> None:
    large = pb.Example(parts=[pb.Part(data=b"\x0a\0" * (1 << 20), mime_type="image/png")] * 3)
    data = large.SerializeToString()
    assert not has_too_many_fields(data, pb.Example.DESCRIPTOR)
    assert calls_of(lambda: has_too_many_fields(data, pb.Example.DESCRIPTOR)) < 50
    for broken in (b"\xff" * (1 << 20), b"\x0a" + b"\xff" * (1 << 20), data[:-1], b"\7" * 99_999):
        assert calls_of(partial(has_too_many_fields, broken, pb.Example.DESCRIPTOR)) < 100
    assert reason_of(lambda: example_of(data[:-1], "examples[0]")) == "MALFORMED"


def test_what_precedes_a_broken_end_is_counted() -> None:
    parts = field_of(1, many(pb.Part.DESCRIPTOR.fields_by_name["text"], MOST_VALUES)) + b"\x0a\xff"
    assert has_too_many_fields(parts, pb.Example.DESCRIPTOR)


def test_requests_of_every_kind_are_refused_for_it() -> None:
    empty = b"\x0a\0" * (MOST_VALUES + 1)
    assert reason_of(lambda: parse_predict(empty)) == "TOO_MANY_FIELDS"
    assert reason_of(lambda: parse_feedback(empty)) == "TOO_MANY_FIELDS"
    assert reason_of(lambda: example_of(empty, "examples[0]")) == "TOO_MANY_FIELDS"
    assert reason_of(lambda: message_of(v2.ModelInferRequest, empty)) == "TOO_MANY_FIELDS"


@pytest.mark.parametrize(
    "method",
    [
        "/trefoil.v1.Inference/Predict",
        "/trefoil.v1.Inference/Feedback",
        "/inference.GRPCInferenceService/ModelInfer",
    ],
)
async def test_a_large_message_of_nothing_is_refused_on_the_wire(method: str) -> None:
    """16 MiB of it took 913 MiB; the log also reads the id of a refused request."""
    async with served() as (engine, channel):
        call = channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x2a\0\x0a\0" * (1 << 18))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "TOO_MANY_FIELDS" in str(caught.value.details()) and not engine.received


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a,[{"\\:é', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text('a,"\\[', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def values_in(found: Any) -> int:
    if isinstance(found, dict):
        return 1 + sum(map(values_in, found.values()))
    return 1 + sum(map(values_in, found)) if isinstance(found, list) else 1


@settings(max_examples=50, deadline=None)
@given(JSON, st.booleans())
def test_values_of_a_json_text_are_counted(found: Any, ascii_only: bool) -> None:
    """Never fewer than there are, and not one for a comma within a string."""
    count = values_in(found)
    text = json.dumps(found, ensure_ascii=ascii_only)
    padded = f'{{"pad":"{"," * MOST_VALUES}","few":{text}}}'
    assert not has_too_many_values(padded)
    lots = ",".join([text] * (MOST_VALUES // count + 1))
    assert has_too_many_values(f"[{lots}]")


@pytest.mark.parametrize("one", ["[]", "{}", "0", '"a"', '"\\""', '{"a":1}', "1.5"])
def test_a_body_of_very_many_values_is_refused(one: str) -> None:
    """16 MiB of lists held the event loop for 1.5 s and took 400 MiB."""
    body = f'{{"inputs":[{",".join([one] * (MOST_VALUES + 1))}]}}'.encode()
    with pytest.raises(HttpRefused) as refused:
        json_of(body)
    assert refused.value.reason == "TOO_MANY_VALUES"


def test_labels_of_a_tensor_request_are_counted_before_they_are_read() -> None:
    request = v2.ModelInferRequest()
    request.parameters["labels"].string_param = f"[{'[],' * MOST_VALUES}[]]"
    with pytest.raises(Refused) as refused:
        labels_of(request.parameters)
    assert refused.value.faults[0].reason == "LABELS_MALFORMED"


def test_what_only_looks_like_a_boundary_is_counted() -> None:
    """Each costs the parser a microsecond: 16 MiB of them held the event loop for 2.1 s."""
    head = b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\n'
    few, lots = (
        head + b"\r\n--bX" * count + b"\r\n--b--\r\n" for count in (MOST_FIELDS, MOST_FIELDS + 1)
    )
    (one,) = fields_of(few, b"multipart/form-data; boundary=b")
    assert len(one.content) == 6 * MOST_FIELDS
    with pytest.raises(HttpRefused) as refused:
        list(fields_of(lots, b"multipart/form-data; boundary=b"))
    assert refused.value.reason == "TOO_MANY_FIELDS"
