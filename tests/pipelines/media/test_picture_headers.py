"""Picture headers that contradict the picture: the part is used as a viewer shows it, with a
warning; where viewers differ it is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media.decode import DecodedImage, InputLimits, decode
from pipelines.media.limits import HEADER_WRONG
from pipelines.types import Modality, Part
from tests.support import media_bytes as made

LIMITS = InputLimits()


def seen(data: bytes) -> DecodedImage:
    found = decode(Part("image", data), "parts[0]", LIMITS)
    assert isinstance(found, DecodedImage)
    return found


def refused(data: bytes, kind: Modality) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(Part(kind, data), "parts[0]", LIMITS)
    assert caught.value.field == "parts[0].data"
    return caught.value


@pytest.mark.parametrize(("width", "height"), [(40, 60), (80, 30), (40, 30), (400, 20), (1, 1)])
def test_gif_whose_picture_passes_its_canvas_is_a_warning(width: int, height: int) -> None:
    data = made.image("GIF")
    found = seen(made.patched(made.patched(data, 6, "<H", width), 8, "<H", height))
    assert found.warning == HEADER_WRONG and seen(data).warning == ""
    assert found.sent == (max(width, 80), max(height, 60))


@pytest.mark.parametrize(("width", "height"), [(160, 60), (80, 90)])
def test_gif_whose_canvas_is_larger_is_seen_on_it(width: int, height: int) -> None:
    """An animation may begin with a small picture; viewers show the canvas."""
    found = seen(made.patched(made.patched(made.image("GIF"), 6, "<H", width), 8, "<H", height))
    assert (found.sent, found.warning) == ((width, height), "")


def extended_webp(width: int, height: int) -> bytes:
    """A lossy picture of 80x60 behind a header that claims another canvas."""
    body = made.image("WEBP")[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X\x0a\0\0\0" + bytes(4) + canvas + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


@pytest.mark.parametrize(("width", "height"), [(40, 60), (80, 61), (800, 600)])
def test_webp_whose_canvas_is_not_its_picture_is_refused(width: int, height: int) -> None:
    assert seen(extended_webp(80, 60)).sent == (80, 60)
    assert refused(extended_webp(width, height), "image").reason == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize("rows", [31, 60])
def test_png_of_more_rows_than_its_header_says_is_seen_as_viewers_show_it(rows: int) -> None:
    found = seen(made.png(80, 30, rows))
    assert found.sent == (80, 30) and (found.pixels == 0x80).all()


def test_png_whose_size_was_changed_without_its_checksum_is_refused() -> None:
    data = made.image("PNG")
    assert zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big")
    assert refused(made.patched(data, 20, ">I", 30), "image").reason == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize(("height", "accepted"), [(48, True), (96, False)])
def test_jpeg_of_another_height_is_seen_as_viewers_show_it_or_refused(
    height: int, accepted: bool
) -> None:
    data = made.image("JPEG")
    changed = made.patched(data, data.index(b"\xff\xc0") + 5, ">H", height)
    if accepted:
        assert seen(changed).sent == (80, height)
    else:
        assert refused(changed, "image").reason == "IMAGE_TRUNCATED"


def tiff_claiming(tag: int, value: int) -> bytes:
    data = bytearray(made.image("TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for number in range(entries):
        entry = at + 2 + 12 * number
        if struct.unpack_from("<H", data, entry)[0] == tag:
            short = struct.unpack_from("<H", data, entry + 2)[0] == 3
            struct.pack_into("<H" if short else "<I", data, entry + 8, value)
            return bytes(data)
    raise AssertionError(f"no tag {tag}")


@pytest.mark.parametrize(("tag", "value"), [(256, 160), (257, 120), (257, 61), (277, 4), (278, 10)])
def test_tiff_of_a_larger_layout_than_its_strips_is_refused(tag: int, value: int) -> None:
    """Pillow leaves rows black that no strip holds, without an error."""
    fault = refused(tiff_claiming(tag, value), "image")
    assert fault.reason in ("IMAGE_UNDECODABLE", "IMAGE_TRUNCATED")


@pytest.mark.parametrize(("tag", "value"), [(278, 1000), (279, 100), (257, 30)])
def test_tiff_of_strips_larger_than_its_layout_is_seen_as_viewers_show_it(
    tag: int, value: int
) -> None:
    found = seen(tiff_claiming(tag, value))
    assert np.array_equal(found.pixels, made.photo()[: found.height])


@pytest.mark.parametrize(("offset", "value"), [(18, 160), (22, 120), (28, 32)])
def test_bmp_of_a_larger_layout_than_its_pixels_is_refused(offset: int, value: int) -> None:
    data = made.image("BMP")
    layout = "<H" if offset == 28 else "<i"
    assert refused(made.patched(data, offset, layout, value), "image").reason == "IMAGE_UNDECODABLE"


def test_bmp_of_os2_is_seen_at_its_own_size() -> None:
    """Its header has two bytes a side, where that of Windows has four."""
    pixels = bytes(range(48)) * 4
    head = struct.pack("<IHHHH", 12, 16, 4, 1, 24)
    data = b"BM" + struct.pack("<IHHI", 26 + len(pixels), 0, 0, 26) + head + pixels
    found = seen(data)
    assert (found.sent, found.warning) == ((16, 4), "")


def test_picture_whose_header_gives_its_size_has_no_warning_in_any_format() -> None:
    """The size in a header that is compared is the one that the decoder reads."""
    for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        assert seen(made.image(form, Image.fromarray(made.photo(33, 47)))).warning == ""
