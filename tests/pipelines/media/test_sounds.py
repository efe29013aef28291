"""Sounds as recorders, pipes and taggers write them: the whole sound is used, or the part is
refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from pipelines.errors import BadInput
from pipelines.media import riff
from pipelines.media.decode import DecodedAudio, InputLimits, decode
from pipelines.media.limits import (
    DAMAGED,
    LENGTH_UNKNOWN,
    LENGTH_WRONG,
    NO_END,
    PAGES_MISSING,
    WARNINGS,
)
from pipelines.types import Part
from tests.support import media_bytes as made

LIMITS = InputLimits()


def heard(data: bytes) -> DecodedAudio:
    found = decode(Part("audio", data), "parts[0]", LIMITS)
    assert isinstance(found, DecodedAudio)
    assert found.payload_bytes == len(data)
    assert not found.warning or found.warning in WARNINGS
    return found


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        decode(Part("audio", data), "parts[0]", LIMITS)
    assert caught.value.field == "parts[0].data"
    return caught.value.reason


# ---- WAV and AIFF from writers that could not seek back ---------------------------------------

PLACEHOLDERS = (
    0x7FFF0000,
    0x7FFFF000,
    0x7FFFFF00,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFDB,
    0xFFFFFF00,
    0xFFFFFFFF,
    0,
)


@pytest.mark.parametrize("size", PLACEHOLDERS)
@pytest.mark.parametrize("riff", ["true", "follows", "zero", "full"])
def test_wav_of_a_pipe_is_heard_to_its_end(size: int, riff: str) -> None:
    claim = {"true": None, "follows": size + 36 & 0xFFFFFFFF, "zero": 0, "full": 0xFFFFFFFF}[riff]
    found = heard(made.wav_claiming(size, claim))
    assert (found.seconds, found.warning) == (1.0, LENGTH_UNKNOWN)


@pytest.mark.parametrize("size", PLACEHOLDERS)
def test_aiff_of_a_pipe_is_heard_to_its_end(size: int) -> None:
    data = made.sound(form="AIFF")
    found = heard(made.patched(data, data.index(b"SSND") + 4, ">I", size))
    assert (found.seconds, found.warning) == (1.0, LENGTH_UNKNOWN)


def test_wav_that_counts_its_header_as_samples_is_heard() -> None:
    found = heard(made.wav_claiming(32_036))  # the RIFF size is right, and the file reaches it
    assert (found.seconds, found.warning) == (1.0, LENGTH_WRONG)


@pytest.mark.parametrize(
    ("size", "riff"), [(36_000, None), (32_036, 32_072), (64_000, None), (0x7FFEFFFF, None)]
)
def test_wav_that_was_cut_is_refused(size: int, riff: int | None) -> None:
    assert refused(made.wav_claiming(size, riff)) == "AUDIO_TRUNCATED"


def test_wav_that_is_really_empty_is_not_filled_from_the_chunks_behind_it() -> None:
    empty = made.sound(np.zeros(0, np.float32)) + b"LIST" + struct.pack("<I", 4000) + b"a" * 4000
    assert refused(empty) == "AUDIO_TOO_SHORT"


@pytest.mark.parametrize(("size", "reason"), [(32_000, ""), (64_000, "AUDIO_TRUNCATED")])
def test_rf64_is_judged_by_its_long_size(size: int, reason: str) -> None:
    data = made.sound(form="RF64")
    at = data.index(b"ds64")
    changed = made.patched(data, at + 16, "<Q", size)
    changed = made.patched(changed, changed.index(b"data") + 4, "<I", 0xFFFFFFFF)
    assert refused(changed) == reason if reason else heard(changed).seconds == 1.0


# ---- ID3v2 tags in front of anything ----------------------------------------------------------


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "AIFF", "MP3"])
@pytest.mark.parametrize("size", [0, 127, 128, 70_000])
@pytest.mark.parametrize("footer", [False, True])
def test_sound_behind_a_tag_is_the_same_sound(form: str, size: int, footer: bool) -> None:
    plain = made.sound(form=form)
    found = heard(made.id3_tag(size, footer) + plain)
    assert np.array_equal(found.wave, heard(plain).wave)
    assert found.codec == heard(plain).codec and not found.warning


def test_two_tags_are_both_skipped() -> None:
    assert heard(made.id3_tag() * 2 + made.sound(form="FLAC")).seconds == 1.0


def test_file_that_ends_within_its_tag_was_cut() -> None:
    assert refused(made.id3_tag(5000)[:900]) == "AUDIO_TRUNCATED"


def test_padding_between_tag_and_frames_is_skipped() -> None:
    assert heard(made.id3_tag() + bytes(3000) + made.mp3()).seconds == 1.0


# ---- MP3: the length is that of its frames ----------------------------------------------------

RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
ONE_FRAME = 1152


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("stereo", [False, True])
def test_mp3_without_a_length_is_heard_to_its_end(rate: int, stereo: bool) -> None:
    """libmpg123's estimate lost 79 % of such a file at 44.1 kHz without an error."""
    whole = made.mp3(1.7, rate, stereo)
    found = heard(made.without_xing(whole))
    assert found.sample_rate == rate and not found.warning
    assert 0 <= len(found.wave) - 1.7 * rate <= 2 * ONE_FRAME  # encoders pad at both ends
    assert np.abs(found.wave).max() > 0.25


@pytest.mark.parametrize("rate", RATES)
def test_mp3_with_its_length_keeps_the_exact_samples(rate: int) -> None:
    assert len(heard(made.mp3(1.3, rate)).wave) == int(1.3 * rate)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(60), bytes(500)])
@pytest.mark.parametrize("xing", [True, False])
def test_what_follows_the_frames_is_not_sound(tail: bytes, xing: bool) -> None:
    data = made.mp3(1.0, 44_100)
    data = data if xing else made.without_xing(data)
    found = heard(data + tail)
    assert np.array_equal(found.wave, heard(data).wave) and not found.warning


def test_mp3_joined_from_two_files_is_heard_whole() -> None:
    one = made.mp3(1.0)
    found = heard(one + one)
    assert found.warning == LENGTH_WRONG and 2.0 <= found.seconds < 2.2


@pytest.mark.parametrize("bytes_off", [1, 2, 3, 10, 60])
@pytest.mark.parametrize("xing", [True, False])
def test_mp3_that_ends_within_a_frame_was_cut(bytes_off: int, xing: bool) -> None:
    data = made.mp3(1.0, 44_100)
    data = data if xing else made.without_xing(data)
    assert refused(data[:-bytes_off]) == "AUDIO_TRUNCATED"


def test_mp3_that_lacks_whole_frames_of_its_header_was_cut() -> None:
    data = made.mp3(1.0)
    frames = data.index(b"Xing" if b"Xing" in data else b"Info") + 8
    (count,) = struct.unpack_from(">I", data, frames)
    assert refused(made.patched(data, frames, ">I", count + 3)) == "AUDIO_TRUNCATED"


def test_mp3_with_a_damaged_place_is_heard_with_a_warning() -> None:
    data = bytearray(made.without_xing(made.mp3(2.0)))
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    found = heard(bytes(data))
    assert found.warning == DAMAGED and found.seconds > 1.7


def test_mp3_of_free_bit_rate_is_refused_with_the_command() -> None:
    data = bytearray(made.mp3())
    data[2] &= 0x0F
    with pytest.raises(BadInput, match="ffmpeg -i") as caught:
        decode(Part("audio", bytes(data)), "parts[0]", LIMITS)
    assert caught.value.reason in ("AUDIO_UNSUPPORTED", "AUDIO_UNDECODABLE")


def test_long_mp3_is_refused_before_it_is_decoded() -> None:
    frames = made.without_xing(made.mp3(10.0))
    assert refused(frames * 4) == "AUDIO_TOO_LONG"


# ---- FLAC and Ogg without a length or an end --------------------------------------------------


def test_flac_of_a_pipe_is_heard_to_its_end() -> None:
    found = heard(made.flac_claiming(0, 2.0))
    assert (found.seconds, found.warning) == (2.0, LENGTH_UNKNOWN)


def test_flac_of_a_pipe_is_limited_while_it_is_read() -> None:
    assert refused(made.flac_claiming(0, 31.0)) == "AUDIO_TOO_LONG"


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_flac_of_a_pipe_that_was_cut_is_refused(share: float) -> None:
    data = made.flac_claiming(0)
    assert refused(data[: int(len(data) * share)]) in ("AUDIO_UNDECODABLE", "AUDIO_TRUNCATED")


def test_flac_that_claims_less_than_it_holds_is_heard_whole() -> None:
    found = heard(made.flac_claiming(8_000, 1.0))
    assert (found.seconds, found.warning) == (1.0, LENGTH_WRONG)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_ogg_without_the_end_flag_is_heard_to_its_end(subtype: str) -> None:
    *pages, last = made.ogg_pages(subtype)
    found = heard(b"".join(pages) + made.without_end_flag(last))
    assert (found.seconds, found.warning) == (2.0, NO_END)


@pytest.mark.parametrize("kept", [0, 1, 26, 27, 300, 2000])
def test_ogg_whose_last_page_is_cut_is_heard_up_to_it(kept: int) -> None:
    *pages, last = made.ogg_pages("OPUS")
    found = heard(b"".join(pages) + last[:kept])
    (samples,) = struct.unpack("<q", pages[-1][6:14])
    assert found.warning == NO_END
    assert abs(len(found.wave) - samples) < 1000  # less the encoder's delay


def test_ogg_that_ends_in_its_headers_is_refused() -> None:
    pages = made.ogg_pages("OPUS")
    assert refused(b"".join(pages[:2])).startswith("AUDIO_")
    assert refused(pages[0][:20]) == "AUDIO_TRUNCATED"


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_chain_of_ogg_streams_is_heard_whole(subtype: str) -> None:
    """libsndfile stops after the first link without an error."""
    data = b"".join(made.ogg_pages(subtype))
    found = heard(data * 3)
    assert (found.seconds, found.warning) == (6.0, "")


def test_chain_of_different_rates_is_refused_with_the_command() -> None:
    other = made.sound(made.tone(1.0, 16_000), 16_000, "OGG", "VORBIS")
    assert refused(b"".join(made.ogg_pages("VORBIS")) + other) == "AUDIO_UNSUPPORTED"


def test_missing_page_is_a_warning_and_not_silent() -> None:
    pages = made.ogg_pages("OPUS", 4.0)
    assert len(pages) > 5
    del pages[3]
    data = b"".join(pages)
    try:
        assert heard(data).warning == PAGES_MISSING
    except BadInput as fault:
        assert fault.reason == "AUDIO_TRUNCATED"


def test_chain_of_very_many_links_is_refused_unread() -> None:
    data = b"".join(made.ogg_pages("OPUS", 0.1))
    assert refused(data * 100) == "AUDIO_UNSUPPORTED"


# ---- what the model hears ---------------------------------------------------------------------


def test_channels_that_cancel_each_other_are_silence() -> None:
    wave = made.tone()
    assert refused(made.sound(np.stack([wave, -wave], axis=1))) == "AUDIO_SILENT"


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mp3_whose_header_the_decoder_cannot_see_is_heard_whole(rate: int) -> None:
    """libmpg123 looks for a header in a frame without side information only; in any other it
    estimates the length, and half the sound was lost without an error."""
    whole = made.mp3(2.0, rate)
    changed = bytearray(whole)
    changed[8] |= 0x40
    found = heard(bytes(changed))
    assert abs(found.seconds - 2.0) < 0.12 and found.warning == LENGTH_WRONG


def test_mp3_whose_header_takes_off_most_of_the_sound_is_heard_whole() -> None:
    """12 bits each of delay and padding: up to half a second of sound at 16 kHz."""
    whole = made.mp3(1.0)
    at = whole.index(b"Xing") if b"Xing" in whole else whole.index(b"Info")
    at += 120 + 21
    changed = whole[:at] + b"\xff\xff\xff" + whole[at + 3 :]
    found = heard(changed)
    assert found.seconds > 0.95 and found.warning == LENGTH_WRONG


@pytest.mark.parametrize(
    ("subtype", "offset"), [("IMA_ADPCM", 2), ("IMA_ADPCM", 3), ("MS_ADPCM", 0)]
)
def test_block_of_adpcm_that_no_encoder_writes_is_a_warning(subtype: str, offset: int) -> None:
    whole = made.sound(made.tone(1.0), subtype=subtype)
    assert heard(whole).warning == ""
    block = int.from_bytes(whole[32:34], "little")
    samples = whole.index(b"data") + 8
    changed = bytearray(whole)
    changed[samples + block + offset] = 0xF0
    assert heard(bytes(changed)).warning == DAMAGED


# ---- a usual WAV is read without libsndfile ----------------------------------------------------


def wav_of(rate: int, channels: int, before: bytes = b"", behind: bytes = b"") -> bytes:
    rng = np.random.default_rng(rate)
    samples = rng.integers(-32768, 32768, (rate // 4, channels), dtype=np.int16)
    samples[0] = -32768
    data = made.sound(samples, rate)
    at = data.index(b"data")
    return data[:at] + before + data[at:] + behind


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("before", "behind"), [(b"", b""), (b"LIST\3\0\0\0abc\0", b""), (b"", b"LIST\2\0\0\0ab")]
)
def test_usual_wav_is_equal_to_the_bit_to_what_libsndfile_reads(
    rate: int, channels: int, before: bytes, behind: bytes
) -> None:
    data = wav_of(rate, channels, before, behind)
    assert riff.pcm16(data) is not None
    wave, found_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    found = heard(data)
    np.testing.assert_array_equal(found.wave, wave)
    assert (found.sample_rate, found.codec, found.payload_bytes) == (found_rate, "WAV", len(data))


@pytest.mark.parametrize(
    "data",
    [
        made.wav_claiming(0),
        made.wav_claiming(1 << 20),
        made.wav_claiming(31_999),
        made.sound(subtype="PCM_24"),
        made.sound(subtype="FLOAT"),
        made.sound(subtype="ULAW"),
        wav_of(8_000, 1, before=b"odd?\0\0\0\0"),
        wav_of(8_000, 1, behind=b"data\2\0\0\0ab"),
        wav_of(8_000, 1, before=b"LIST\0\0\0\0" * 100),
        made.sound()[:40],
        made.sound(form="AIFF"),
        b"RIFF\0\0\0\0WAVE",
    ],
    ids=range(12),
)
def test_any_other_sound_is_left_to_libsndfile(data: bytes) -> None:
    assert riff.pcm16(data) is None
