"""Parts that would cost a decoder much are refused by their structure, with the count and a remedy;
files of ordinary encoders pass."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media import work
from pipelines.media.decode import decode
from pipelines.media.limits import InputLimits
from pipelines.types import Part, PcmFormat
from tests.support import media_bytes as made

LIMITS = InputLimits()
SCAN = b"\xff\xda\0\x08\1\1\0\x3f\0\0"


def jpeg_of(scans: int) -> bytes:
    data = made.image("JPEG", Image.new("L", (16, 16)))
    return data[:-2] + SCAN * (scans - 1) + data[-2:]


def png_of(chunks: int) -> bytes:
    data = made.png(4, 4, 4)
    return data[:33] + b"\0\0\0\0tEXt\0\0\0\0" * (chunks - 3) + data[33:]


def gif_of(extensions: int, blocks: int = 1, size: int = 1) -> bytes:
    data = made.image("GIF")
    at = 13 + work.colour_table_bytes(data[10:11])
    one = b"!\xfe" + (bytes((size,)) + b"a" * size) * blocks + b"\0"
    return data[:at] + one * extensions + data[at:]


def tiff_of(entries: int, values: int) -> bytes:
    entry = struct.pack("<HHII", 273, 4, values, 8)
    return b"II*\0" + struct.pack("<IH", 8, entries) + entry * entries + b"\0\0\0\0"


def flac_of(blocks: int) -> bytes:
    data = made.sound(form="FLAC")
    return data[:42] + b"\1\0\0\0" * (blocks - 2) + data[42:]


AT_MOST: dict[str, tuple[str, Callable[[int], bytes], int]] = {
    "scans": ("JPEG", jpeg_of, work.MOST_SCANS),
    "chunks": ("PNG", png_of, work.MOST_PNG_CHUNKS),
    "extensions": ("GIF", gif_of, work.MOST_GIF_EXTENSIONS),
    "entries": ("TIFF", lambda n: tiff_of(n, 1), work.MOST_TIFF_ENTRIES),
    "values": ("TIFF", lambda n: tiff_of(1, n), work.MOST_TIFF_VALUES),
    "metadata": ("FLAC", flac_of, work.MOST_FLAC_BLOCKS),
}


@pytest.mark.parametrize("name", AT_MOST)
def test_a_count_is_refused_from_its_limit_on(name: str) -> None:
    format, make, most = AT_MOST[name]
    work.check(make(most), format, "f", 256)
    with pytest.raises(BadInput, match=str(most)) as caught:
        work.check(make(most + 1), format, "f", 256)
    assert caught.value.reason.endswith("_TOO_COMPLEX") and "Save it again" in caught.value.message


def test_scans_are_counted_by_the_pixels_that_each_goes_over() -> None:
    work.check(jpeg_of(40), "JPEG", "f", 25_000_000)
    with pytest.raises(BadInput, match="40 scans"):
        work.check(jpeg_of(41), "JPEG", "f", 25_000_000)


@pytest.mark.parametrize(
    "data", [gif_of(1, 500_000), gif_of(1, 20_000, 255), gif_of(999, 500, 10)], ids=range(3)
)
def test_blocks_and_bytes_beside_the_picture_of_a_gif_are_limited(data: bytes) -> None:
    with pytest.raises(BadInput, match="limit"):
        decode(Part("image", data), "parts[0]", LIMITS)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_declared_size_is_that_of_the_picture(form: str) -> None:
    picture = Image.fromarray(made.photo(48, 64))
    assert work.declared_pixels(made.image(form, picture), form) == 48 * 64
    assert work.declared_pixels(made.image(form, picture)[:8], form) is None


def test_the_size_of_a_jpeg_behind_much_metadata_is_not_searched_for() -> None:
    data = made.image("JPEG")
    far = data[:2] + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 5 + data[2:]
    assert work.declared_pixels(far, "JPEG") is None
    assert work.cost_s(far, LIMITS) > work.S_PER_PIXEL * LIMITS.max_image_pixels


def test_what_python_reads_itself_is_plain() -> None:
    assert work.plain(Part(None, "a note")) and work.plain(Part("text", b"a note"))
    assert work.plain(Part(None, bytes(8), pcm=PcmFormat(8_000, 1, "s16le")))
    assert work.plain(Part(None, made.sound()))
    assert not work.plain(Part(None, made.sound(form="FLAC")))
    assert not work.plain(Part(None, made.image()))
