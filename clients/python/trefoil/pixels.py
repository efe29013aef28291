"""Encodes PIL images and arrays of pixels as PNG. They are recognised by their attributes, so that
no library is imported."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

_COLOURS = {1: 0, 3: 2, 4: 6}  # channels -> colour type of PNG
_DEPTHS = {"uint8": (8, "u1"), "uint16": (16, ">u2")}  # bits, and dtype with the byte order of PNG
_AS_PNG = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
_FAST = 1  # zlib level: the network is rarely slower than better compression


def is_picture(source: object) -> bool:
    """Whether this is a PIL image."""
    return all(hasattr(source, name) for name in ("save", "mode", "size", "convert", "getexif"))


def is_array(source: object) -> bool:
    """Whether this is a numpy array, or an object with the same attributes."""
    return all(hasattr(source, name) for name in ("dtype", "shape", "astype", "tobytes"))


def png_of_picture(picture: Any) -> bytes:
    """The picture as PNG. An orientation in its EXIF data is kept: the server turns the picture
    upright."""
    shown = picture if picture.mode in _AS_PNG else picture.convert("RGB")
    buffer = io.BytesIO()
    exif = picture.getexif()
    options = {"exif": exif} if len(exif) else {}
    shown.save(buffer, "PNG", compress_level=_FAST, **options)
    return buffer.getvalue()


def png_of_array(array: Any) -> bytes:
    """The array as PNG. Raises TypeError for a dtype or shape that `image` does not take."""
    kind, shape = str(array.dtype), tuple(array.shape)
    if kind not in _DEPTHS:
        raise TypeError(
            f"source: an array of {kind}; scale it to 0..255 and convert it: .astype('uint8')"
        )
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in _COLOURS or 0 in shape:
        raise TypeError(
            f"source: an array of shape {list(shape)}; give [height, width] or "
            "[height, width, 1 | 3 | 4] in RGB order"
        )
    (height, width), (depth, order) = shape[:2], _DEPTHS[kind]
    data = array.astype(order).tobytes()
    stride = width * channels * depth // 8
    rows = b"".join(
        b"\0" + data[start : start + stride] for start in range(0, stride * height, stride)
    )
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOURS[channels], 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows, _FAST)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + checksum
