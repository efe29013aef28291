"""Encoded pictures to upright RGB pixels on white."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipelines.errors import BadInput
from pipelines.media import DecodedImage, Limits

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = frozenset(
    "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I;16 I;16L I;16B I;16N".split()
)
# What Pillow's decoders are known to raise on content that is not what it claims to be.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, format: str, field: str, limits: Limits) -> DecodedImage:
    """`format` is one of media.IMAGE_FORMATS, as told from the content. Raises BadInput."""
    if format == "WEBP":  # Pillow allocates a WebP's canvas while opening it
        _check_size(*_webp_size(data, field), field, limits)
    image = _open(data, format, field)
    _check_size(*image.size, field, limits)
    mode = image.mode
    if mode not in _MODES:
        raise BadInput(
            field,
            "IMAGE_MODE",
            f"{mode} pixels; convert the image to 8 or 16 bits a channel.",
        )
    if format == "JPEG" and limits.jpeg_draft_px:
        image.draft("RGB", (limits.jpeg_draft_px, limits.jpeg_draft_px))
    try:
        image.load()
        _check_whole(image, data, format, field)
        orientation, warning = _orientation(image)
        pixels = _rgb(image, orientation)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(field, "IMAGE_TOO_LARGE", "the image does not fit in memory.") from None
    except _BROKEN as error:
        raise _undecodable(format, field, error) from None
    return DecodedImage(
        pixels=pixels,
        format=format,
        mode=mode,
        width=pixels.shape[1],
        height=pixels.shape[0],
        payload_bytes=len(data),
        has_orientation=orientation in _UPRIGHT,
        warning=warning,
    )


def _open(data: bytes, format: str, field: str) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(io.BytesIO(data), formats=(format,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(field, "IMAGE_TOO_LARGE", str(error)) from None
    except UnidentifiedImageError as error:
        raise _undecodable(format, field, error) from None
    except _BROKEN as error:
        raise _undecodable(format, field, error) from None


def _undecodable(format: str, field: str, error: Exception) -> BadInput:
    return BadInput(
        field,
        "IMAGE_UNDECODABLE",
        f"not a whole {format} image ({error}); send the complete file.",
    )


def _check_size(width: int, height: int, field: str, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise BadInput(field, "IMAGE_EMPTY", f"the image is {width}x{height} pixels.")
    if width * height > limits.max_image_pixels or max(width, height) > limits.max_image_side:
        raise BadInput(
            field,
            "IMAGE_TOO_LARGE",
            f"{width}x{height} pixels; the limits are {limits.max_image_pixels} pixels and "
            f"{limits.max_image_side} a side. Scale it down.",
        )
    if max(width, height) > limits.max_image_aspect * min(width, height):
        raise BadInput(
            field,
            "IMAGE_ASPECT",
            f"{width}x{height} pixels; one side may be at most {limits.max_image_aspect:g} times "
            "the other. Crop it.",
        )


def _webp_size(data: bytes, field: str) -> tuple[int, int]:
    """(width, height) of the canvas, from the first chunk (RFC 9649)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) == 10 and chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if len(body) == 10 and chunk == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if len(body) >= 5 and chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise BadInput(field, "IMAGE_UNDECODABLE", "not a whole WEBP image; send the complete file.")


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """(EXIF orientation, whether the metadata was broken); 1 is upright."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        return 1, True
    return (value, False) if isinstance(value, int) and 1 <= value <= 8 else (1, True)


def _rgb(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)  # a copy: torch wants it writable


def _check_whole(image: Image.Image, data: bytes, format: str, field: str) -> None:
    """Pillow fills the missing rows of a short PNG with zeros and says nothing."""
    if format != "PNG":
        return
    width, height = image.size
    last_row = image.crop((0, height - 1, width, height))
    interlaced = bool(image.info.get("interlace"))
    if not interlaced and last_row.getbbox() is not None:
        return  # rows come in order and a row that is missing is all zeros
    expected, present = _png_sizes(data)
    if present < expected:
        raise BadInput(
            field,
            "IMAGE_TRUNCATED",
            f"the header promises {height} rows ({expected} bytes inflated), the data holds "
            f"{present} bytes; send the complete file.",
        )


_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def _png_sizes(data: bytes) -> tuple[int, int]:
    """(bytes the header asks for, bytes the image data inflates to, counted no further)."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    expected = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits // 8))
    inflater, present, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(data) and present < expected:
        size, name = struct.unpack(">I4s", data[at : at + 8])
        pending = data[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        while pending and present < expected and not inflater.eof:
            present += len(inflater.decompress(pending, 1 << 18))
            pending = inflater.unconsumed_tail
        at += 12 + size
    return expected, present
