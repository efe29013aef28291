"""Clients that others wrote, unmodified, against the HTTP port around an engine with rules."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import subprocess
import sys

import pytest

from proto import inference_pb2 as pb
from tests.support.http_site import curl, http_site, needs_curl
from tests.support.patience import patience
from tests.support.ruled_engine import ruled
from tests.support.ruled_replica import LABELS
from tests.support.stub_replica import STAMP

PICTURE, SOUND = b"\x89PNG\r\n" + bytes(range(256)), b"RIFF" + bytes(range(256))

# In a process of its own: its generated modules cannot live beside others of that package.
TRITON = """
import sys, numpy as np, tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("triage")
assert not client.is_model_ready("nobody")
assert client.get_server_metadata()["name"] == "trefoil"
assert [one["name"] for one in client.get_model_metadata("triage")["inputs"]] == [
    "text", "image", "audio"]
assert client.get_model_config("triage")["max_batch_size"] == 64
assert client.get_model_repository_index()[0]["state"] == "READY"

def tensor(name, *rows, binary=True):
    made = triton.InferInput(name, [len(rows), 1], "BYTES")
    made.set_data_from_numpy(np.array([[row] for row in rows], dtype=object), binary_data=binary)
    return made

outputs = [triton.InferRequestedOutput("label"), triton.InferRequestedOutput("embedding"),
           triton.InferRequestedOutput("scores", binary_data=False)]
picture = bytes.fromhex(sys.argv[2])
found = client.infer("triage", [tensor("text", b"first", b"second"),
    tensor("image", picture, b"")], request_id="mine", outputs=outputs, sequence_id=7)
assert found.get_response()["id"] == "mine"
assert found.as_numpy("label").tolist() == [[b"ok"], [b"ok"]]
assert found.as_numpy("embedding").shape == (2, 4)
assert np.allclose(found.as_numpy("scores")[0], [0.7, 0.15, 0.15])
found = client.infer("triage", [tensor("text", b"a", binary=False), tensor("image", picture)])
assert found.as_numpy("label").tolist() == [[b"ok"]]
top = [triton.InferRequestedOutput("scores", class_count=2)]
assert client.infer("triage", [tensor("text", b"a")], outputs=top).as_numpy("scores")[0][0] == (
    b"0.700000:0:ok")
assert client.get_inference_statistics("triage")["model_stats"][0]["inference_count"] == 4
for rows, status in (((b"INVALID_ARGUMENT BLANK",), "400"), ((b"UNAVAILABLE GONE",), "503")):
    try:
        client.infer("triage", [tensor("text", *rows)])
        raise SystemExit("not refused")
    except InferenceServerException as error:
        assert error.status() == status and rows[0].split()[1].decode() in str(error), error
for gone in (client.get_trace_settings, client.get_system_shared_memory_status):
    try:
        gone()
        raise SystemExit("served")
    except InferenceServerException as error:
        assert error.status() == "404", error
print("as Triton's")
"""


async def in_a_process(script: str, *arguments: str) -> str:
    return await asyncio.to_thread(_run, script, arguments)


def _run(script: str, arguments: tuple[str, ...]) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


def without(module: str, install: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed: pip install {install}")


@pytest.mark.interop
@without("tritonclient", "'tritonclient[http]'")
@without("geventhttpclient", "'tritonclient[http]'")
async def test_tritons_http_client_unmodified() -> None:
    async with ruled() as engine, http_site(engine) as site:
        address = site.url.removeprefix("http://")
        assert "as Triton's" in await in_a_process(TRITON, address, PICTURE.hex())
    first, second, third, *_ = engine.received
    assert first.mix == "image+text" and second.mix == "text" and first.session == "7"
    assert pb.Example.FromString(first.example).parts[1].data == PICTURE
    assert pb.Example.FromString(third.example).parts[1].data == PICTURE


OPENAI = """
import base64, sys, openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
assert [model.id for model in client.models.list()] == ["triage"]
assert client.models.retrieve("trefoil").object == "model"
made = client.embeddings.create(model="triage", input=["a", "b"])
assert [one.embedding for one in made.data] == [[0.5] * 4] * 2 and made.data[1].index == 1
made = client.embeddings.create(model="triage", input="a", encoding_format="float")
assert made.data[0].embedding == [0.5] * 4

picture, sound = (base64.b64encode(bytes.fromhex(word)).decode() for word in sys.argv[2:4])
content = [{"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + picture}},
    {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}]
messages = [{"role": "system", "content": "in short"}, {"role": "user", "content": content}]
raw = client.chat.completions.with_raw_response.create(model="triage", messages=messages)
found = raw.parse()
assert found.choices[0].message.content == "smoke near the drive", found
assert found.choices[0].finish_reason == "stop" and found.usage.completion_tokens == 4
assert raw.headers["trefoil-stamp"] == found.system_fingerprint == "ab" * 32
assert found.id == "chatcmpl-" + raw.headers["trefoil-prediction-id"]
chunks = list(client.chat.completions.create(
    model="triage", messages=messages, stream=True, stream_options={"include_usage": True}))
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == (
    "smoke near the drive")
assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].usage.completion_tokens == 4

def refused(kind, code, **fields):
    try:
        client.chat.completions.create(**{"model": "triage", "messages": messages, **fields})
        raise SystemExit(f"not refused: {fields}")
    except kind as error:
        assert error.code == code, (error.code, error)
        return error

assert refused(openai.BadRequestError, "not_offered", temperature=0.7).param == "temperature"
refused(openai.BadRequestError, "not_offered", n=2)
refused(openai.BadRequestError, "unknown_field", extra_body={"top_k": 3})
refused(openai.NotFoundError, "model_not_found", model="gpt-4o")
url = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/a.png"}}
asked = [{"role": "user", "content": [url]}]
error = refused(openai.BadRequestError, "not_a_data_url", messages=asked)
assert error.param == "messages[0].content[0].image_url.url"
blank = {"type": "text", "text": "INVALID_ARGUMENT BLANK"}
bad = [{"role": "user", "content": [content[0], blank]}]
assert refused(openai.BadRequestError, "blank", messages=bad).param == "messages[0].content[1]"
full = [{"role": "user", "content": "RESOURCE_EXHAUSTED FULL"}]
refused(openai.RateLimitError, "full", messages=full)
refused(openai.RateLimitError, "full", messages=full, stream=True)
refused(openai.BadRequestError, "unknown_role", messages=[*messages,
    {"role": "assistant", "content": "yes"}])
try:
    client.completions.create(model="triage", prompt="a")
    raise SystemExit("served")
except openai.NotFoundError:
    print("as OpenAI's")
"""


@pytest.mark.interop
@without("openai", "openai")
async def test_openais_client_unmodified() -> None:
    async with ruled() as engine, http_site(engine) as site:
        arguments = (site.url, PICTURE.hex(), SOUND.hex())
        assert "as OpenAI's" in await in_a_process(OPENAI, *arguments)
    chat = next(work for work in engine.received if work.task == "generate")
    parts = pb.Example.FromString(chat.example).parts
    assert [part.text or part.data for part in parts] == [
        "in short",
        "what is this?",
        PICTURE,
        SOUND,
    ]
    assert engine.received[0].task == "embed"


def one(name: str = "text", **more: object) -> dict[str, object]:
    """A request with one tensor."""
    return {"inputs": [{"name": name, "datatype": "BYTES", "shape": [1], **more}]}


@needs_curl
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": []}, "EMPTY"),
        ({"inputs": 3}, "JSON_MALFORMED"),
        (one(data=["a", "b"]), "SHAPE_MISMATCH"),
        (one(data=["a"], shape="1"), "SHAPE_MALFORMED"),
        (one(data=["a"], shape=[True]), "SHAPE_MALFORMED"),
        (one(data=[7]), "WRONG_ELEMENT"),
        (one("image", data=["?"]), "ELEMENT_MALFORMED"),
        (one(data=["\ud800"]), "ELEMENT_MALFORMED"),
        (one(data=["a"], parameters={"a": []}), "PARAMETER_MALFORMED"),
        (one(parameters={"binary_data_size": 5}), "BINARY_SIZE"),
        (one(data=["a"]) | {"outputs": [{"name": "nothing"}]}, "UNKNOWN_OUTPUT"),
        (one(data=["a"]) | {"id": "\udc80"}, "JSON_MALFORMED"),
    ],
)
async def test_tensors_that_cannot_be_read_are_refused_by_name(
    body: dict[str, object], reason: str
) -> None:
    async with ruled() as engine, http_site(engine) as site:
        reply = await curl("-d", json.dumps(body), site.url + "/v2/models/trefoil/infer")
    assert reply.status == 400 and f"[{reason}" in reply.json()["error"], reply.body


@needs_curl
async def test_tensors_in_json_may_hold_base64() -> None:
    coded = base64.b64encode(PICTURE).decode()
    given: list[dict[str, object]] = [
        {"name": "image", "data": [[coded], [{"b64": coded}]]},
        {"name": "text", "data": ["a", {"b64": "Yg=="}]},
    ]
    inputs = [one | {"datatype": "BYTES", "shape": [2, 1]} for one in given]
    async with ruled() as engine, http_site(engine) as site:
        body = json.dumps({"inputs": inputs, "id": "mine"})
        reply = await curl("-d", body, site.url + "/v2/models/triage/versions/1/infer")
    found = reply.json()
    assert found["id"] == "mine" and found["parameters"]["stamp"] == STAMP
    outputs = {one["name"]: one for one in found["outputs"]}
    assert outputs["label"]["data"] == [LABELS[0]] * 2 and outputs["scores"]["shape"] == [2, 3]
    rows = [pb.Example.FromString(work.example).parts for work in engine.received]
    assert [(row[0].data, row[1].text) for row in rows] == [(PICTURE, "a"), (PICTURE, "b")]
