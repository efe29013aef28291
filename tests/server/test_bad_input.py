"""Every kind of bad input through real gRPC on the whole program: refused by part, field and limit,
in bounded memory, while the other row of the request is answered and the server is unaffected."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as inference
from proto import observe_pb2, observe_pb2_grpc
from tests.support import media_bytes as made
from tests.support.patience import patience

MIB = 1 << 20
GOOD = pb.Example(parts=[pb.Part(text="hum"), pb.Part(data=made.image("JPEG"))])
WAV = made.sound()
JPEG = made.image("JPEG")
PNG = made.image("PNG")


def sound_with_nan() -> bytes:
    wave = made.tone()
    wave[777] = np.nan
    return made.sound(wave, subtype="FLOAT")


def pcm(data: bytes, rate: int = 16_000) -> pb.Part:
    layout = pb.PcmFormat(sample_rate_hz=rate, channels=1, encoding=pb.PcmFormat.F32LE)
    return pb.Part(data=data, pcm=layout, mime_type="audio/pcm")


# Name -> the bad part, the field its fault must name, its reason, a word of its message.
CASES: dict[str, tuple[pb.Part, str, str, str]] = {
    "truncated jpeg": (pb.Part(data=JPEG[: len(JPEG) // 2]), "data", "IMAGE_", ""),
    "truncated png": (pb.Part(data=PNG[:-40]), "data", "IMAGE_", ""),
    "truncated wav": (pb.Part(data=WAV[: len(WAV) // 2]), "data", "AUDIO_TRUNCATED", ""),
    "wav that claims 1e9 frames": (
        pb.Part(data=made.patched(WAV, 40, "<I", 2_000_000_000)),
        "data",
        "AUDIO_TRUNCATED",
        "",
    ),
    "wav of 2 GHz": (
        pb.Part(data=made.patched(WAV, 24, "<I", 2**31 - 1)),
        "data",
        "AUDIO_RATE",
        "192000",
    ),
    "png of 13000x13000": (
        pb.Part(data=made.png(13_000, 13_000, 40)),
        "data",
        "IMAGE_TOO_LARGE",
        "limit",
    ),
    "png of 1 row that claims 400": (
        pb.Part(data=made.png(300, 400, 1)),
        "data",
        "IMAGE_TRUNCATED",
        "400 rows",
    ),
    "wrong mime": (pb.Part(data=JPEG, mime_type="audio/wav"), "mime_type", "MIME_MISMATCH", ""),
    "wrong modality": (pb.Part(data=WAV, modality=pb.IMAGE), "data", "KIND_MISMATCH", ""),
    "no format at all": (pb.Part(data=b"\1\2\3\0"), "data", "UNKNOWN_FORMAT", ""),
    "a format of others": (pb.Part(data=b"%PDF-1.7\n\0"), "data", "UNSUPPORTED_PDF", "pdftoppm"),
    "no bytes": (pb.Part(data=b""), "data", "EMPTY", ""),
    "blank text": (pb.Part(text=" \n"), "text", "TEXT_EMPTY", ""),
    "nan among samples": (pb.Part(data=sound_with_nan()), "data", "AUDIO_NOT_FINITE", ""),
    "nan as raw pcm": (pcm(b"\xff" * 64_000), "data", "AUDIO_NOT_FINITE", ""),
    "pcm without a rate": (pcm(b"\0" * 64_000, rate=0), "pcm", "AUDIO_RATE", ""),
    "3 s of silence": (
        pb.Part(data=made.sound(np.zeros(3 * 16_000, np.float32))),
        "data",
        "AUDIO_SILENT",
        "dBFS",
    ),
    "text too long": (pb.Part(text="a" * 200_000), "text", "TEXT_TOO_LONG", ""),
    "text that is not utf-8": (
        pb.Part(data=b"abc\xff", modality=pb.TEXT),
        "data",
        "TEXT_NOT_UTF8",
        "",
    ),
}


@dataclass(frozen=True)
class Served:
    """A channel to the program, and what of it must not change."""

    predict: inference.InferenceStub
    observe: observe_pb2_grpc.ObserveStub

    def state(self) -> observe_pb2.ServerSnapshot:
        (event,) = self.observe.Watch(observe_pb2.WatchRequest(once=True))
        found: observe_pb2.ServerSnapshot = event.snapshot
        return found


@pytest.fixture(scope="module")
def served(tiny_server: str) -> Iterator[Served]:
    with grpc.insecure_channel(tiny_server) as channel:
        yield Served(inference.InferenceStub(channel), observe_pb2_grpc.ObserveStub(channel))


@pytest.fixture
def unharmed(served: Served) -> Iterator[None]:
    """The same replica process, ready, and no more memory than a few requests need."""
    before = served.state()
    yield
    after = served.state()
    assert [one.pid for one in after.replicas] == [one.pid for one in before.replicas]
    assert [one.restarts for one in after.replicas] == [0]
    assert after.state == observe_pb2.READY and after.failed == before.failed
    grown = after.rss_bytes - before.rss_bytes
    assert grown < 100 * MIB, f"the front grew by {grown / MIB:.0f} MiB"
    for old, new in zip(before.replicas, after.replicas, strict=True):
        assert new.rss_bytes - old.rss_bytes < 250 * MIB


def answer(served: Served, *examples: pb.Example) -> pb.PredictResponse:
    request = pb.PredictRequest(examples=examples)
    response: pb.PredictResponse = served.predict.Predict(request, timeout=patience(60))
    return response


@pytest.mark.parametrize("name", CASES)
def test_bad_part_is_refused_alone(name: str, served: Served, unharmed: None) -> None:
    part, field, reason, word = CASES[name]
    bad = pb.Example(parts=[pb.Part(text="a note"), part])
    good, refused = answer(served, GOOD, bad).results
    assert good.prediction.label
    fault = refused.fault
    assert (fault.code, fault.field) == ("INVALID_ARGUMENT", f"examples[1].parts[1].{field}")
    assert fault.reason.startswith(reason) and word in fault.message
    with pytest.raises(grpc.RpcError) as caught:
        answer(served, bad)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"examples[0].parts[1].{field}" in caught.value.details()


def test_thousands_of_parts_are_refused_alone(served: Served, unharmed: None) -> None:
    many = pb.Example(parts=[pb.Part(text="a")] * 5_000)
    more = pb.Example(parts=[pb.Part(text="a")] * 10_000)
    good, refused, unread = answer(served, GOOD, many, more).results
    assert good.prediction.label
    assert refused.fault.field == "examples[1].parts"
    assert refused.fault.message == "5000 parts; the limit is 32; send fewer"
    assert unread.fault.field == "examples[2]" and unread.fault.reason == "TOO_MANY_FIELDS"


def test_invalid_utf8_in_a_string_is_refused_alone(
    tiny_server: str, served: Served, unharmed: None
) -> None:
    bad = pb.Example(parts=[pb.Part(text="fine"), pb.Part(text="b@d")])
    data = pb.PredictRequest(examples=[GOOD, bad]).SerializeToString()
    with grpc.insecure_channel(tiny_server) as channel:
        call = channel.unary_unary(
            "/trefoil.v1.Inference/Predict", response_deserializer=pb.PredictResponse.FromString
        )
        good, refused = call(data.replace(b"b@d", b"b\xffd"), timeout=patience(60)).results
    assert good.prediction.label
    assert refused.fault.field == "examples[1].parts[1].text"
    assert refused.fault.reason == "TEXT_NOT_UTF8"


def test_25_mb_of_opus_by_upload_are_refused_alone(served: Served, unharmed: None) -> None:
    bomb = made.opus_bomb(25_000_000)

    def chunks() -> Iterator[pb.UploadChunk]:
        yield pb.UploadChunk(header=pb.UploadHeader(total_bytes=len(bomb), mime_type="audio/ogg"))
        for start in range(0, len(bomb), MIB):
            yield pb.UploadChunk(data=bomb[start : start + MIB])

    receipt = served.predict.Upload(chunks(), timeout=patience(60))
    bad = pb.Example(parts=[pb.Part(upload_id=receipt.upload_id)])
    good, refused = answer(served, GOOD, bad).results
    assert good.prediction.label
    assert refused.fault.code == "INVALID_ARGUMENT"
    assert refused.fault.field.startswith("examples[1].parts[0].")
    assert "limit" in refused.fault.message


def test_a_message_over_the_limit_and_a_gzip_bomb_are_refused(
    served: Served, unharmed: None
) -> None:
    large = pb.PredictRequest(examples=[pb.Example(parts=[pb.Part(data=bytes(100 * MIB))])])
    ways = (
        (grpc.Compression.NoCompression, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (grpc.Compression.Gzip, grpc.StatusCode.UNIMPLEMENTED),  # without --accept-gzip
    )
    for compression, code in ways:
        with pytest.raises(grpc.RpcError) as caught:
            served.predict.Predict(large, timeout=patience(60), compression=compression)
        assert caught.value.code() is code
    assert answer(served, GOOD).results[0].prediction.label


def test_a_length_that_lies_inside_the_message_is_refused(
    tiny_server: str, served: Served, unharmed: None
) -> None:
    claimed = b"\x12" + b"\xff\xff\xff\xff\x07" + b"short"  # examples, 2 GiB of it
    with grpc.insecure_channel(tiny_server) as channel:
        call = channel.unary_unary("/trefoil.v1.Inference/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            call(claimed, timeout=patience(60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_tensor_whose_length_lies_is_refused(tiny_server: str, unharmed: None) -> None:
    from server.api import open_inference_messages as v2

    kind = v2.ModelInferRequest.InferInputTensor
    image = kind(name="image", datatype="BYTES", shape=[1, 1])
    raw = struct.pack("<I", 0xFFFFFFFF) + JPEG
    request = v2.ModelInferRequest(
        model_name="trefoil", inputs=[image], raw_input_contents=[raw]
    ).SerializeToString()
    with grpc.insecure_channel(tiny_server) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=patience(60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[image]" in caught.value.details()
