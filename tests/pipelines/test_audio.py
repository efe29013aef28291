"""The log-mel here equals the reference extractor's, and the resampler resamples correctly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio.functional
from transformers import WhisperFeatureExtractor

from pipelines.bundle import parameters
from pipelines.errors import BadInput, BundleRefused
from pipelines.media.decode import DecodedAudio
from pipelines.models.qwen.log_mel import (
    DEFAULT,
    QWEN,
    AudioConfig,
    audio_tokens,
    log_mel,
    resample,
    spectrum,
)
from tests.support import media_bytes as made
from tests.support import tolerance


def clip(wave: np.ndarray, rate: int = 16_000) -> DecodedAudio:
    return DecodedAudio(wave.reshape(len(wave), -1), rate, "WAV", payload_bytes=1)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128)


@pytest.mark.parametrize("samples", [480, 500, 1601, 16_000, 31_999, 32_000, 80_001, 400_000])
def test_log_mel_is_the_one_of_the_reference(
    extractor: WhisperFeatureExtractor, samples: int
) -> None:
    wave = noise(samples)
    found = extractor(wave, sampling_rate=16_000, return_attention_mask=True, return_tensors="np")
    frames = int(found["attention_mask"].sum())
    ours = log_mel(clip(wave), DEFAULT)
    assert ours.shape == (128, frames) and ours.dtype == torch.float32
    tolerance.LOG_MEL.check(ours, found["input_features"][0][:, :frames])


def test_a_click_behind_the_last_frame_still_sets_the_maximum(
    extractor: WhisperFeatureExtractor,
) -> None:
    """The reference's frames beyond the end are cut away after its maximum is taken."""
    wave = np.zeros(16_000, np.float32)
    wave[0], wave[-1] = 1e-4, 1.0
    theirs = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    tolerance.LOG_MEL.check(log_mel(clip(wave), DEFAULT), theirs[:, :100])


def test_silence_is_flat_and_finite() -> None:
    mel = spectrum(torch.zeros(16_000), DEFAULT)
    assert torch.isfinite(mel).all() and (mel == mel[0, 0]).all()


def test_tokens_follow_the_two_halvings_of_the_tower() -> None:
    assert [audio_tokens(frames) for frames in (3, 4, 5, 100, 101, 200, 3000)] == [
        *(1, 1, 1, 25, 25, 50, 750)
    ]


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_resampling_agrees_with_torchaudio(rate: int) -> None:
    wave = torch.from_numpy(noise(rate // 4))
    ours = resample(wave, rate, DEFAULT)
    theirs = torchaudio.functional.resample(
        wave,
        rate,
        16_000,
        lowpass_filter_width=DEFAULT.resample_zeros,
        rolloff=DEFAULT.resample_rolloff,
        resampling_method="sinc_interp_kaiser",
        beta=DEFAULT.resample_beta,
    )
    assert ours.shape == theirs.shape
    # torchaudio's window is in float32, ours in float64 until the end.
    assert (ours - theirs).abs().max() < 3e-5


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_025, 22_050, 37_800, 44_100, 192_000])
def test_a_tone_stays_that_tone_at_any_rate(rate: int) -> None:
    ours = resample(torch.from_numpy(made.tone(0.5, rate, 1000.0)), rate, DEFAULT).numpy()
    expected = made.tone(0.5, 16_000, 1000.0)
    assert abs(len(ours) - len(expected)) <= 1
    inside = slice(400, len(expected) - 400)
    assert np.abs(ours[inside] - expected[inside]).max() < 1e-4


def test_what_the_model_cannot_hear_is_removed_and_not_folded_back() -> None:
    high = torch.from_numpy(made.tone(0.5, 44_100, 9_000.0))
    assert resample(high, 44_100, DEFAULT)[400:-400].abs().max() < 3e-5


@pytest.mark.parametrize("rate", [8_001, 44_101, 191_999])
def test_rate_that_needs_a_giant_kernel_is_refused_with_a_remedy(rate: int) -> None:
    with pytest.raises(BadInput, match="44100") as caught:
        log_mel(clip(noise(rate), rate), DEFAULT, "parts[0].data")
    assert (caught.value.reason, caught.value.field) == ("AUDIO_RATE", "parts[0].data")


def test_channels_are_averaged() -> None:
    left, right = noise(16_000, 1), noise(16_000, 2)
    both = log_mel(clip(np.stack([left, right], axis=1)), DEFAULT)
    assert torch.allclose(both, log_mel(clip((left + right) / 2), DEFAULT), atol=1e-5)


def test_clip_over_the_limit_or_too_short_for_a_token_is_refused() -> None:
    for samples, reason in ((16_000 * 30 + 1, "AUDIO_TOO_LONG"), (320, "AUDIO_TOO_SHORT")):
        with pytest.raises(BadInput) as caught:
            log_mel(clip(noise(samples)), DEFAULT, "parts[1].data")
        assert (caught.value.reason, caught.value.field) == (reason, "parts[1].data")
    assert log_mel(clip(noise(321)), DEFAULT).shape[1] == 3


def test_threads_hear_the_same_as_one() -> None:
    clips = [clip(noise(4_410, seed), 44_100) for seed in range(8)]
    alone = [log_mel(item, DEFAULT) for item in clips]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda item: log_mel(item, DEFAULT), clips))
    for one, other in zip(alone, together, strict=True):
        tolerance.LOG_MEL_QUIET.check(other, one)  # nothing is left above 7.4 kHz


def test_config_survives_json_and_refuses_what_it_does_not_know() -> None:
    values = parameters.write(QWEN)
    assert AudioConfig.from_dict(values) == QWEN
    assert replace(QWEN, max_s=DEFAULT.max_s) == DEFAULT
    for wrong in ({**values, "dither": 0.1}, {**values, "mel": "htk"}, {**values, "hop": 160.0}):
        with pytest.raises(BundleRefused):
            AudioConfig.from_dict(wrong)
