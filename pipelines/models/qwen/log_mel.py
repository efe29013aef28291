"""Waveforms to log-mel spectrograms: down-mix, resample, short-time Fourier transform.

Nothing is padded to 30 seconds: every frame equals that of the reference feature extractor, within
`LOG_MEL` for noise and `LOG_MEL_QUIET` for any clip (tests/support/tolerance.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.bundle import parameters
from pipelines.errors import BadInput
from pipelines.media.decode import DecodedAudio

MIN_FRAMES = 3  # fewer give no audio token


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters of down-mixing and resampling, which come first in each family. Each string
    names the one rule implemented."""

    sample_rate: int  # of the model's input, hertz
    max_s: float
    downmix: str  # mean of the channels
    resample: str  # Kaiser-windowed sinc
    resample_zeros: int  # zero crossings of the sinc on either side
    resample_rolloff: float  # cut-off as a share of the lower Nyquist frequency
    resample_beta: float  # Kaiser window


@dataclass(frozen=True, slots=True)
class AudioConfig(Sampling):
    """Every parameter that can change a mel value."""

    n_fft: int
    hop: int
    window: str  # periodic Hann of n_fft samples
    n_mels: int
    f_min: float
    f_max: float
    mel: str  # Slaney scale and area normalisation
    log_floor: float
    dynamic_range: float  # in log10 units below the clip's own maximum
    end: str  # zeros after the end, reflection before the start

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        config = parameters.read(cls, values, "audio")
        for name in ("downmix", "resample", "window", "mel", "end"):
            parameters.only(f"audio.{name}", getattr(config, name), (getattr(DEFAULT, name),))
        return config


DEFAULT = AudioConfig(
    sample_rate=16000,
    max_s=30.0,
    downmix="mean",
    resample="sinc-kaiser",
    resample_zeros=32,
    resample_rolloff=0.92,
    resample_beta=9.0,
    n_fft=400,
    hop=160,
    window="hann-periodic",
    n_mels=128,
    f_min=0.0,
    f_max=8000.0,
    mel="slaney",
    log_floor=1e-10,
    dynamic_range=8.0,
    end="zeros",
)
QWEN = replace(DEFAULT, max_s=300.0)


def log_mel(audio: DecodedAudio, config: AudioConfig, field: str = "audio") -> torch.Tensor:
    """float32 [n_mels, ceil(samples / hop)] at `config.sample_rate`.

    Raises BadInput under `field` when the clip is longer than `config.max_s`, too short for one
    token, or at a rate that cannot be resampled.
    """
    mel = spectrum(waveform(audio, config, field), config)
    if mel.shape[1] < MIN_FRAMES:
        raise BadInput(
            field,
            "AUDIO_TOO_SHORT",
            f"{audio.seconds * 1000:.1f} ms of audio; at least "
            f"{MIN_FRAMES * config.hop * 1000 / config.sample_rate:g} ms are needed.",
        )
    return mel


def waveform(audio: DecodedAudio, config: Sampling, field: str = "audio") -> torch.Tensor:
    """Mono float32 [samples] at `config.sample_rate`.

    Raises BadInput under `field` when the clip is longer than `config.max_s`, or at a rate that
    cannot be resampled.
    """
    seconds = audio.wave.shape[0] / audio.sample_rate
    if seconds > config.max_s:
        raise BadInput(
            field,
            "AUDIO_TOO_LONG",
            f"{seconds:.1f} s of audio; the limit is {config.max_s:g} s. Send a shorter clip.",
        )
    mono = torch.from_numpy(_mix_down(audio.wave))
    return resample(mono, audio.sample_rate, config, field)


def _mix_down(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    channels = wave.shape[1]
    if channels == 1:
        return wave[:, 0]
    return wave @ np.full(channels, 1.0 / channels, dtype=np.float32)  # 10 times as fast as mean


def audio_tokens(frames: int) -> int:
    """Placeholder tokens of a clip: the audio tower halves the frames twice."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def spectrum(wave: torch.Tensor, config: AudioConfig) -> torch.Tensor:
    """float32 [n_mels, ceil(n / hop)] of a mono float32 wave [n] at the model's rate."""
    samples = wave.shape[0]
    frames = -(-samples // config.hop)
    # Enough zeros after the end that every frame with signal counts for the clip's maximum, as in
    # the reference, which pads to a fixed length.
    padded = torch.nn.functional.pad(wave, (0, 2 * config.n_fft))
    bins = torch.stft(
        padded,
        config.n_fft,
        config.hop,
        window=torch.hann_window(config.n_fft),
        return_complex=True,
    )
    power = (bins.abs() ** 2).contiguous()
    logs = torch.clamp(_mel_bank(config).T @ power, min=config.log_floor).log10()
    logs = torch.maximum(logs, logs.max() - config.dynamic_range)
    return ((logs + 4.0) / 4.0)[:, :frames].contiguous()


@lru_cache(maxsize=8)
def _mel_bank(config: AudioConfig) -> torch.Tensor:
    """float32 [n_fft // 2 + 1, n_mels]: triangles on Slaney's mel scale (linear to 1 kHz, then
    logarithmic, 27 steps to a factor of 6.4), each of unit area."""
    centres = _hertz(
        np.linspace(_mel(config.f_min), _mel(config.f_max), config.n_mels + 2, dtype=np.float64)
    )
    bins = np.linspace(0, config.sample_rate // 2, 1 + config.n_fft // 2)
    widths = np.diff(centres)
    offsets = centres[None, :] - bins[:, None]
    falling = -offsets[:, :-2] / widths[:-1]
    rising = offsets[:, 2:] / widths[1:]
    bank = np.maximum(0.0, np.minimum(falling, rising))
    bank *= (2.0 / (centres[2:] - centres[:-2]))[None, :]
    return torch.from_numpy(bank).to(torch.float32)


def _mel(hertz: float) -> float:
    if hertz < 1000.0:
        return 3.0 * hertz / 200.0
    return 15.0 + math.log(hertz / 1000.0) * (27.0 / math.log(6.4))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = 200.0 * mels / 3.0
    return np.where(mels < 15.0, linear, 1000.0 * np.exp((math.log(6.4) / 27.0) * (mels - 15.0)))


# A kernel has one column for each phase and one row for each input sample. 4 MB; no usual rate
# reaches it.
_MAX_KERNEL = 1 << 20
_USUAL_RATES = "8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000"


def resample(wave: torch.Tensor, rate: int, config: Sampling, field: str = "audio") -> torch.Tensor:
    """A mono float32 wave [n] at `rate` to [ceil(n * target / rate)] at the model's rate.

    Windowed-sinc interpolation (the kernel torchaudio calls `sinc_interp_kaiser`) as one matrix
    product. Raises BadInput for a rate such as 44,101 Hz, which shares so few factors with the
    model's rate that the kernel would hold 700 million numbers.
    """
    if rate == config.sample_rate:
        return wave
    common = math.gcd(rate, config.sample_rate)
    source, target = rate // common, config.sample_rate // common
    if (source + 2 * _half_width(source, target, config) + 2) * target > _MAX_KERNEL:
        raise BadInput(
            field,
            "AUDIO_RATE",
            f"{rate} samples a second share too few factors with the model's "
            f"{config.sample_rate}; resample to one of {_USUAL_RATES}.",
        )
    first, kernel = _kernel(source, target, config)
    inputs, outputs = kernel.shape
    period = outputs * source // target
    periods = -(-wave.shape[0] // period)
    end = (periods - 1) * period + inputs + first - wave.shape[0]
    padded = torch.nn.functional.pad(wave, (-first, max(0, end)))
    resampled = padded.unfold(0, inputs, period)[:periods] @ kernel
    return resampled.reshape(-1)[: -(-wave.shape[0] * target // source)]


def _half_width(source: int, target: int, config: Sampling) -> int:
    """Input samples that the sinc covers on each side."""
    return math.ceil(
        config.resample_zeros * source / (min(source, target) * config.resample_rolloff)
    )


@lru_cache(maxsize=8)
def _kernel(source: int, target: int, config: Sampling) -> tuple[int, torch.Tensor]:
    """The first input sample of a period (negative) and float32 [inputs, outputs] over enough
    whole periods for an efficient product."""
    starts, taps = _taps(source, target, config)
    repeats = -(-128 // target)
    first = int(starts[0])
    reach = taps.shape[1]
    inputs = int(starts[-1]) - first + reach + (repeats - 1) * source
    kernel = torch.zeros(inputs, repeats * target, dtype=torch.float32)
    for column in range(repeats * target):
        begin = int(starts[column % target]) - first + (column // target) * source
        kernel[begin : begin + reach, column] = taps[column % target]
    return first, kernel


def _taps(source: int, target: int, config: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of `target` phases: the first input sample (int64 [target], relative to the start
    of its period) and its taps (float32 [target, reach])."""
    cutoff = min(source, target) * config.resample_rolloff
    zeros = config.resample_zeros
    half = _half_width(source, target, config)
    phase = torch.arange(target, dtype=torch.float64)
    starts = torch.div(phase * source, target, rounding_mode="floor").to(torch.int64) - half
    inputs = starts[:, None] + torch.arange(2 * half + 2)
    t = (inputs.to(torch.float64) / source - phase[:, None] / target) * cutoff
    t = t.clamp(-zeros, zeros)
    beta = torch.tensor(config.resample_beta, dtype=torch.float64)
    window = torch.special.i0(beta * torch.sqrt(1 - (t / zeros) ** 2)) / torch.special.i0(beta)
    return starts, (torch.sinc(t) * window * (cutoff / source)).to(torch.float32)
