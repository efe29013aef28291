"""Every kind of part decodes; every bad one is refused by name, in bounded memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media.decode import (
    DecodedAudio,
    DecodedImage,
    InputLimits,
    check_parts,
    decode,
    decode_row,
)
from pipelines.types import Modality, Part, PcmFormat
from tests.support import media_bytes as made

LIMITS = InputLimits()
FIELD = "parts[2]"


def opened(data: bytes | str, kind: Modality | None = None, mime: str = "") -> DecodedImage:
    found = decode(Part(kind, data, mime), FIELD, LIMITS)
    assert isinstance(found, DecodedImage)
    return found


def heard(data: bytes, mime: str = "", pcm: PcmFormat | None = None) -> DecodedAudio:
    found = decode(Part(None, data, mime, pcm), FIELD, LIMITS)
    assert isinstance(found, DecodedAudio)
    return found


def refusal(
    data: bytes | str,
    kind: Modality | None = None,
    mime: str = "",
    pcm: PcmFormat | None = None,
    limits: InputLimits = LIMITS,
) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(Part(kind, data, mime, pcm), FIELD, limits)
    assert caught.value.field.startswith(FIELD)
    assert " at 0x" not in caught.value.message  # no address of ours in an answer
    return caught.value


# Pictures


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_image_format_decodes_without_being_told_which(form: str) -> None:
    found = opened(made.image(form))
    assert (found.format, found.width, found.height) == (form, 80, 60)
    assert found.pixels.dtype == np.uint8 and found.pixels.shape == (60, 80, 3)
    assert np.abs(found.pixels.astype(int) - made.photo().astype(int)).mean() < 25


def test_lossless_formats_give_the_very_pixels() -> None:
    for form in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(opened(made.image(form)).pixels, made.photo())


@pytest.mark.parametrize("scheme", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff_decodes(scheme: str) -> None:
    found = opened(made.image("TIFF", compression=scheme))
    assert np.array_equal(found.pixels, made.photo())


def test_tiff_with_jpeg_inside_is_refused_because_short_data_would_not_show() -> None:
    assert refusal(made.image("TIFF", compression="jpeg")).reason == "IMAGE_UNSUPPORTED"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(made.photo())
    found = opened(made.image(form, picture, exif=exif))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = np.asarray(picture.transpose(turns[orientation]) if orientation > 1 else picture)
    assert found.has_orientation == (orientation > 1)
    assert found.pixels.shape == upright.shape
    assert np.abs(found.pixels.astype(int) - upright.astype(int)).mean() < 8


def test_orientation_that_does_not_exist_is_a_warning_and_no_refusal() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    found = opened(made.image("JPEG", exif=exif))
    assert found.warning and not found.has_orientation and found.width == 80


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_picture() -> None:
    assert opened(made.image("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01")).width == 80


def test_transparency_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    half = Image.new("RGBA", (20, 10), (255, 0, 0, 128))
    assert (opened(made.image("PNG", clear)).pixels == 255).all()
    assert opened(made.image("PNG", half)).pixels[0, 0].tolist() == [255, 127, 127]


def test_transparent_colour_of_a_palette_or_a_truecolour_png_is_white() -> None:
    palette = Image.new("P", (20, 10), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (opened(made.image("PNG", palette, transparency=1)).pixels == 255).all()
    plain = Image.new("RGB", (20, 10), (9, 8, 7))
    assert (opened(made.image("PNG", plain, transparency=(9, 8, 7))).pixels == 255).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 257, 32768, 65535]] * 4, dtype=np.uint16)
    found = opened(made.image("PNG", Image.fromarray(grey)))
    assert found.mode == "I;16"
    assert found.pixels[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "YCbCr", "LAB"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    picture = Image.fromarray(made.photo()).convert("RGB")
    if mode == "LAB":
        picture = Image.new("LAB", (80, 60), (128, 128, 128))
    found = opened(made.image("TIFF", picture.convert(mode)))
    assert found.mode == mode and found.pixels.shape == (60, 80, 3)


def test_float_pixels_are_refused_with_a_remedy() -> None:
    fault = refusal(made.image("TIFF", Image.new("F", (20, 10))))
    assert fault.reason == "IMAGE_MODE" and "8 or 16 bits" in fault.message


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    data = made.image("GIF", frames[0], save_all=True, append_images=frames[1:])
    assert opened(data).pixels[0, 0].tolist() == [255, 0, 0]


def test_tall_picture_is_converted_in_strips_without_a_seam() -> None:
    pixels = made.photo(1200, 70)
    with_alpha = Image.fromarray(pixels).convert("RGBA")
    assert np.array_equal(opened(made.image("PNG", with_alpha)).pixels, pixels)


def test_jpeg_draft_is_off_unless_the_bundle_asks_for_it() -> None:
    data = made.image("JPEG", Image.fromarray(made.photo(480, 640)))
    assert opened(data).width == 640
    found = decode(Part(None, data), FIELD, replace(LIMITS, jpeg_draft_px=112))
    assert isinstance(found, DecodedImage) and found.width == 160


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9, 0.99])
def test_truncated_image_is_refused(form: str, share: float) -> None:
    data = made.image(form)
    fault = refusal(data[: int(len(data) * share)])
    assert fault.reason in ("IMAGE_UNDECODABLE", "IMAGE_TRUNCATED")
    assert fault.field == "parts[2].data"


@pytest.mark.parametrize("rows", [1, 10, 399])
def test_well_formed_png_with_missing_rows_is_refused(rows: int) -> None:
    fault = refusal(made.png(300, 400, rows))
    assert fault.reason == "IMAGE_TRUNCATED" and "400 rows" in fault.message


def test_complete_black_or_interlaced_png_is_not_taken_for_a_short_one() -> None:
    assert (opened(made.image("PNG", Image.new("RGB", (50, 40)))).pixels == 0).all()
    assert opened(made.png(300, 400, 400)).height == 400
    black = Image.new("RGBA", (50, 40), (0, 0, 0, 255))
    assert (opened(made.image("PNG", black)).pixels == 0).all()


def test_short_interlaced_png_is_refused() -> None:
    short = made.png(8, 8, 3, interlace=1)  # three rows of 25 bytes; the seven passes need 210
    assert refusal(short).reason in ("IMAGE_TRUNCATED", "IMAGE_UNDECODABLE")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_that_ends_early_behind_a_proper_end_marker_is_refused(
    options: dict[str, object], mode: str
) -> None:
    short = made.image("JPEG", Image.fromarray(made.photo(10, 320)).convert(mode), **options)
    frame = short.find(b"\xff\xc2" if "progressive" in options else b"\xff\xc0")
    assert refusal(made.patched(short, frame + 5, ">H", 400)).reason == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_complete_jpeg_of_plain_grey_is_not_taken_for_a_short_one(
    options: dict[str, object],
) -> None:
    grey = Image.new("RGB", (333, 222), (128, 128, 128))
    assert opened(made.image("JPEG", grey, **options)).pixels[-1, -1].tolist() == [128, 128, 128]
    assert opened(made.image("JPEG", Image.new("CMYK", (33, 22)), **options)).height == 22


@pytest.mark.parametrize("size", [(13_000, 13_000), (1, 2**31 - 1), (17_000, 1), (6_000, 4_200)])
def test_image_over_a_limit_is_refused_from_its_header(size: tuple[int, int]) -> None:
    fault = refusal(made.png(*size, rows=1))
    assert fault.reason == "IMAGE_TOO_LARGE" and str(LIMITS.max_image_pixels) in fault.message


@pytest.mark.parametrize(
    ("size", "largest"),
    [((8000, 6000), (5773, 4330)), ((6000, 8000), (4330, 5773)), ((17_000, 400), (16_384, 385))],
)
def test_image_over_a_limit_is_refused_with_the_largest_size_and_the_command(
    size: tuple[int, int], largest: tuple[int, int]
) -> None:
    fault = refusal(made.png(*size, rows=1))
    width, height = largest
    command = f"magick INPUT -resize {width}x{height} OUTPUT.jpg"
    assert fault.message.endswith(f"Scale it down to {width}x{height} or less: {command}")
    assert width * height <= LIMITS.max_image_pixels and max(largest) <= LIMITS.max_image_side


def test_webp_over_a_limit_is_refused_before_its_canvas_is_allocated() -> None:
    lossy, lossless = made.image("WEBP"), made.image("WEBP", lossless=True)
    assert lossy[12:16] == b"VP8 " and lossless[12:16] == b"VP8L"
    wide = made.patched(lossy, 26, "<H", 16_000)
    bits = struct.unpack("<I", lossless[21:25])[0] | 0x3FFF | 0x3FFF << 14
    extended = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x00" * 2
    tall = made.patched(wide, 28, "<H", 16_000)
    for data in (tall, made.patched(lossless, 21, "<I", bits), extended):
        assert refusal(data).reason == "IMAGE_TOO_LARGE"


def test_extreme_aspect_is_refused() -> None:
    fault = refusal(made.image("PNG", Image.new("RGB", (1010, 10))))
    assert fault.reason == "IMAGE_ASPECT" and "100 times" in fault.message


# Sounds


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


# What a part claims to be


@pytest.mark.parametrize(
    ("data", "kind", "mime", "reason", "field"),
    [
        (made.image("JPEG"), "image", "image/png", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), None, "audio/wav", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), "audio", "image/jpeg", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), "audio", "", "KIND_MISMATCH", ".data"),
        (made.image("JPEG"), None, "application/pdf", "MIME_UNSUPPORTED", ".mime"),
        (WAV, "image", "", "KIND_MISMATCH", ".data"),
        ("words", "image", "", "KIND_MISMATCH", ".data"),
        (b"%PDF-1.7\n\0", None, "", "UNSUPPORTED_PDF", ".data"),
        (b"\1\2\3\0", None, "", "UNKNOWN_FORMAT", ".data"),
        (b"words", "audio", "", "UNKNOWN_FORMAT", ".data"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image", "", "UNSUPPORTED_POSTSCRIPT", ".data"),
    ],
)
def test_part_that_is_not_what_it_claims_is_refused(
    data: bytes | str, kind: Modality | None, mime: str, reason: str, field: str
) -> None:
    fault = refusal(data, kind, mime)
    assert (fault.reason, fault.field) == (reason, FIELD + field)


@pytest.mark.parametrize("mime", ["image/jpeg", "IMAGE/JPEG; q=1", "image/*", ""])
def test_mime_that_agrees_or_says_nothing_is_accepted(mime: str) -> None:
    assert opened(made.image("JPEG"), mime=mime).format == "JPEG"


# Text


def test_text_comes_as_words_or_as_utf8() -> None:
    assert decode(Part(None, "Größe 3"), FIELD, LIMITS) == "Größe 3"
    assert decode(Part("text", "Größe 3".encode()), FIELD, LIMITS) == "Größe 3"
    assert decode(Part(None, b"plain", "text/plain; charset=utf-8"), FIELD, LIMITS) == "plain"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"abc\xff", "TEXT_NOT_UTF8"),
        (b"\xc0\xaf", "TEXT_NOT_UTF8"),
        ("a\ud800", "TEXT_NOT_UTF8"),
        ("", "TEXT_EMPTY"),
        (" \n\t\u200b\x00", "TEXT_EMPTY"),
        ("a" * 65_537, "TEXT_TOO_LONG"),
        ("é" * 32_769, "TEXT_TOO_LONG"),
        (b"", "EMPTY"),
    ],
)
def test_bad_text_is_refused(data: bytes | str, reason: str) -> None:
    fault = refusal(data, "text")
    assert fault.reason == reason and fault.field == "parts[2].data"


# Whole rows


def test_row_without_parts_or_with_ten_thousand_is_refused_unread() -> None:
    for parts, reason in (((), "NO_PARTS"), ((Part(None, b"\xff"),) * 10_000, "TOO_MANY_PARTS")):
        with pytest.raises(BadInput) as caught:
            decode_row(parts, LIMITS)
        assert (caught.value.field, caught.value.reason) == ("parts", reason)
    check_parts((Part(None, "a"),) * LIMITS.max_parts, LIMITS)


def test_row_is_limited_in_bytes_before_and_after_decoding() -> None:
    with pytest.raises(BadInput, match="limit is 10"):
        check_parts((Part(None, "x" * 6),) * 2, replace(LIMITS, max_row_bytes=10))
    picture = Part(None, made.image())
    small = replace(LIMITS, max_row_decoded_bytes=3 * 60 * 80 * 2)
    assert len(decode_row([picture] * 2, small)) == 2
    with pytest.raises(BadInput) as caught:
        decode_row([picture] * 3, small)
    assert (caught.value.field, caught.value.reason) == ("parts[2].data", "ROW_TOO_LARGE")


def test_part_over_its_byte_limit_is_refused_unread() -> None:
    fault = refusal(b"\xff" * 100, limits=replace(LIMITS, max_part_bytes=99))
    assert fault.reason == "PART_TOO_LARGE" and "99" in fault.message


def test_threads_decode_the_same_as_one() -> None:
    parts = [Part(None, made.image("JPEG")), Part(None, made.sound(form="FLAC"))] * 8
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda part: decode(part, FIELD, LIMITS), parts))
    for first, other in zip(found[:2] * 8, found, strict=True):
        assert type(first) is type(other)
        if isinstance(first, DecodedImage) and isinstance(other, DecodedImage):
            assert np.array_equal(first.pixels, other.pixels)
        if isinstance(first, DecodedAudio) and isinstance(other, DecodedAudio):
            assert np.array_equal(first.wave, other.wave)


BOMBS = """
import resource, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from pipelines.media.decode import InputLimits, decode
from pipelines.errors import BadInput
from pipelines.types import Part
from tests.support import media_bytes as made

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

decode(Part(None, made.image("WEBP")), "warm", InputLimits())
png = made.png(13_000, 13_000, 40)
webp = b"RIFF\\x16\\0\\0\\0WEBPVP8X\\x0a\\0\\0\\0\\0\\0\\0\\0" + b"\\xff\\x3f\\x00" * 2
opus = made.opus_bomb(25_000_000)
before = peak_mib()
for bomb in (png, webp, opus, opus[: len(opus) // 2]):
    try:
        decode(Part(None, bomb), "parts[0]", InputLimits())
    except BadInput as fault:
        print(fault.reason)
print(peak_mib() - before)
"""


def test_bombs_are_refused_in_little_memory() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(root)], capture_output=True, text=True, check=True
    )
    *reasons, growth = done.stdout.split()
    assert reasons == ["IMAGE_TOO_LARGE"] * 2 + ["AUDIO_TOO_LONG"] * 2
    assert int(growth) < 64


SEEDS = (
    *(made.image(form) for form in ("PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP")),
    *(made.sound(made.tone(0.1), form=form) for form in ("WAV", "FLAC", "OGG", "AIFF", "MP3")),
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=8
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(seed=st.sampled_from(SEEDS), edits=EDITS, keep=st.floats(0.0, 1.0))
def test_damaged_files_decode_or_are_refused_and_nothing_else(
    seed: bytes, edits: list[tuple[float, int, bool]], keep: float
) -> None:
    data = bytearray(seed)
    for where, value, near_start in edits:
        reach = min(len(data), 64) if near_start else len(data)
        data[int(where * (reach - 1))] = value
    damaged = bytes(data) if keep > 0.5 else bytes(data[: int(2 * keep * len(data))])
    try:
        found = decode(Part(None, damaged), FIELD, LIMITS)
    except BadInput as fault:
        assert fault.field.startswith(FIELD) and fault.reason.isupper()
    else:
        assert isinstance(found, str | DecodedImage | DecodedAudio)
