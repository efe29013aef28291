"""Cheap statistics of a text, an image and a sound; names and schema are in features.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FLOOR_DB = -120.0  # replaces minus infinity

# First code point of a range and its script; only the ranges that a test for the dominant script
# needs.
_RANGES: tuple[tuple[int, str], ...] = (
    (0x0000, ""),
    (0x0041, "latin"),
    (0x005B, ""),
    (0x0061, "latin"),
    (0x007B, ""),
    (0x00C0, "latin"),
    (0x0250, ""),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "other"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0780, "other"),
    (0x0900, "devanagari"),
    (0x0980, "other"),
    (0x0E00, "thai"),
    (0x0E80, "other"),
    (0x1100, "hangul"),
    (0x1200, "other"),
    (0x1E00, "latin"),
    (0x1F00, "greek"),
    (0x2000, ""),
    (0x2C60, "latin"),
    (0x2C80, "other"),
    (0x2E00, ""),
    (0x2E80, "han"),
    (0x3000, ""),
    (0x3040, "kana"),
    (0x3100, "other"),
    (0x3130, "hangul"),
    (0x3190, "other"),
    (0x31F0, "kana"),
    (0x3200, ""),
    (0x3400, "han"),
    (0xA000, "other"),
    (0xAC00, "hangul"),
    (0xD7B0, ""),
    (0xF900, "han"),
    (0xFB00, "other"),
    (0xFB50, "arabic"),
    (0xFE00, ""),
    (0xFF66, "kana"),
    (0xFFA0, ""),
    (0x10000, "other"),
    (0x1D000, ""),
    (0x20000, "han"),
    (0x32000, ""),
)
SCRIPTS: tuple[str, ...] = (
    "latin",
    "cyrillic",
    "greek",
    "arabic",
    "hebrew",
    "devanagari",
    "thai",
    "han",
    "kana",
    "hangul",
    "other",
    "none",
)
_STARTS = np.array([start for start, _ in _RANGES], dtype=np.uint32)
_SCRIPT_OF = np.array([SCRIPTS.index(s) if s else len(SCRIPTS) - 1 for _, s in _RANGES])


@dataclass(frozen=True, slots=True)
class TextStats:
    """Shares are shares of all characters; `script` is the most frequent script, "none" without
    letters."""

    script: str
    words: int
    unique_word_share: float
    mean_word_chars: float
    digit_share: float
    upper_share: float
    non_ascii_share: float


def text(value: str) -> TextStats:
    """`value` must not be empty."""
    points = _points(value)
    words = value.split()
    scripts = np.bincount(
        _SCRIPT_OF[np.searchsorted(_STARTS, points, side="right") - 1], minlength=len(SCRIPTS)
    )
    lettered = scripts[:-1]
    script = SCRIPTS[int(lettered.argmax())] if lettered.any() else "none"
    lower = value.lower()
    same = len(lower) == len(value)  # a few capital letters become two characters in lower case
    upper = (points != _points(lower)).sum() if same else sum(map(str.isupper, value))
    return TextStats(
        script=script,
        words=len(words),
        unique_word_share=len(set(lower.split())) / max(1, len(words)),
        mean_word_chars=sum(map(len, words)) / max(1, len(words)),
        digit_share=float(((points >= 48) & (points <= 57)).mean()),
        upper_share=float(upper / len(value)),
        non_ascii_share=float((points > 127).mean()),
    )


def _points(value: str) -> NDArray[np.uint32]:
    return np.frombuffer(value.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Statistics of the luma in 0..1: mean, standard deviation, histogram entropy in bits, and the
    variance of the Laplacian of green in a central crop. `saturation` is the mean of HSV's
    saturation."""

    brightness: float
    contrast: float
    saturation: float
    entropy: float
    sharpness: float


_THUMBNAIL_PX = 64
_CELL_ROWS = 2  # rows averaged into one row of the thumbnail
_CROP_PX = 256
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255.0  # Rec. 601


def image(pixels: NDArray[np.uint8]) -> ImageStats:
    """`pixels` uint8 [H, W, 3]."""
    small = _thumbnail(pixels).reshape(-1, 3)
    luma = small.astype(np.float32) @ _LUMA
    levels = np.bincount((luma * 255.0 + 0.5).astype(np.int64), minlength=256) / luma.size
    levels = levels[levels > 0]
    red, green, blue = small.T
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    return ImageStats(
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        saturation=float(((high - low) / np.maximum(high, 1).astype(np.float32)).mean()),
        entropy=max(0.0, float(-(levels * np.log2(levels)).sum())),
        sharpness=_sharpness(pixels),
    )


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """About 64 pixels a side. A large image is sampled by rows only: that is a plain copy, while
    sampling columns as well would cost more than the rest of this file."""
    sampled = pixels[:: max(1, pixels.shape[0] // (_THUMBNAIL_PX * _CELL_ROWS))]
    rows, columns = sampled.shape[:2]
    factors = max(1, columns // _THUMBNAIL_PX), max(1, rows // _THUMBNAIL_PX)
    return np.asarray(Image.fromarray(sampled).reduce(factors))


def _sharpness(pixels: NDArray[np.uint8]) -> float:
    height, width = pixels.shape[:2]
    if min(height, width) < 3:
        return 0.0
    top, left = max(0, (height - _CROP_PX) // 2), max(0, (width - _CROP_PX) // 2)
    green = pixels[top : top + _CROP_PX, left : left + _CROP_PX, 1].astype(np.int16)
    across = green[1:-1, :-2] + green[1:-1, 2:]
    down = green[:-2, 1:-1] + green[2:, 1:-1]
    centre = green[1:-1, 1:-1]
    edges: NDArray[np.float32] = (centre * 4 - across - down).astype(np.float32).reshape(-1)
    mean = float(edges.mean())
    power = float(np.dot(edges, edges)) / edges.size
    return (power - mean * mean) / (255.0 * 255.0)


@dataclass(frozen=True, slots=True)
class AudioStats:
    """`snr_db` is how far the loud frames (95th percentile) are above the quiet ones (10th);
    `silent_share` the share of frames below -60 dBFS; `centroid_hz` the centroid of the mean power
    spectrum."""

    rms_dbfs: float
    peak_dbfs: float
    clipped_share: float
    dc_offset: float
    silent_share: float
    snr_db: float
    zero_crossing_rate: float
    centroid_hz: float


_FRAME_S = 0.02
_CLIPPED = 0.999
_SILENT_DBFS = -60.0
_SPECTRA = 32  # evenly spaced frames whose spectrum is computed
_SPECTRUM_SAMPLES = 1024


def audio(wave: NDArray[np.float32], sample_rate: int) -> AudioStats:
    """`wave` float32 [T, channels], T >= 1; measured on the mean of the channels."""
    channels = wave.shape[1]
    mono = wave[:, 0] if channels == 1 else wave @ np.full(channels, 1 / channels, np.float32)
    size = max(1, min(len(mono), int(sample_rate * _FRAME_S)))
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    energies = _decibels(np.einsum("ij,ij->i", frames, frames) / size)
    quiet, loud = np.quantile(energies, (0.10, 0.95))
    magnitude = np.abs(mono)
    signs = np.signbit(mono)
    crossings = int(np.count_nonzero(signs[1:] != signs[:-1]))
    return AudioStats(
        rms_dbfs=float(_decibels(np.dot(mono, mono) / len(mono))),
        peak_dbfs=float(_decibels(magnitude.max() ** 2)),
        clipped_share=float(np.count_nonzero(magnitude >= _CLIPPED) / len(mono)),
        dc_offset=float(mono.mean()),
        silent_share=float((energies < _SILENT_DBFS).mean()),
        snr_db=float(loud - quiet),
        zero_crossing_rate=crossings * sample_rate / len(mono),
        centroid_hz=_centroid(mono, sample_rate),
    )


def _decibels(power: NDArray[np.float32] | float) -> NDArray[np.float64]:
    floor = 10.0 ** (_FLOOR_DB / 10.0)
    decibels: NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, floor, dtype=np.float64))
    return decibels


def _centroid(mono: NDArray[np.float32], sample_rate: int) -> float:
    size = min(len(mono), _SPECTRUM_SAMPLES)
    starts = np.linspace(0, len(mono) - size, min(_SPECTRA, len(mono) // size)).astype(np.int64)
    frames = mono[starts[:, None] + np.arange(size)] * np.hanning(size).astype(np.float32)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0)
    total = float(power.sum())
    if total <= 0.0 or not math.isfinite(total):
        return math.nan
    return float((power * np.fft.rfftfreq(size, 1.0 / sample_rate)).sum() / total)
