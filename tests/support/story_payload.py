"""The payload of a simulated prediction: a text, a picture and a sound."""

from __future__ import annotations

import io
import wave

import numpy as np
from PIL import Image

from proto import inference_pb2
from tests.support.fleet_story import digest


def payload(identity: str) -> bytes:
    """A serialized Example: a sentence, a small picture, half a second of sound."""
    example = inference_pb2.Example(slices={"site": "b"})
    example.parts.add(id="note", text="Grinding noise at spindle 3 since the shift change.")
    example.parts.add(id="photo", mime_type="image/png", data=png(identity))
    example.parts.add(id="sound", mime_type="audio/wav", data=wav())
    return bytes(example.SerializeToString())


def png(identity: str, side: int = 96) -> bytes:
    hue = int(digest(identity)[:2], 16)
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x * 2, y * 2, np.full_like(x, hue)], -1).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def wav(seconds: float = 0.5, rate: int = 16_000) -> bytes:
    t = np.arange(int(seconds * rate)) / rate
    wave_form = 0.4 * np.sin(2 * np.pi * (300 + 2400 * t) * t)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((wave_form * 32767).astype("<i2").tobytes())
    return out.getvalue()
