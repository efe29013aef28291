"""Waveforms to log-mel spectrograms, as the Gemma 4 family expects them.

The window of the first frame is centred on the first sample, and a frame counts only if its whole
window lies within the sound. Nothing is padded, so nothing is masked afterwards. Written in numpy
with the operations of the reference extractor, so the numbers agree (`tests/support/tolerance.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.bundle import parameters
from pipelines.errors import BadInput
from pipelines.media.decode import DecodedAudio
from pipelines.models.qwen.log_mel import Sampling, waveform


@dataclass(frozen=True, slots=True)
class GemmaAudioConfig(Sampling):
    """Every parameter that can change a mel value."""

    frame: int  # samples of a window
    n_fft: int
    hop: int
    window: str  # periodic Hann of `frame` samples
    n_mels: int
    f_min: float
    f_max: float
    mel: str  # HTK scale, triangles of height 1, applied to magnitudes
    log_floor: float  # added before the natural logarithm
    start: str  # half a window of zeros before the first sample

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        config = parameters.read(cls, values, "audio")
        for name in ("downmix", "resample", "window", "mel", "start"):
            parameters.only(f"audio.{name}", getattr(config, name), (getattr(GEMMA, name),))
        return config


GEMMA = GemmaAudioConfig(
    sample_rate=16000,
    max_s=30.0,
    downmix="mean",
    resample="sinc-kaiser",
    resample_zeros=32,
    resample_rolloff=0.92,
    resample_beta=9.0,
    frame=320,
    n_fft=512,
    hop=160,
    window="hann-periodic",
    n_mels=128,
    f_min=0.0,
    f_max=8000.0,
    mel="htk-magnitude",
    log_floor=1e-3,
    start="half-window-zeros",
)


def gemma_log_mel(
    audio: DecodedAudio, config: GemmaAudioConfig, field: str = "audio"
) -> torch.Tensor:
    """float32 [n_mels, frames] at `config.sample_rate`.

    Raises BadInput under `field` when the clip is longer than `config.max_s`, shorter than one
    frame, or at a rate that cannot be resampled.
    """
    wave = waveform(audio, config, field).numpy()
    frames = (len(wave) + config.frame // 2 - config.frame - 1) // config.hop + 1
    if frames < 1:
        needed = config.frame - config.frame // 2 + 1
        raise BadInput(
            field,
            "AUDIO_TOO_SHORT",
            f"{len(wave) * 1000 / config.sample_rate:.1f} ms of audio; at least "
            f"{needed * 1000 / config.sample_rate:g} ms are needed.",
        )
    return torch.from_numpy(_spectrum(wave, frames, config).T.copy())


def gemma_audio_tokens(frames: int) -> int:
    """Placeholder tokens of a clip: two convolutions halve the frames, rounding up."""
    return -(-frames // 4)


def _spectrum(
    wave: NDArray[np.float32], frames: int, config: GemmaAudioConfig
) -> NDArray[np.float32]:
    """float32 [frames, n_mels]."""
    padded = np.pad(wave, (config.frame // 2, 0))
    windows = np.lib.stride_tricks.sliding_window_view(padded, config.frame)[:: config.hop]
    bins = np.fft.rfft(windows[:frames] * _hann(config.frame), n=config.n_fft, axis=-1)
    logs = np.log(np.abs(bins) @ _mel_bank(config) + config.log_floor)
    return logs.astype(np.float32)


@lru_cache(maxsize=8)
def _hann(samples: int) -> NDArray[np.float32]:
    return np.hanning(samples + 1)[:-1].astype(np.float32)


@lru_cache(maxsize=8)
def _mel_bank(config: GemmaAudioConfig) -> NDArray[np.float64]:
    """[n_fft // 2 + 1, n_mels]: triangles between points equally far apart on the HTK mel scale
    (2595 log10(1 + f / 700))."""
    low, high = (2595.0 * np.log10(1.0 + f / 700.0) for f in (config.f_min, config.f_max))
    points = 700.0 * (10.0 ** (np.linspace(low, high, config.n_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, config.sample_rate // 2, 1 + config.n_fft // 2)
    widths = np.diff(points)
    offsets = points[None, :] - bins[:, None]
    falling, rising = -offsets[:, :-2] / widths[:-1], offsets[:, 2:] / widths[1:]
    return np.maximum(0.0, np.minimum(falling, rising))
