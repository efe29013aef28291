"""The Open Inference Protocol: tensors read with care, and Triton's own client as the reference."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import inference_pb2 as pb
from server.api import open_inference_messages as v2
from server.api.open_inference_tensors import bytes_elements, bytes_tensor
from server.request.status import Refused
from server.types import Outcome
from tests.support.ruled_engine import ruled, served
from tests.support.ruled_replica import LABELS
from tests.support.running import channel_to, idle_engine, listener, until
from tests.support.stub_replica import STAMP


def tensor(name: str, elements: list[bytes], **fields: Any) -> tuple[Any, bytes]:
    shape = fields.pop("shape", [len(elements), 1])
    kind = v2.ModelInferRequest.InferInputTensor
    return kind(name=name, datatype="BYTES", shape=shape, **fields), bytes_tensor(elements)


def infer(*tensors: tuple[Any, bytes], **fields: Any) -> Any:
    fields.setdefault("model_name", "triage")
    inputs = [one for one, _ in tensors]
    raw = [content for _, content in tensors]
    return v2.ModelInferRequest(inputs=inputs, raw_input_contents=raw, **fields)


async def call(channel: grpc.aio.Channel, method: str, request: Any, answer: Any) -> Any:
    unary = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return await unary(request)


async def model_infer(request: Any) -> Any:
    async with served() as (_, channel):
        return await call(channel, "ModelInfer", request, v2.ModelInferResponse)


async def refused(request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await model_infer(request)
    return caught.value


def outputs(response: Any) -> dict[str, tuple[str, list[int], bytes]]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {one.name: (one.datatype, list(one.shape), raw) for one, raw in pairs}


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_tensors_come_back_as_they_went(elements: list[bytes]) -> None:
    assert bytes_elements(bytes_tensor(elements), len(elements), "x") == elements


@given(st.binary(max_size=40), st.integers(0, 10))
def test_any_bytes_are_read_whole_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = bytes_elements(raw, count, "x")
    except Refused as refusal:
        assert refusal.faults[0].reason == "BYTES_MALFORMED"
    else:
        assert bytes_tensor(elements) == raw


async def test_rows_become_examples_with_parts_in_the_order_of_the_inputs() -> None:
    image = tensor("image", [b"\x89PNG", b""])
    image[0].parameters["content_type"].string_param = "image/png"
    request = infer(tensor("audio", [b"RIFF", b"OggS"]), image, tensor("text", [b"a", b"b"]))
    async with served() as (engine, channel):
        response = await call(channel, "ModelInfer", request, v2.ModelInferResponse)
    first, second = (pb.Example.FromString(work.example) for work in engine.received)
    assert [part.modality for part in first.parts] == [pb.AUDIO, pb.IMAGE, pb.TEXT]
    assert (first.parts[1].data, first.parts[1].mime_type) == (b"\x89PNG", "image/png")
    assert [part.modality for part in second.parts] == [pb.AUDIO, pb.TEXT]
    found = outputs(response)
    assert bytes_elements(found["label"][2], 2, "label") == [b"ok", b"ok"]
    assert found["label"][:2] == ("BYTES", [2, 1])
    assert found["scores"][:2] == ("FP32", [2, 3])
    assert struct.unpack("<f", found["score"][2][:4])[0] == pytest.approx(0.7)
    assert "embedding" not in found
    assert response.parameters["stamp"].string_param == STAMP
    assert response.model_version == "1"


async def test_outputs_and_classification_are_given_as_asked() -> None:
    request = infer(tensor("text", [b"hum"]))
    request.outputs.add(name="embedding")
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2
    found = outputs(await model_infer(request))
    assert list(found) == ["embedding", "scores"]
    assert found["embedding"][:2] == ("FP32", [1, 4])
    best = bytes_elements(found["scores"][2], 2, "scores")
    assert best == [b"0.700000:0:ok", b"0.150000:1:look"]


async def test_typed_contents_and_parameters_are_understood() -> None:
    kind = v2.ModelInferRequest.InferInputTensor
    text = kind(name="text", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"hum")
    request = v2.ModelInferRequest(model_name="trefoil", id="r1", inputs=[text])
    request.parameters["labels"].string_param = json.dumps(["yes", "no"])
    request.parameters["sequence_id"].int64_param = 7
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 5_000_000
    async with served() as (engine, channel):
        response = await call(channel, "ModelInfer", request, v2.ModelInferResponse)
    (work,) = engine.received
    assert (work.labels, work.session, work.priority) == (("yes", "no"), "7", 0)
    assert work.deadline is not None
    assert response.id == "r1"


def broken_length() -> Any:
    request = infer(tensor("image", [b"x"]))
    request.raw_input_contents[0] = struct.pack("<I", 0x46464952) + b"RIFF"
    return request


def both_contents() -> Any:
    request = infer(tensor("text", [b"x"]))
    request.inputs[0].contents.bytes_contents.append(b"x")
    return request


def wrong_type() -> Any:
    request = infer(tensor("text", [b"x"]))
    request.inputs[0].datatype = "FP32"
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (broken_length(), "inputs[image]: element 0 claims 1179011410 bytes, 4 are left"),
        (both_contents(), "raw_input_contents: "),
        (wrong_type(), "inputs[text]: FP32"),
        (infer(tensor("video", [b"x"])), "inputs[video]: the inputs are text, image, audio"),
        (infer(tensor("text", [b"x"], shape=[1, -1])), "inputs[text]: shape [1, -1]"),
        (infer(tensor("text", [b"x"], shape=[1 << 40])), "inputs[text]: shape"),
        (infer(tensor("text", [b"x"], shape=[2, 1])), "inputs[text]: element 1 of 2"),
        (infer(tensor("text", [b"a", b"b"]), tensor("image", [b"x"])), "inputs[image]: 1 rows"),
        (infer(tensor("text", [b"a\xff"])), "inputs[text][0]: byte 1 of 2 is not valid UTF-8"),
        (infer(tensor("text", [b"a", b""])), "inputs: row 1 has neither"),
        (infer(tensor("text", [b"a", b"INVALID_ARGUMENT DARK"])), "inputs[text][1]: as the text"),
        (infer(), "inputs: "),
    ],
)
async def test_bad_tensors_are_refused_in_the_callers_terms(request_: Any, message: str) -> None:
    error = await refused(request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(message)
    assert dict(error.trailing_metadata())["trefoil-stamp"] == STAMP


async def test_an_empty_contents_beside_raw_contents_says_nothing() -> None:
    request = infer(tensor("text", [b"hum"]))
    request.inputs[0].contents.SetInParent()
    assert "label" in outputs(await model_infer(request))


@pytest.mark.parametrize("of", ["inputs", "outputs"])
async def test_shared_memory_is_refused_by_name(of: str) -> None:
    request = infer(tensor("text", [b"hum"]))
    request.outputs.add(name="label")
    tensors = {"inputs": request.inputs, "outputs": request.outputs}[of]
    tensors[0].parameters["shared_memory_region"].string_param = "region"
    error = await refused(request)
    assert error.details().startswith(f"{of}[{tensors[0].name}]: shared memory is not supported")


@pytest.mark.parametrize(("name", "count"), [("label", 2), ("embedding", 1), ("scores", -1)])
async def test_classes_of_what_has_none_are_refused_by_name(name: str, count: int) -> None:
    request = infer(tensor("text", [b"hum"]))
    request.outputs.add(name=name).parameters["classification"].int64_param = count
    error = await refused(request)
    assert error.details().startswith(f"outputs[{name}]: class_count is {count}")


async def test_the_latest_version_has_three_names_and_another_model_is_not_ready() -> None:
    async with served() as (_, channel):

        async def ready(name: str, version: str) -> bool:
            ask = v2.ModelReadyRequest(name=name, version=version)
            return bool((await call(channel, "ModelReady", ask, v2.ModelReadyResponse)).ready)

        known = [await ready("triage", version) for version in ("", "-1", "1")]
        unknown = [await ready("other", ""), await ready("triage", "2")]
        asked = infer(tensor("text", [b"a"]), model_version="-1")
        assert await call(channel, "ModelInfer", asked, v2.ModelInferResponse)
        about = v2.ModelMetadataRequest(name="triage")
        metadata = await call(channel, "ModelMetadata", about, v2.ModelMetadataResponse)
    assert (known, unknown) == ([True] * 3, [False] * 2)
    assert not metadata.properties and list(metadata.versions) == ["1"]


async def test_statistics_count_a_request_once_whatever_its_rows() -> None:
    outcomes: list[Outcome] = []
    async with served() as (engine, channel):
        engine.observer = lambda _pool, _work, outcome: outcomes.append(outcome)
        for rows in ([b"a", b"b", b"c"], [b"d"]):
            await call(channel, "ModelInfer", infer(tensor("text", rows)), v2.ModelInferResponse)
        with pytest.raises(grpc.aio.AioRpcError):
            dark = infer(tensor("text", [b"INVALID_ARGUMENT DARK"] * 2))
            await call(channel, "ModelInfer", dark, v2.ModelInferResponse)
        ask = v2.ModelStatisticsRequest(name="triage")
        found = await call(channel, "ModelStatistics", ask, v2.ModelStatisticsResponse)
    (model,) = found.model_stats
    sums = model.inference_stats
    executions = sum(1 / one.batch_size for one in outcomes if one.answer)
    assert (model.inference_count, model.execution_count) == (4, round(executions))
    assert (sums.success.count, sums.fail.count, sums.compute_infer.count) == (2, 1, 2)
    slowest = [max(one.timing.forward_ms for one in rows) for rows in (outcomes[:3], outcomes[3:])]
    assert sums.compute_infer.ns == pytest.approx(sum(slowest) * 1e6, abs=2)


async def test_an_unknown_model_is_not_found() -> None:
    text = tensor("text", [b"a"])
    for fields in ({"model_name": "other"}, {"model_version": "2"}):
        error = await refused(infer(text, **fields))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_answers_errors_in_the_message_and_goes_on() -> None:
    bad = infer(tensor("text", [b"INVALID_ARGUMENT DARK"]), id="bad")
    good = infer(tensor("text", [b"hum"]), id="good")
    good.parameters["triton_enable_empty_final_response"].bool_param = True
    async with served() as (_, channel):
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=v2.ModelStreamInferResponse.FromString,
        )(iter((bad, good)))
        answers = {answer.infer_response.id: answer async for answer in stream}
    assert answers["bad"].error_message.startswith("[request id: bad] inputs[text][0]")
    assert answers["good"].error_message == ""
    final = answers["good"].infer_response.parameters["triton_final_response"]
    assert final.bool_param


async def test_a_stream_answers_in_the_order_of_its_requests() -> None:
    """Clients of Triton pair answers with requests by order, whatever finishes first."""
    texts = ("wait", "hum", "INVALID_ARGUMENT DARK", "wait", "hum")
    sent = [infer(tensor("text", [text.encode()]), id=str(n)) for n, text in enumerate(texts)]
    async with served() as (engine, channel):
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=v2.ModelStreamInferResponse.FromString,
        )(iter(sent))
        await until(lambda: len(engine.received) == len(texts) and engine.at_work == 2)
        engine.gate.open()
        answers = [answer async for answer in stream]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert [bool(answer.error_message) for answer in answers] == [False, False, True, False, False]


async def test_nothing_is_ready_before_the_first_load() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        ask = v2.ModelReadyRequest(name="triage")
        ready = await call(channel, "ModelReady", ask, v2.ModelReadyResponse)
        server = await call(channel, "ServerReady", ask, v2.ServerReadyResponse)
        index = await call(
            channel, "RepositoryIndex", v2.RepositoryIndexRequest(), v2.RepositoryIndexResponse
        )
    assert (ready.ready, server.ready, len(index.models)) == (False, False, 0)


TRITON = r"""
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("triage")
config = client.get_model_config("triage", as_json=True)["config"]
metadata = client.get_model_metadata("triage", as_json=True)

def column(name, values):
    given = triton.InferInput(name, [len(values), 1], "BYTES")
    given.set_data_from_numpy(np.array([[value] for value in values], dtype=np.object_))
    return given

inputs = [column("text", ["hum", "hiss"]), column("image", [b"\x89PNG", b""])]
wanted = [triton.InferRequestedOutput(name) for name in ("label", "scores", "embedding")]
result = client.infer("triage", inputs, outputs=wanted, request_id="r1", timeout=5_000_000)
streamed = []
client.start_stream(callback=lambda result, error: streamed.append(error or result))
client.async_stream_infer("triage", [column("text", ["hum"])], request_id="s1")
client.stop_stream()
try:
    client.infer("triage", [column("text", ["INVALID_ARGUMENT DARK"])])
except triton.InferenceServerException as error:
    refusal = [error.status(), error.message()]
statistics = client.get_inference_statistics("triage", as_json=True)["model_stats"][0]
print(json.dumps({
    "optional": [one.get("optional", False) for one in config["input"]],
    "max_batch_size": config["max_batch_size"],
    "platform": metadata["platform"],
    "label": [str(value, "utf-8") for value in result.as_numpy("label")[:, 0]],
    "scores": result.as_numpy("scores").shape,
    "embedding": result.as_numpy("embedding").tolist(),
    "stamp": result.get_response().parameters["stamp"].string_param,
    "streamed": [str(one.as_numpy("label")[0, 0]) for one in streamed],
    "refusal": refusal,
    "version": int(statistics["version"]),
    "inferences": int(statistics["inference_count"]),
    "infer_ns": int(statistics["inference_stats"]["compute_infer"]["ns"]),
    "models": [one["name"] for one in client.get_model_repository_index(as_json=True)["models"]],
    "extensions": client.get_server_metadata(as_json=True)["extensions"],
}))
"""


@pytest.mark.interop
async def test_an_unmodified_triton_client_is_served() -> None:
    """In a process of its own: its messages have the names of ours."""
    if importlib.util.find_spec("tritonclient") is None:
        pytest.skip("tritonclient is not installed: pip install 'tritonclient[grpc]'")
    outcomes: list[Outcome] = []
    async with ruled() as engine, listener(engine) as address:
        engine.observer = lambda _pool, _work, outcome: outcomes.append(outcome)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TRITON, address, stdout=subprocess.PIPE
        )
        printed, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(printed)
    assert found["optional"] == [True, True, True]
    assert found["label"] == ["ok", "ok"] and found["scores"] == [2, len(LABELS)]
    assert found["embedding"] == [[0.5] * 4] * 2
    assert found["stamp"] == STAMP
    assert found["streamed"] == ["b'ok'"]
    assert found["refusal"][0] == "StatusCode.INVALID_ARGUMENT"
    assert (found["version"], found["inferences"]) == (1, 3)
    pair, single = [one.timing.forward_ms for one in outcomes[:2]], outcomes[2].timing.forward_ms
    assert found["infer_ns"] == pytest.approx((max(pair) + single) * 1e6, abs=2)
    assert found["models"] == ["triage"] and "statistics" in found["extensions"]


def perf_analyzer() -> str:
    """NVIDIA's load generator, which some wheels of tritonclient carry; skips without it."""
    beside = Path(sys.executable).with_name("perf_analyzer")
    found = str(beside) if beside.exists() else shutil.which("perf_analyzer")
    if found is None:
        pytest.skip("perf_analyzer is not installed: tritonclient 2.44.0 carries it")
    if subprocess.run([found, "--version"], capture_output=True).returncode != 0:
        pytest.skip("perf_analyzer does not start: it needs libb64.so.0d and libcudart.so.12")
    return found


@pytest.mark.interop
@pytest.mark.parametrize("how", [(), ("--streaming", "-a")])
async def test_an_unmodified_load_generator_reports_our_split(
    how: tuple[str, ...], tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"data": [{"text": {"content": ["sleep 0.004"], "shape": [1]}}]}))
    # Any spread of latencies counts as stable: this is no measurement.
    brief = ("-p", "300", "-s", "999", "-r", "4", "--concurrency-range", "2")
    async with ruled() as engine, listener(engine) as address:
        process = await asyncio.create_subprocess_exec(
            perf_analyzer(),
            *("-m", "triage", "-i", "grpc", "-u", address, "--input-data", str(inputs)),
            *(*brief, *how),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    assert "Throughput:" in printed
    split = r"queue \d+ usec \+ compute input \d+ usec \+ compute infer (\d+) usec"
    found = re.search(rf"{split} \+ compute output \d+ usec", printed)
    assert found is not None and int(found[1]) >= 4000, "the forward of such a row sleeps 4 ms"
