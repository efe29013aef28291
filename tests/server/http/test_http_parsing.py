"""Reading any body ends in a request, or in a refusal that names the error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.http.exchange import json_of
from server.http.form import fields_of
from server.http.native import ExampleForm
from server.http.open_inference_json import infer_request
from server.http.openai_requests import chat_request, embeddings_request
from server.http.refusals import HttpRefused

# A busy machine draws slowly.
quickly = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BOUNDARY = b"multipart/form-data; boundary=b"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def shaped(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with fields of these names, of any value."""
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=8), VALUES, max_size=5)


TENSORS = shaped("name", "datatype", "shape", "parameters", "data")
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(TENSORS, max_size=3) | VALUES,
        "outputs": st.lists(shaped("name", "parameters"), max_size=2) | VALUES,
        "parameters": VALUES,
        "id": VALUES,
    },
)
PARTS = shaped("type", "text", "image_url", "input_audio")
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "system", "assistant")) | VALUES},
        optional={"content": st.lists(PARTS, max_size=3) | VALUES},
    )
    | VALUES,
    max_size=3,
)
CHATS = shaped("model", "stream", "stream_options", "max_tokens", "temperature", "stop", "n")


def sent(value: Any) -> bytes:
    return json.dumps(value).encode()


@quickly
@given(st.binary(max_size=200), st.integers(0, 3))
@example(b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\na\r\n--b--', 0)
def test_a_form_is_read_or_refused(noise: bytes, cuts: int) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="text"; filename="\xff"\r\n\r\n'
    whole = head + noise + b"\r\n--b\r\n" + noise + b"\r\n--b--\r\n"
    for body in (noise, whole, whole[: -7 * cuts - 1]):
        form = ExampleForm("predict")
        with suppress(HttpRefused):
            for one in fields_of(body, BOUNDARY):
                form.add(one)
            form.data()


@quickly
@given(REQUESTS, st.binary(max_size=20), st.sampled_from((None, b"", b"5", b"-1", b"9" * 30)))
def test_tensors_are_read_or_refused(found: Any, rest: bytes, length: bytes | None) -> None:
    body = sent(found)
    for header in (length, b"%d" % len(body)):
        with suppress(HttpRefused):
            infer_request(body + rest, header, "trefoil", "")


@quickly
@given(CHATS, MESSAGES | VALUES)
def test_a_chat_is_read_or_refused(found: Any, messages: Any) -> None:
    with suppress(HttpRefused):
        chat_request(json_of(sent({"model": "m", **found, "messages": messages})), "")


@quickly
@given(shaped("model", "input", "encoding_format", "dimensions", "user"))
def test_inputs_of_embeddings_are_read_or_refused(found: Any) -> None:
    with suppress(HttpRefused):
        embeddings_request(json_of(sent({"model": "m", **found})), "", 128)


def test_json_that_is_deep_or_broken_is_refused() -> None:
    for body in (b"", b"[" * 100_000, b"{", b"\xff\xfe", b"[]", b'{"a":1}x', b"1" * 5000):
        with suppress(HttpRefused):
            raise AssertionError(json_of(body))
