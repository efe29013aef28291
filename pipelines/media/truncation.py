"""Detects truncated images that decoded without an error.

Pillow fills the missing part of a truncated PNG with black and of a truncated JPEG with grey,
without an error. Each check looks at the last pixels first and continues only if they could be such
fill.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from pipelines.errors import BadInput


def check_not_truncated(image: Image.Image, data: bytes, format: str, field: str) -> None:
    """`image` is loaded but not converted. Raises BadInput."""
    if format == "PNG":
        _check_png(image, data, field)
    elif format == "JPEG":
        _check_jpeg(image, data, field)


def _check_png(image: Image.Image, data: bytes, field: str) -> None:
    width, height = image.size
    last_row = image.crop((0, height - 1, width, height))
    interlaced = bool(image.info.get("interlace"))
    if not interlaced and last_row.getbbox() is not None:
        return  # rows are stored in order, and a missing row is all zeros
    expected, present = _png_sizes(data)
    if present < expected:
        raise BadInput(
            field,
            "IMAGE_TRUNCATED",
            f"the header promises {height} rows ({expected} bytes inflated), the data holds "
            f"{present} bytes; send the complete file.",
        )


_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (  # first column, first row, column step, row step of each pass
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def _png_sizes(data: bytes) -> tuple[int, int]:
    """(bytes the header requires, bytes the image data inflates to, counted up to that)."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * _CHANNELS[colour]
    expected = 0
    for x, y, dx, dy in _ADAM7 if interlace else _WHOLE:
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


_END = b"\xff\xd9"
_NOISE = bytes.fromhex("5aa53cc396691e") * 12
# Entropy-coded noise, once alone and once after each restart marker the decoder may look for.
_MORE = _NOISE + b"".join(bytes((0xFF, 0xD0 + i)) + _NOISE for i in range(8))


def _check_jpeg(image: Image.Image, data: bytes, field: str) -> None:
    """Inserts more data before the end marker: only a decoder that ran short will use it."""
    if not _may_be_fill(image):
        return
    end = data.rfind(_END)
    again = Image.open(io.BytesIO(data[:end] + _MORE + _END), formats=("JPEG",))
    again.draft(image.mode, image.size)
    try:
        again.load()
    except OSError:
        return  # the noise after a complete scan caused an error: the image itself is complete
    if _differ(image, again):
        raise BadInput(
            field,
            "IMAGE_TRUNCATED",
            f"the header promises {image.height} rows, the data ends earlier; "
            "send the complete file.",
        )


_ROWS = 64


def _differ(one: Image.Image, other: Image.Image) -> bool:
    for top in range(0, one.height, _ROWS):
        box = (0, top, one.width, min(one.height, top + _ROWS))
        if one.crop(box).tobytes() != other.crop(box).tobytes():
            return True
    return False


def _may_be_fill(image: Image.Image) -> bool:
    """Missing blocks have no coefficients, so they are mid-grey, apart from the neighbours' colour
    that bleeds into the last pixel."""
    if image.mode not in ("L", "RGB"):
        return True
    last = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    red, green, blue = last.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return abs(0.299 * red + 0.587 * green + 0.114 * blue - 128.0) <= 1.5
