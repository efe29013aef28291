"""Turns a kept payload into what can be shown: texts, a bounded picture, a sound as samples and
spectrogram. Runs in a worker thread. A part that cannot be decoded gets a description instead."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QSize
from PySide6.QtGui import QImage, QImageReader

from console.state.sanitize import sanitized
from console.state.units import size
from proto import inference_pb2

MOST_PIXELS = 50_000_000
SHOWN_PIXELS = 480  # pixels of the longer side
FORMATS = (b"png", b"jpeg", b"jpg", b"bmp", b"gif", b"webp")


@dataclass(frozen=True, slots=True, eq=False)
class PayloadPart:
    """One part of the example. `caption` describes it, or explains why it cannot be shown."""

    kind: str  # text | image | audio | other
    caption: str
    text: str = ""
    image: QImage | None = None
    samples: NDArray[np.float32] | None = None
    rate: int = 0
    spectrogram: NDArray[np.float32] | None = None
    raw: bytes = b""


def parts_of(body: bytes) -> tuple[PayloadPart, ...]:
    """The parts of a serialized Example, in order."""
    example = inference_pb2.Example()
    try:
        example.ParseFromString(body)
    except (DecodeError, ValueError) as error:
        return (
            PayloadPart("other", f"the payload is not an Example: {sanitized(str(error), 200)}"),
        )
    return tuple(_part(part) for part in example.parts[:32])


def _part(part: inference_pb2.Part) -> PayloadPart:
    name = sanitized(part.id, 60) or part.WhichOneof("source") or "part"
    if part.WhichOneof("source") == "text":
        return PayloadPart(
            "text", f"{name}: {len(part.text):,} characters", sanitized(part.text, 8000)
        )
    data = bytes(part.data)
    about = f"{name}: {sanitized(part.mime_type, 60) or 'no type given'}, {size(len(data))}"
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _sound(data, about)
    return _picture(data, about)


def _picture(data: bytes, about: str) -> PayloadPart:
    held = QByteArray(data)
    buffer = QBuffer(held)
    buffer.open(QIODevice.OpenModeFlag.ReadOnly)
    reader = QImageReader(buffer)
    reader.setDecideFormatFromContent(True)
    found = reader.size()
    if bytes(reader.format().data()) not in FORMATS or not found.isValid():
        return PayloadPart("other", f"{about}: no decoder for this type", raw=data)
    if found.width() * found.height() > MOST_PIXELS:
        return PayloadPart(
            "other", f"{about}: {found.width()}x{found.height()} is too large", raw=data
        )
    reader.setAutoTransform(True)
    longest = max(found.width(), found.height())
    if longest > SHOWN_PIXELS:
        part = SHOWN_PIXELS / longest
        reader.setScaledSize(
            QSize(max(1, round(found.width() * part)), max(1, round(found.height() * part)))
        )
    image = reader.read()
    if image.isNull():
        return PayloadPart("other", f"{about}: {sanitized(reader.errorString(), 200)}", raw=data)
    return PayloadPart("image", f"{about}, {found.width()}x{found.height()}", image=image, raw=data)


def _sound(data: bytes, about: str) -> PayloadPart:
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            frames = file.readframes(min(file.getnframes(), 60 * max(rate, 1)))
    except (wave.Error, EOFError) as error:
        return PayloadPart("other", f"{about}: {sanitized(str(error), 200)}", raw=data)
    if width not in (1, 2, 4) or not rate or not channels:
        return PayloadPart("other", f"{about}: {width * 8} bits are not supported", raw=data)
    kinds = {1: "u1", 2: "<i2", 4: "<i4"}
    usable = len(frames) - len(frames) % (width * channels)
    samples = np.frombuffer(frames[:usable], kinds[width]).astype(np.float32)
    if width == 1:
        samples = samples - 128
    samples = samples.reshape(-1, channels).mean(axis=1) / float(2 ** (8 * width - 1))
    text = f"{about}, {len(samples) / rate:.1f} s at {rate:,} Hz"
    return PayloadPart(
        "audio",
        text,
        samples=samples.astype(np.float32),
        rate=rate,
        spectrogram=spectrogram(samples),
        raw=data,
    )


def spectrogram(
    samples: NDArray[np.float32], window: int = 256, most_columns: int = 400
) -> NDArray[np.float32]:
    """[frequencies, times] between 0 and 1: power in dB over the last 70 dB below the loudest."""
    if len(samples) < window:
        return np.zeros((window // 2 + 1, 1), np.float32)
    step = max(window // 2, (len(samples) - window) // most_columns + 1)
    starts = np.arange(0, len(samples) - window + 1, step)
    frames = samples[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    decibel = 10 * np.log10(power / max(float(power.max()), 1e-12) + 1e-12)
    return np.clip((decibel + 70) / 70, 0, 1).astype(np.float32)


def waveform(
    samples: NDArray[np.float32], columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The lowest and highest sample in each column of pixels."""
    if not len(samples):
        return np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    edges = np.linspace(0, len(samples), columns + 1).astype(np.int64)
    starts = np.minimum(edges[:-1], len(samples) - 1)
    return np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
