"""Out-of-distribution inputs: text, images and sounds that do not show a station and have no label.

Training shows some of them with the answer "unknown", so that the closed-set mass (the model's own
probability that any label fits) can fall. Testing uses other kinds than training.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from recipes.triage.sounds import Wave, encode_wav
from recipes.triage.wordings import Split

ANSWER = "unknown"

# Lines to train on with blanks, lines to test with, and what the blanks are filled with.
_TEXTS: Final[dict[str, Any]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)


def text(rng: Generator, split: Split) -> str:
    if split != "train":
        return str(rng.choice(_TEXTS["test"]))
    if rng.random() < 0.25:
        letters = rng.integers(97, 123, int(rng.integers(10, 60)))
        return "".join(" " if rng.random() < 0.18 else chr(c) for c in letters).strip() or "xyz"
    digits = {"x": str(rng.integers(10)), "y": str(rng.integers(10, 99))}
    blanks = {key: str(rng.choice(options)) for key, options in _TEXTS["blanks"].items()}
    return str(rng.choice(_TEXTS["train"])).format(**blanks, **digits)


def picture(rng: Generator, split: Split) -> bytes:
    """Noise, gradients or scattered lines to train on; stripes, boards or rings to test with."""
    kind = int(rng.integers(3))
    size = (640, 480) if rng.random() < 0.7 else (480, 480)
    drawn = (_TRAIN_PICTURES if split == "train" else _TEST_PICTURES)[kind](rng, size)
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=int(rng.integers(50, 92)))
    return buffer.getvalue()


def _static(rng: Generator, size: tuple[int, int]) -> Image.Image:
    coarse = int(rng.choice((8, 20, 60)))
    small = rng.integers(0, 256, (size[1] // coarse, size[0] // coarse, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def _gradient(rng: Generator, size: tuple[int, int]) -> Image.Image:
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


def _scatter(rng: Generator, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, _colour(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5, 40))):
        ends = [(int(rng.integers(size[0])), int(rng.integers(size[1]))) for _ in range(2)]
        draw.line(ends, fill=_colour(rng), width=int(rng.integers(2, 30)))
    return picture


def _stripes(rng: Generator, size: tuple[int, int]) -> Image.Image:
    period, angle = float(rng.uniform(20, 120)), float(rng.uniform(0, 3.1))
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)) > 0
    colours = np.array((_colour(rng), _colour(rng)), dtype=np.uint8)
    return Image.fromarray(colours[wave.astype(np.int64)])


def _board(rng: Generator, size: tuple[int, int]) -> Image.Image:
    cells = rng.integers(0, 2, (int(rng.integers(3, 9)), int(rng.integers(3, 9))))
    colours = np.array((_colour(rng), _colour(rng)), dtype=np.uint8)
    return Image.fromarray(colours[cells]).resize(size, Image.Resampling.NEAREST)


def _rings(rng: Generator, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, _colour(rng))
    draw = ImageDraw.Draw(picture)
    x, y = float(rng.uniform(0.3, 0.7)) * size[0], float(rng.uniform(0.3, 0.7)) * size[1]
    for radius in range(int(rng.integers(250, 400)), 10, -int(rng.integers(20, 60))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng))
    return picture


_TRAIN_PICTURES = (_static, _gradient, _scatter)
_TEST_PICTURES = (_stripes, _board, _rings)


def _colour(rng: Generator) -> tuple[int, int, int]:
    r, g, b = (int(c) for c in rng.integers(0, 256, 3))
    return r, g, b


def sound(rng: Generator, split: Split) -> bytes:
    """Melodies, telephones, babble or gliding whistles to train on; chirping birds to test with."""
    time = np.arange(int(16_000 * rng.uniform(1.0, 3.0)), dtype=np.float32) / 16_000
    kinds = _TRAIN_SOUNDS if split == "train" else (_birds,)
    wave = kinds[int(rng.integers(len(kinds)))](rng, time)
    wave = wave / (np.abs(wave).max() + 1e-6) * float(rng.uniform(0.05, 0.6))
    return encode_wav(wave.astype(np.float32), 16_000, stereo=False)


def _melody(rng: Generator, time: Wave) -> Wave:
    out = np.zeros_like(time)
    at = 0.0
    while at < time[-1]:
        after = time - np.float32(at)
        pitch = 440 * 2 ** (int(rng.integers(-9, 16)) / 12)
        note = np.sin(2 * np.pi * pitch * after) * np.exp(-np.maximum(after, 0) / 0.25)
        out += np.where(after >= 0, note, 0).astype(np.float32)
        at += float(rng.choice((0.125, 0.25, 0.375)))
    return out


def _telephone(rng: Generator, time: Wave) -> Wave:
    """Two tones at once for each key, with rests between."""
    out = np.zeros_like(time)
    length, rest = float(rng.uniform(0.08, 0.2)), float(rng.uniform(0.04, 0.15))
    for start in np.arange(0, float(time[-1]), length + rest):
        inside = (time >= start) & (time < start + length)
        for tone in (rng.choice((697, 770, 852, 941)), rng.choice((1209, 1336, 1477))):
            out[inside] += np.sin(2 * np.pi * float(tone) * time[inside]).astype(np.float32)
    return out


def _babble(rng: Generator, time: Wave) -> Wave:
    """Voiced syllables: harmonics of a moving pitch under two formants."""
    out = np.zeros_like(time)
    at = 0.0
    while at < time[-1]:
        length = float(rng.uniform(0.08, 0.3))
        inside = (time >= at) & (time < at + length)
        after = (time - np.float32(at))[inside]
        pitch = float(rng.uniform(90, 260))
        phase = 2 * np.pi * (pitch * after + rng.uniform(-60, 60) * after**2)
        formants = (float(rng.uniform(300, 900)), float(rng.uniform(900, 2600)))
        for k in range(1, 16):
            near = sum(np.exp(-(((k * pitch - formant) / 180) ** 2)) for formant in formants)
            out[inside] += (near * np.sin(k * phase)).astype(np.float32)
        out[inside] *= np.sin(np.pi * after / length).astype(np.float32)
        at += length + float(rng.uniform(0.0, 0.12))
    return out


def _whistle(rng: Generator, time: Wave) -> Wave:
    """One long tone that wanders up and down."""
    centre, width = float(rng.uniform(500, 1800)), float(rng.uniform(0.1, 0.4))
    wander = np.sin(2 * np.pi * float(rng.uniform(0.5, 3.0)) * time + float(rng.uniform(0, 6)))
    pitch = centre * (1 + width * wander)
    return np.sin(2 * np.pi * np.cumsum(pitch) / 16_000).astype(np.float32)


_TRAIN_SOUNDS = (_melody, _telephone, _babble, _whistle)


def _birds(rng: Generator, time: Wave) -> Wave:
    out = np.zeros_like(time)
    for _ in range(int(rng.integers(3, 10))):
        start, length = float(rng.uniform(0, time[-1])), float(rng.uniform(0.05, 0.2))
        inside = (time >= start) & (time < start + length)
        after = (time - np.float32(start))[inside]
        sweep = rng.uniform(2500, 5000) * after + rng.uniform(-8000, 8000) * after**2
        out[inside] += np.sin(2 * np.pi * sweep).astype(np.float32)
    return out
