"""Sound headers that contradict themselves or the content about rate, channels, width or length:
the part is used as a player plays it, with a warning; where players differ it is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pipelines.errors import BadInput
from pipelines.media import flac
from pipelines.media.decode import DecodedAudio, InputLimits, decode
from pipelines.media.limits import (
    DAMAGED,
    HEADER_WRONG,
    INCOMPLETE,
    LENGTH_WRONG,
    NO_END,
    PAGES_MISSING,
)
from pipelines.types import Part
from tests.support import media_bytes as made

LIMITS = InputLimits()


def heard(data: bytes) -> DecodedAudio:
    found = decode(Part("audio", data), "parts[0]", LIMITS)
    assert isinstance(found, DecodedAudio)
    return found


def refused(data: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(Part("audio", data), "parts[0]", LIMITS)
    assert caught.value.field == "parts[0].data"
    return caught.value


def test_a_contradiction_is_a_warning_and_not_a_cut() -> None:
    """Everything in the file was used, so `on_truncation: REFUSE` does not refuse it."""
    assert HEADER_WRONG not in INCOMPLETE


# ---- WAV: rate, channels, bits, bytes a frame and bytes a second ------------------------------

STEREO = np.stack([made.tone(), made.tone(hertz=660.0)], axis=1)
WAVES = {
    "mono": made.sound(),
    "stereo": made.sound(STEREO),
    "24 bits": made.sound(subtype="PCM_24"),
    "float": made.sound(subtype="FLOAT"),
    "mu-law": made.sound(subtype="ULAW"),
    "extensible": made.sound(form="WAVEX"),
    "RF64": made.sound(form="RF64"),
    "IMA": made.sound(subtype="IMA_ADPCM"),
    "MS": made.sound(subtype="MS_ADPCM"),
    "IMA stereo": made.sound(STEREO, subtype="IMA_ADPCM"),
    "MS stereo": made.sound(STEREO, subtype="MS_ADPCM"),
}
CHANNELS, RATE, BYTE_RATE, FRAME, BITS = 2, 4, 8, 12, 14  # places in the `fmt ` chunk


def layout_of(data: bytes) -> int:
    return data.index(b"fmt ") + 8


def changed(name: str, **fields: int) -> bytes:
    """One of WAVES with other values in its `fmt ` chunk."""
    data = WAVES[name]
    places = {
        "channels": (CHANNELS, "<H"),
        "rate": (RATE, "<I"),
        "byte_rate": (BYTE_RATE, "<I"),
        "frame": (FRAME, "<H"),
        "bits": (BITS, "<H"),
        "used_bits": (18, "<H"),
    }
    for field, value in fields.items():
        offset, layout = places[field]
        data = made.patched(data, layout_of(data) + offset, layout, value)
    return data


@pytest.mark.parametrize("name", WAVES)
def test_wav_as_writers_write_it_has_no_warning(name: str) -> None:
    found = heard(WAVES[name])
    assert found.warning == "" and abs(found.seconds - 1.0) < 0.05


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("byte_rate", [0, 1, 4_000, 96_000, 0xFFFFFFFF])
def test_wav_of_another_byte_rate_is_heard_at_its_rate(name: str, byte_rate: int) -> None:
    """Players go by the rate; some recorders write 0 here. Of ADPCM ffmpeg writes what it likes."""
    found = heard(changed(name, byte_rate=byte_rate))
    whole = heard(WAVES[name])
    warning = "" if name.startswith(("IMA", "MS")) else HEADER_WRONG
    assert (found.warning, found.sample_rate) == (warning, 16_000)
    assert np.array_equal(found.wave, whole.wave)


@pytest.mark.parametrize("rate", [8_000, 15_000, 48_000])
def test_wav_of_another_rate_is_heard_as_players_play_it(rate: int) -> None:
    found = heard(changed("mono", rate=rate))
    assert (found.warning, found.sample_rate) == (HEADER_WRONG, rate)


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("more", [-1, 1, 3, 100])
def test_wav_of_another_frame_is_repaired_by_its_other_fields(name: str, more: int) -> None:
    (frame,) = struct.unpack_from("<H", WAVES[name], layout_of(WAVES[name]) + FRAME)
    found = heard(changed(name, frame=max(0, frame + more)))
    assert found.warning == HEADER_WRONG
    assert np.array_equal(found.wave, heard(WAVES[name]).wave)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("mono", {"channels": 2}),
        ("mono", {"channels": 3}),
        ("mono", {"bits": 8}),
        ("mono", {"bits": 24}),
        ("stereo", {"channels": 1}),
        ("stereo", {"channels": 4}),
        ("24 bits", {"bits": 16}),
        ("24 bits", {"bits": 32}),
        ("mu-law", {"bits": 16}),
        ("extensible", {"bits": 24}),
        ("extensible", {"channels": 2}),
        ("RF64", {"bits": 8}),
        ("IMA", {"channels": 2}),
        ("MS", {"channels": 2}),
        ("mono", {"frame": 4, "byte_rate": 1}),
    ],
)
def test_wav_whose_samples_cannot_be_placed_is_refused(name: str, fields: dict[str, int]) -> None:
    fault = refused(changed(name, **fields))
    assert fault.reason == "AUDIO_HEADER_WRONG"
    assert "contradicts itself" in fault.message and "from its source" in fault.message


def test_extensible_wav_that_uses_more_bits_than_it_has_is_a_warning() -> None:
    assert heard(changed("extensible", used_bits=200)).warning == HEADER_WRONG


@pytest.mark.parametrize(("count", "warning"), [(8_000, LENGTH_WRONG), (99_000, LENGTH_WRONG)])
@pytest.mark.parametrize("name", ["float", "mu-law", "IMA", "MS"])
def test_wav_that_counts_other_samples_is_heard_whole(name: str, count: int, warning: str) -> None:
    data = WAVES[name]
    found = heard(made.patched(data, data.index(b"fact") + 8, "<I", count))
    assert found.warning == warning and abs(found.seconds - 1.0) < 0.05


def test_usual_wav_beside_a_chunk_that_counts_other_samples_is_a_warning() -> None:
    data = WAVES["mono"]
    at = data.index(b"data")
    for count, warning in ((16_000, ""), (8_000, LENGTH_WRONG), (0, "")):
        chunk = b"fact" + struct.pack("<II", 4, count)
        whole = made.patched(data[:at] + chunk + data[at:], 4, "<I", len(data) + 4)
        assert heard(whole).warning == warning


def test_rf64_that_counts_other_samples_is_heard_whole() -> None:
    data = WAVES["RF64"]
    data = made.patched(data, data.index(b"ds64") + 24, "<Q", 8_000)
    assert (heard(data).warning, heard(data).seconds) == (LENGTH_WRONG, 1.0)


# ---- AIFF: channels, frames and bits against the bytes there are ------------------------------

AIFF = made.sound(form="AIFF")


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (2, ">I", 8_000),
        (2, ">I", 99_000),
        (0, ">H", 2),
        (0, ">H", 4),
        (6, ">H", 8),
        (6, ">H", 24),
    ],
)
def test_aiff_whose_layout_does_not_fit_its_samples_is_a_warning(
    offset: int, layout: str, value: int
) -> None:
    data = made.patched(AIFF, AIFF.index(b"COMM") + 8 + offset, layout, value)
    assert heard(data).warning == HEADER_WRONG and heard(AIFF).warning == ""


# ---- FLAC: STREAMINFO against the frames ------------------------------------------------------


def flac_of(rate: int = 16_000, channels: int = 1, width: int = 16, seconds: float = 1.0) -> bytes:
    wave = np.stack([made.tone(seconds, rate)] * channels, axis=1)
    return made.sound(wave, rate, "FLAC", f"PCM_{width}")


def claiming(data: bytes, rate: int = 0, channels: int = 0, width: int = 0) -> bytes:
    """STREAMINFO with another layout, its count of samples unchanged."""
    bits = int.from_bytes(data[18:26], "big")
    fields = (
        rate or bits >> 44,
        channels - 1 if channels else bits >> 41 & 7,
        width - 1 if width else bits >> 36 & 31,
    )
    head = (fields[0] << 8 | fields[1] << 5 | fields[2]) << 36 | bits & (1 << 36) - 1
    return data[:18] + head.to_bytes(8, "big") + data[26:]


def frames_of(data: bytes) -> list[int]:
    """Where the frames begin."""
    found = [at for at in range(42, len(data)) if data[at : at + 2] == b"\xff\xf8"]
    return [at for at in found if flac.header(data[at : at + 16]) is not None]


@pytest.mark.parametrize("rate", [8_000, 11_111, 16_001, 48_000, 96_000])
@pytest.mark.parametrize("width", [16, 24])
def test_flac_is_heard_at_the_rate_of_its_frames(rate: int, width: int) -> None:
    whole = flac_of(width=width)
    found = heard(claiming(whole, rate=rate))
    assert (found.sample_rate, found.seconds, found.warning) == (16_000, 1.0, HEADER_WRONG)
    assert np.array_equal(found.wave, heard(whole).wave) and not heard(whole).warning


@pytest.mark.parametrize(
    "rate", [8_000, 11_025, 12_345, 22_050, 44_100, 48_000, 88_200, 96_000, 192_000]
)
def test_flac_of_any_rate_has_no_warning(rate: int) -> None:
    """Frames have a rate in three forms, or none."""
    found = heard(flac_of(rate, 2))
    assert (found.sample_rate, found.warning) == (rate, "")


@pytest.mark.parametrize("channels", [2, 8])
def test_flac_is_heard_with_the_channels_of_its_frames(channels: int) -> None:
    whole = flac_of()
    found = heard(claiming(whole, channels=channels))
    assert (found.channels, found.warning) == (1, HEADER_WRONG)
    assert np.array_equal(found.wave, heard(whole).wave)


@pytest.mark.parametrize(("width", "claimed"), [(16, 24), (16, 8), (24, 16)])
def test_flac_is_as_loud_as_its_frames(width: int, claimed: int) -> None:
    whole = flac_of(width=width)
    found = heard(claiming(whole, width=claimed))
    assert found.warning == HEADER_WRONG
    assert np.array_equal(found.wave, heard(whole).wave)


def test_flac_whose_frames_change_is_refused_with_the_command() -> None:
    one, other = flac_of(16_000), flac_of(8_000)
    joined = claiming(one + other[frames_of(other)[0] :])
    fault = refused(joined)
    assert fault.reason == "AUDIO_UNSUPPORTED" and "ffmpeg -i INPUT" in fault.message


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_flac_without_a_frame_in_the_middle_is_a_warning_or_refused(missing: int) -> None:
    """libFLAC puts silence there without an error."""
    whole = flac_of(seconds=2.0)
    at = [*frames_of(whole), len(whole)]
    assert len(at) > 6
    data = whole[: at[missing]] + whole[at[missing + 1] :]
    try:
        assert heard(data).warning == DAMAGED
    except BadInput as fault:
        assert fault.reason in ("AUDIO_TRUNCATED", "AUDIO_UNDECODABLE")


# ---- Ogg: pages against their checksums and numbers -------------------------------------------


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("page", [2, 3, -1])
def test_ogg_of_which_a_page_is_damaged_is_a_warning_or_refused(subtype: str, page: int) -> None:
    """libogg drops such a page without an error."""
    pages = made.ogg_pages(subtype, 4.0)
    damaged = bytearray(pages[page])
    damaged[-20] ^= 1
    pages[page] = bytes(damaged)
    try:
        assert heard(b"".join(pages)).warning in (PAGES_MISSING, NO_END)
    except BadInput as fault:
        assert fault.reason.startswith("AUDIO_")


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_ogg_of_which_pages_come_again_is_a_warning(subtype: str) -> None:
    pages = made.ogg_pages(subtype, 4.0)
    assert heard(b"".join(pages)).warning == ""
    try:
        assert heard(b"".join(pages + pages[-2:])).warning == DAMAGED
    except BadInput as fault:
        assert fault.reason.startswith("AUDIO_")


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_ogg_with_bytes_of_no_page_between_is_a_warning(subtype: str) -> None:
    pages = made.ogg_pages(subtype, 4.0)
    assert heard(b"".join(pages[:3]) + bytes(99) + b"".join(pages[3:])).warning == DAMAGED


# ---- MP3: frames that change on the way -------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [made.mp3(1.0, 44_100), made.mp3(1.0, 24_000), made.mp3(1.0, stereo=True)],
    ids=range(3),
)
def test_mp3_whose_frames_change_is_refused_with_the_command(other: bytes) -> None:
    fault = refused(made.mp3() + other)
    assert fault.reason == "AUDIO_UNSUPPORTED" and "ffmpeg -i INPUT" in fault.message


# ---- a codec inside a container that is not its own -------------------------------------------


def mp3_in_wav(frames: bytes) -> bytes:
    layout = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16_000, 4_000, 1, 0, 12, 1, 2, 144, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout
    chunks += b"data" + struct.pack("<I", len(frames)) + frames
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def test_mp3_in_a_wav_is_heard_as_its_frames_are() -> None:
    frames = made.mp3()
    found = heard(mp3_in_wav(frames))
    assert np.array_equal(found.wave, heard(frames).wave)
    assert (found.codec, found.payload_bytes) == ("MP3", len(mp3_in_wav(frames)))
    assert refused(mp3_in_wav(frames)[:-20]).reason == "AUDIO_TRUNCATED"


@pytest.mark.parametrize(
    ("packet", "code"),
    [(b"\x7fFLAC\1\0", "OGG_FLAC"), (b"Speex   1.2", "SPEEX"), (b"\x80theora\3", "OGG_VIDEO")],
)
def test_ogg_of_another_codec_is_named_with_the_command(packet: bytes, code: str) -> None:
    data = made.ogg_page(packet, 0, 2) + made.ogg_page(b"more", 1, 4)
    fault = refused(data)
    assert fault.reason == f"UNSUPPORTED_{code}" and "ffmpeg -i INPUT" in fault.message
