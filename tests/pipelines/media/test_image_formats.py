"""Every kind of picture decodes; every bad one is refused with its field and reason."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.media.decode import DecodedImage, decode
from pipelines.types import Part
from tests.support import media_bytes as made
from tests.support.decoded import FIELD, LIMITS, opened, refusal


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_image_format_decodes_without_a_declared_type(form: str) -> None:
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
