"""Machine sounds: one of five events over the hum and noise of a hall, as WAV bytes."""

from __future__ import annotations

import io
import wave
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SoundClass = Literal["hum", "pulse", "knock", "rising", "hiss"]
CLASSES: tuple[SoundClass, ...] = ("hum", "pulse", "knock", "rising", "hiss")
Wave = NDArray[np.floating[Any]]  # float32 throughout; numpy's stubs cannot express it

_RATES_HZ = (16_000, 16_000, 16_000, 22_050, 44_100)


def record(rng: Generator, event: SoundClass, noise: float, seconds: float | None = None) -> bytes:
    """A WAV file of 1-4 s. `noise` >= 0 scales the hall's noise (1 = an ordinary day)."""
    rate = int(rng.choice(_RATES_HZ))
    length = float(rng.uniform(1.0, 2.2) if rng.random() < 0.8 else rng.uniform(2.2, 4.0))
    if seconds is not None:
        length = seconds
    time = np.arange(int(rate * length), dtype=np.float32) / rate
    sound = _EVENTS[event](rng, time)
    sound *= np.float32(1.0 / (np.sqrt(np.mean(sound**2)) + 1e-6))
    # Level of the event above the hall, in decibels; the low tail is hard to hear.
    above_db = float(np.clip(rng.normal(11.0, 6.5), -8.0, 26.0))
    total = sound * np.float32(10 ** (above_db / 20)) + noise * _hall(rng, time)
    total *= np.float32(10 ** rng.uniform(-2.1, -0.45) / (np.abs(total).max() + 1e-6))
    if rng.random() < 0.12:
        total = np.clip(total * np.float32(rng.uniform(3, 9) / np.abs(total).max()), -1.0, 1.0)
    return encode_wav(total, rate, stereo=rng.random() < 0.15)


def _hall(rng: Generator, time: Wave) -> Wave:
    """Mains hum and coloured noise, together of unit power."""
    white = rng.standard_normal(time.size, dtype=np.float32)
    brown = np.convolve(white, np.full(24, 1 / 5, dtype=np.float32), mode="same")
    share = np.float32(rng.uniform(0.2, 0.8))
    mains = 0.6 * np.sin(2 * np.pi * 50 * time + np.float32(rng.uniform(0, 6)))
    hall = share * white + (1 - share) * brown + mains.astype(np.float32)
    return np.asarray(hall / np.sqrt(np.mean(hall**2)), dtype=np.float32)


def _tone(rng: Generator, phase: Wave, harmonics: int) -> Wave:
    out = np.zeros_like(phase)
    for k in range(1, harmonics + 1):
        out += np.float32(rng.uniform(0.3, 1.0) / k) * np.sin(k * phase)
    return out


def _hum(rng: Generator, time: Wave) -> Wave:
    phase = np.float32(2 * np.pi * rng.uniform(90, 320)) * time
    wobble = 1 + np.float32(rng.uniform(0, 0.2)) * np.sin(np.float32(rng.uniform(2, 9)) * time)
    return np.asarray(_tone(rng, phase, 5) * wobble)


def _pulse(rng: Generator, time: Wave) -> Wave:
    """A tone that swells and fades 2-7 times a second; shallow swells are close to a hum."""
    phase = np.float32(2 * np.pi * rng.uniform(90, 420)) * time
    swell = 0.5 + 0.5 * np.sin(np.float32(2 * np.pi * rng.uniform(2, 7)) * time)
    depth = np.float32(rng.uniform(0.45, 1.0))
    return np.asarray(_tone(rng, phase, 4) * (1 - depth + depth * swell**2))


def _knock(rng: Generator, time: Wave) -> Wave:
    """Dull blows, 2-6 a second and not quite regular, each ringing for 15-70 ms."""
    out = np.zeros_like(time)
    at, gap = float(rng.uniform(0, 0.3)), 1 / float(rng.uniform(2, 6))
    ring_s, pitch = float(rng.uniform(0.015, 0.07)), float(rng.uniform(120, 900))
    while at < time[-1]:
        after = time - np.float32(at)
        blow = np.exp(-np.maximum(after, 0) / ring_s) * np.sin(2 * np.pi * pitch * after)
        out += np.float32(rng.uniform(0.6, 1.2)) * np.where(after >= 0, blow, 0)
        at += gap * float(rng.uniform(0.75, 1.3))
    return out.astype(np.float32)


def _rising(rng: Generator, time: Wave) -> Wave:
    """A tone that climbs by 6-120 %; the slow ones are close to a hum."""
    start = float(rng.uniform(110, 480))
    ratio = float(np.exp(rng.uniform(np.log(1.06), np.log(2.2))))
    sweep = time + (ratio - 1) * time**2 / (2 * time[-1])
    return _tone(rng, (2 * np.pi * start * sweep).astype(np.float32), 4)


def _hiss(rng: Generator, time: Wave) -> Wave:
    """Escaping gas: bright noise. In a noisy hall a faint leak hides."""
    white = rng.standard_normal(time.size, dtype=np.float32)
    bright = np.diff(white, prepend=np.float32(0))
    return bright + np.float32(rng.uniform(0, 0.5)) * white


_EVENTS = {"hum": _hum, "pulse": _pulse, "knock": _knock, "rising": _rising, "hiss": _hiss}


def encode_wav(samples: Wave, rate: int, stereo: bool) -> bytes:
    """16-bit PCM; `samples` are clipped to [-1, 1]."""
    pcm = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    if stereo:
        pcm = np.repeat(pcm, 2)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(2 if stereo else 1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return buffer.getvalue()
