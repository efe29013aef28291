"""Every kind of sound decodes; every bad one is refused with its field and reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.media.decode import DecodedAudio, decode
from pipelines.types import Part, PcmFormat
from tests.support import media_bytes as made
from tests.support.decoded import FIELD, LIMITS, heard, refusal


@pytest.mark.parametrize(
    ("form", "subtype", "codec", "tolerance"),
    [
        ("WAV", "PCM_16", "WAV", 1e-4),
        ("WAV", "PCM_24", "WAV", 1e-6),
        ("WAV", "FLOAT", "WAV", 0.0),
        ("WAV", "ULAW", "WAV", 0.02),
        ("WAVEX", "PCM_16", "WAV", 1e-4),
        ("RF64", "PCM_16", "WAV", 1e-4),
        ("FLAC", "PCM_16", "FLAC", 1e-4),
        ("AIFF", "PCM_16", "AIFF", 1e-4),
        ("OGG", "VORBIS", "VORBIS", 0.1),
        ("OGG", "OPUS", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", "MP3", 0.1),
    ],
)
def test_every_audio_format_decodes(form: str, subtype: str, codec: str, tolerance: float) -> None:
    found = heard(made.sound(form=form, subtype=subtype))
    assert (found.codec, found.sample_rate, found.channels) == (codec, 16_000, 1)
    assert found.wave.dtype == np.float32 and abs(found.seconds - 1.0) < 0.01
    middle = slice(4000, 12_000)
    assert np.abs(found.wave[middle, 0] - made.tone()[middle]).max() <= tolerance


def test_channels_stay_apart() -> None:
    stereo = np.stack([made.tone(), made.tone() * np.float32(-0.5)], axis=1)
    found = heard(made.sound(stereo, subtype="FLOAT"))
    assert np.array_equal(found.wave, stereo)


@pytest.mark.parametrize(("encoding", "dtype"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw_pcm_decodes_by_its_layout(encoding: str, dtype: str) -> None:
    scale = 32_768 if encoding == "s16le" else 1
    data = (made.tone() * scale).astype(dtype).tobytes()
    found = heard(data, pcm=PcmFormat(8_000, 2, encoding))
    assert found.wave.shape == (8_000, 2) and found.codec == f"PCM_{encoding}"
    assert np.abs(found.wave.reshape(-1) - made.tone()).max() < 1e-4


@pytest.mark.parametrize(
    ("pcm", "data", "reason", "field"),
    [
        (None, b"\0" * 64, "PCM_LAYOUT_MISSING", "parts[2].pcm"),
        (PcmFormat(0, 1, "s16le"), b"\0" * 64, "AUDIO_RATE", "parts[2].pcm"),
        (PcmFormat(16_000, 0, "s16le"), b"\0" * 64, "AUDIO_CHANNELS", "parts[2].pcm"),
        (PcmFormat(16_000, 1, "u8"), b"\0" * 64, "PCM_ENCODING", "parts[2].pcm.encoding"),
        (PcmFormat(16_000, 1, "s16le"), b"\0" * 63, "AUDIO_TRUNCATED", "parts[2].data"),
        (PcmFormat(16_000, 1, "s16le"), b"\1" * 2**20, "AUDIO_TOO_LONG", "parts[2].data"),
        (PcmFormat(16_000, 1, "f32le"), b"\xff" * 64_000, "AUDIO_NOT_FINITE", "parts[2].data"),
    ],
)
def test_bad_pcm_is_refused(pcm: PcmFormat | None, data: bytes, reason: str, field: str) -> None:
    fault = refusal(data, mime="audio/pcm", pcm=pcm)
    assert (fault.reason, fault.field) == (reason, field)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "MP3"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_sound_is_refused(form: str, share: float) -> None:
    data = made.sound(form=form)
    fault = refusal(data[: int(len(data) * share)])
    assert fault.reason in ("AUDIO_TRUNCATED", "AUDIO_UNDECODABLE")


WAV = made.sound()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (made.patched(WAV, 40, "<I", 2_000_000_000), "AUDIO_TRUNCATED"),  # 1e9 frames
        (made.patched(WAV, 24, "<I", 0), "AUDIO_UNDECODABLE"),  # rate
        (made.patched(WAV, 24, "<I", 2**31 - 1), "AUDIO_RATE"),
        (made.patched(WAV, 24, "<I", 7_999), "AUDIO_RATE"),
        (made.patched(WAV, 22, "<H", 0), "AUDIO_UNDECODABLE"),  # channels
        (made.patched(WAV, 22, "<H", 9), "AUDIO_CHANNELS"),
        (made.patched(WAV, 20, "<H", 999), "AUDIO_UNDECODABLE"),  # encoding
        (made.sound(np.zeros(0, np.float32)), "AUDIO_TOO_SHORT"),
        (made.sound(made.tone(0.04)), "AUDIO_TOO_SHORT"),
        (made.sound(made.tone(30.1)), "AUDIO_TOO_LONG"),
        (made.sound(np.zeros(3 * 16_000, np.float32)), "AUDIO_SILENT"),
        (made.sound(made.tone() * np.float32(1e30), subtype="FLOAT"), "AUDIO_PEAK"),
        (made.sound(np.zeros((1_000_000, 8), np.float32), 192_000, "FLAC"), "AUDIO_SILENT"),
    ],
)
def test_lying_or_unusable_sound_is_refused(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_no_number_is_refused(value: float) -> None:
    wave = made.tone()
    wave[777] = value
    assert refusal(made.sound(wave, subtype="FLOAT")).reason == "AUDIO_NOT_FINITE"


def test_silence_is_refused_by_a_limit_of_the_bundle() -> None:
    silence = Part(None, made.sound(np.zeros(16_000, np.float32)))
    fault = refusal(silence.data)
    assert "-90 dBFS" in fault.message
    deaf = replace(LIMITS, min_audio_rms_dbfs=float("-inf"))
    assert isinstance(decode(silence, FIELD, deaf), DecodedAudio)


def test_quiet_but_real_sound_is_accepted() -> None:
    assert heard(made.sound(made.tone() * np.float32(3e-4))).channels == 1  # about -83 dBFS


def test_streamed_wav_of_unknown_length_is_accepted() -> None:
    assert heard(made.patched(WAV, 40, "<I", 0xFFFFFFFF)).seconds == 1.0


def flac_of_length(claimed: int, seconds: float) -> bytes:
    """STREAMINFO's lowest 36 bits there are the number of samples."""
    data = bytearray(made.sound(made.tone(seconds), form="FLAC"))
    bits = int.from_bytes(data[18:26], "big") >> 36 << 36 | claimed
    return bytes(data[:18]) + bits.to_bytes(8, "big") + bytes(data[26:])


def test_flac_that_claims_hours_is_refused_from_its_header() -> None:
    assert refusal(flac_of_length(10**9, 1.0)).reason == "AUDIO_TOO_LONG"
    assert refusal(flac_of_length(20_000, 1.0)).reason == "AUDIO_TRUNCATED"


def test_too_many_samples_in_all_channels_are_refused() -> None:
    wide = made.sound(np.tile(made.tone()[:, None], (1, 8)))
    fault = refusal(wide, limits=replace(LIMITS, max_audio_values=100_000))
    assert fault.reason == "AUDIO_TOO_LONG" and "100000" in fault.message
