"""The requests that every benchmark sends: each has 40 words, a 640x480 JPEG and a 2 s WAV, and no
two are alike."""

from __future__ import annotations

import io
import wave

import numpy as np
from PIL import Image

from proto import inference_pb2 as pb

MIXES = (
    ("text",),
    ("image",),
    ("audio",),
    ("text", "image"),
    ("text", "audio"),
    ("image", "audio"),
    ("text", "image", "audio"),
)
WORDS = (
    "the press at station four sounds rough since the last shift and the lamp keeps blinking "
    "amber operator heard knocking near the gearbox smoke not seen belt was changed on tuesday "
    "please look before noon coolant level fine temperature rising slowly vibration felt on "
    "the left rail"
).split()


def words(rng: np.random.Generator, count: int = 40) -> str:
    return " ".join(rng.choice(WORDS, count))


def jpeg(rng: np.random.Generator, width: int = 640, height: int = 480) -> bytes:
    """A smooth random picture with sensor noise: about 60 kB at quality 88, like a photo."""
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(picture, dtype=np.int16) + rng.normal(0, 7, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def wav(rng: np.random.Generator, seconds: float = 2.0, rate: int = 16000) -> bytes:
    t = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * rng.uniform(80, 900) * t) * rng.uniform(0.1, 0.5)
    samples = tone + rng.normal(0, 0.03, t.size)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def example(
    rng: np.random.Generator,
    mix: tuple[str, ...] = MIXES[-1],
    *,
    word_count: int = 40,
    seconds: float = 2.0,
) -> pb.Example:
    made = pb.Example()
    for kind in mix:
        if kind == "text":
            made.parts.add(modality=pb.TEXT, text=words(rng, word_count))
        elif kind == "image":
            made.parts.add(modality=pb.IMAGE, data=jpeg(rng), mime_type="image/jpeg")
        else:
            made.parts.add(modality=pb.AUDIO, data=wav(rng, seconds), mime_type="audio/wav")
    return made


def pool(count: int, seed: int = 0) -> list[pb.Example]:
    rng = np.random.default_rng(seed)
    return [example(rng) for _ in range(count)]


def mixed_pool(count: int, seed: int = 0) -> list[pb.Example]:
    """Every modality mix in turn, with texts and sounds of varied length."""
    rng = np.random.default_rng(seed)
    return [
        example(
            rng,
            MIXES[i % len(MIXES)],
            word_count=int(rng.integers(1, 60)),
            seconds=float(rng.uniform(0.3, 3.0)),
        )
        for i in range(count)
    ]
