"""How much of each part was used, from the replica over the wire to the command line and the
client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api import open_inference_messages as v2
from server.api.open_inference_tensors import bytes_elements, bytes_tensor
from server.commands import predict
from tests.support import media_bytes as made
from trefoil import Client, InputRefused, audio, image, text

FRAMES = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
ANIMATION = made.image("GIF", FRAMES[0], save_all=True, append_images=FRAMES[1:])


def test_client_gets_it_for_predict_and_generate(tiny_server: str) -> None:
    parts = (text("hum"), image(ANIMATION), audio(made.wav_claiming(0xFFFFFFFF)))
    with Client(tiny_server) as client:
        text_part, picture, sound = client.predict(*parts).parts_used
        reported = client.generate(*parts, max_new_tokens=2).read_all().parts_used
    assert reported == (text_part, picture, sound)
    assert (text_part.modality, text_part.cut) == ("text", False)
    assert 0 < text_part.tokens_used == text_part.tokens_sent
    assert (picture.cut, picture.frames_sent) == (True, 2)
    assert (picture.width_sent, picture.height_sent) == (64, 48) and picture.width_used > 0
    assert (sound.cut, sound.warning, sound.channels_sent) == (False, "LENGTH_UNKNOWN", 1)
    assert sound.seconds_used == sound.seconds_sent == 1.0


def test_row_may_ask_to_be_refused_instead(tiny_server: str) -> None:
    with Client(tiny_server, on_truncation="refuse") as client:
        assert client.predict(text("hum")).label
        for call in (client.predict, lambda *parts: client.generate(*parts).read_all()):
            with pytest.raises(InputRefused) as caught:
                call(text("hum"), image(ANIMATION))
            assert caught.value.reason == "PART_CUT"
            assert caught.value.field.endswith("parts[1].data")
    with pytest.raises(ValueError, match="^on_truncation: "):
        Client(tiny_server, on_truncation="maybe")


def test_one_refused_row_does_not_disturb_another(tiny_server: str) -> None:
    with Client(tiny_server, on_truncation="refuse") as client:
        good, cut = client.predict_many([[text("hum")], [image(ANIMATION)]])
    assert isinstance(cut, InputRefused) and not isinstance(good, InputRefused)


def test_choice_that_does_not_exist_is_refused(tiny_server: str) -> None:
    example = pb.Example(parts=[pb.Part(text="hum")])
    unknown: Any = 7
    with grpc.insecure_channel(tiny_server) as channel, pytest.raises(grpc.RpcError) as caught:
        request = pb.PredictRequest(examples=[example], on_truncation=unknown)
        stubs.InferenceStub(channel).Predict(request)
    assert "UNKNOWN_ON_TRUNCATION" in caught.value.details()


@pytest.fixture
def animation(tmp_path: Path) -> str:
    (tmp_path / "two.gif").write_bytes(ANIMATION)
    return str(tmp_path / "two.gif")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_server: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = predict.run(["--server", tiny_server, *argv])
        except SystemExit as end:
            code = int(end.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


def test_command_line_prints_what_was_not_used(run: Run, animation: str) -> None:
    code, out, _ = run("--text", "hum", "--image", animation)
    assert code == 0 and "part 1   image: first of 2 pictures used" in out
    assert "part 0" not in out
    _, out, _ = run("--text", "hum", "--image", animation, "--json")
    text_part, picture = json.loads(out)["parts_used"]
    assert json.loads(out)["parts_cut"] == 1
    assert text_part["tokens_used"] == text_part["tokens_sent"] and "frames_sent" not in text_part
    assert picture["cut"] is True and picture["frames_sent"] == 2


def test_command_line_can_refuse(run: Run, animation: str) -> None:
    code, _, err = run("--image", animation, "--on-truncation", "refuse")
    assert code != 0 and "PART_CUT" in err


def open_inference(address: str, **parameters: str) -> Any:
    """ModelInfer of one row, a text and an animation, asked for `parts_used`; the answer."""
    elements = (("text", b"hum"), ("image", ANIMATION))
    kind = v2.ModelInferRequest.InferInputTensor
    request = v2.ModelInferRequest(
        model_name="trefoil",
        inputs=[kind(name=name, datatype="BYTES", shape=[1, 1]) for name, _ in elements],
        raw_input_contents=[bytes_tensor([content]) for _, content in elements],
    )
    request.outputs.add(name="parts_used")
    for name, value in parameters.items():
        request.parameters[name].string_param = value
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=v2.ModelInferResponse.FromString,
        )(request)


def test_open_inference_protocol_has_it_as_an_output(tiny_server: str) -> None:
    response = open_inference(tiny_server, on_truncation="answer")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("parts_used", "BYTES", [1, 1])
    (row,) = bytes_elements(response.raw_output_contents[0], 1, "parts_used")
    text_part, picture = json.loads(row)
    assert text_part["modality"] == "text"
    assert text_part["tokens_used"] == text_part["tokens_sent"] > 0
    assert "frames_sent" not in text_part and text_part["cut"] is False
    assert (picture["modality"], picture["cut"], picture["frames_sent"]) == ("image", True, 2)
    assert response.parameters["parts_cut"].int64_param == 1


@pytest.mark.parametrize(
    ("choice", "reason"), [("refuse", "PART_CUT"), ("maybe", "UNKNOWN_ON_TRUNCATION")]
)
def test_open_inference_protocol_may_refuse(tiny_server: str, choice: str, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        open_inference(tiny_server, on_truncation=choice)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason in caught.value.details()
