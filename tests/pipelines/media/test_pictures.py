"""Pictures as cameras, phones and broken uploads leave them, and the matrices of orientation and
transparency."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media.decode import DecodedImage, InputLimits, decode
from pipelines.media.limits import NO_END, SCANS_MISSING
from pipelines.types import Part
from tests.support import media_bytes as made

LIMITS = InputLimits()


def seen(data: bytes) -> DecodedImage:
    found = decode(Part("image", data), "parts[0]", LIMITS)
    assert isinstance(found, DecodedImage)
    return found


def refused(data: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(Part("image", data), "parts[0]", LIMITS)
    return caught.value


# ---- JPEG without its end ---------------------------------------------------------------------

KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "full colour": {"subsampling": 0},
    "fine": {"quality": 95},
}
MODES = ("RGB", "L", "CMYK")


def jpeg(kind: str, mode: str = "RGB") -> bytes:
    picture = Image.fromarray(made.photo(100, 140)).convert(mode)
    return made.image("JPEG", picture, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_jpeg_without_end_marker_is_seen_when_every_block_is_there(kind: str, mode: str) -> None:
    whole = jpeg(kind, mode)
    found = seen(whole[:-2])
    assert found.warning == NO_END and not seen(whole).warning
    assert np.array_equal(found.pixels, seen(whole).pixels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("off", [10, 50, 400])
def test_jpeg_that_lost_its_last_bytes_was_truncated(kind: str, mode: str, off: int) -> None:
    fault = refused(jpeg(kind, mode)[:-off])
    assert fault.reason == "IMAGE_TRUNCATED" and "truncated" in fault.message


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_end_marker_does_not_matter(kind: str) -> None:
    whole = jpeg(kind)
    found = seen(whole + b"junk" * 20)
    assert np.array_equal(found.pixels, seen(whole).pixels) and not found.warning


def test_progressive_jpeg_without_its_last_scan_is_a_warning() -> None:
    whole = jpeg("progressive")
    last_scan = whole.rindex(b"\xff\xda")
    tables = whole.rindex(b"\xff\xc4", 0, last_scan)
    assert seen(whole[:tables] + b"\xff\xd9").warning == SCANS_MISSING
    assert refused(whole[:tables]).reason == "IMAGE_TRUNCATED"


def test_thumbnail_with_an_end_marker_of_its_own_does_not_count() -> None:
    thumbnail = made.image("JPEG", Image.new("RGB", (8, 8)))
    body = b"JFXX\0\x10" + thumbnail
    whole = jpeg("baseline")
    data = whole[:2] + b"\xff\xe0" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    assert seen(data[:-2]).warning == NO_END
    assert refused(data[:-10]).reason == "IMAGE_TRUNCATED"


# ---- more than one picture --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_are_counted_and_the_first_is_seen(form: str, count: int) -> None:
    shades = [Image.new("RGB", (20, 10), (30 * i, 255 - 30 * i, 40)) for i in range(count)]
    found = seen(made.image(form, shades[0], save_all=True, append_images=shades[1:]))
    assert found.frames == count
    assert np.abs(found.pixels[5, 5].astype(int) - (0, 255, 40)).max() < 12


def test_tiff_whose_directories_form_a_ring_is_counted_once() -> None:
    data = bytearray(made.image("TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * entries, at)
    assert seen(bytes(data)).frames == 1


def test_counting_the_frames_of_a_hostile_gif_is_bounded() -> None:
    data = made.image("GIF")[:-1] + b"!\xfe\x01a\0" * 1_000_000 + b";"
    assert seen(data).frames == 1


# ---- named matrix: orientation ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_matrix_orientation(form: str, orientation: int) -> None:
    """A red corner lies top left once the picture is turned upright."""
    upright = np.full((32, 48, 3), 40, np.uint8)
    upright[:16, :16] = (230, 30, 30)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(turn[orientation]) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = seen(made.image(form, stored, exif=exif))
    assert (found.width, found.height) == (48, 32) and found.sent in ((48, 32), (32, 48))
    assert found.pixels[4, 4, 0] > 180 and found.pixels[4, 40, 0] < 90
    assert found.pixels[28, 4, 0] < 90


# ---- named matrix: transparency ---------------------------------------------------------------

CELLS = [
    (colour, depth)
    for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8)}.items()
    for depth in depths
]


def flat(colour: int, depth: int, value: int, clear: int) -> bytes:
    if colour == 3:
        opacities = bytearray(b"\xff" * (1 << depth))
        opacities[clear] = 0
        return made.flat_png(3, depth, (value,), bytes(opacities))
    samples = 3 if colour == 2 else 1
    clear_colour = struct.pack(">" + "H" * samples, *(clear,) * samples)
    return made.flat_png(colour, depth, (value,) * samples, clear_colour)


@pytest.mark.parametrize(("colour", "depth"), CELLS)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_matrix_transparent_colour(colour: int, depth: int, place: float) -> None:
    top = (1 << depth) - 1
    value = round(place * top)
    assert (seen(flat(colour, depth, value, value)).pixels == 255).all()
    other = value ^ (0x4000 if depth == 16 else 1)
    opaque = seen(flat(colour, depth, value, other)).pixels
    wanted = (200, 10, 10) if colour == 3 else (value * 255 / top,) * 3
    assert np.abs(opaque[0, 0].astype(float) - wanted).max() <= 1.0


@pytest.mark.parametrize("colour", [4, 6])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_matrix_alpha_channel(colour: int, depth: int, opacity: float) -> None:
    top = (1 << depth) - 1
    dark = (0,) * (3 if colour == 6 else 1)
    found = seen(made.flat_png(colour, depth, (*dark, round(opacity * top))))
    assert np.abs(found.pixels[0, 0].astype(float) - 255 * (1 - opacity)).max() <= 1.0
