"""Detects truncated images that decoded without an error.

Pillow fills the missing part of a truncated PNG with black and of a truncated JPEG with grey,
without an error. Each check looks at the last pixels first and continues only if they could be such
fill.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from pipelines.errors import BadInput
from pipelines.media.limits import NO_END, SCANS_MISSING


def check_not_truncated(
    image: Image.Image, data: bytes, format: str, field: str, ended: bool = True
) -> str:
    """Refuses a truncated image. `image` is loaded but not converted. `ended` is False if
    `with_end` added the end marker of a JPEG. Returns a warning or "". Raises BadInput."""
    if format == "PNG":
        _check_png(image, data, field)
    elif format == "JPEG":
        _check_jpeg(image, data, field, ended)
        if not _scans_complete(data):
            if not ended:
                raise cut_jpeg(image, field)
            return SCANS_MISSING
    return "" if ended else NO_END


def with_end(data: bytes, field: str) -> tuple[bytes, bool]:
    """A JPEG with an end marker, and whether it had its own.

    Raises BadInput when no scan begins within MOST_SEGMENTS: Pillow keeps every segment, and takes
    10 s and 1 GB for 30 MB of empty ones.
    """
    scan = _first_scan(data)
    if scan is None:
        raise BadInput(
            field,
            "IMAGE_UNDECODABLE",
            f"not a whole JPEG image (no picture within {MOST_SEGMENTS} segments); send the "
            "complete file.",
        )
    if data.find(_END, scan) >= 0:
        return data, True
    return data + _END, False


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
    """(bytes the header requires, bytes the image data inflates to, counted up to the former)."""
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


def _more(noise: bytes) -> bytes:
    """Entropy-coded noise, once alone and once after each restart marker that the decoder may
    expect."""
    return noise + b"".join(bytes((0xFF, 0xD0 + i)) + noise for i in range(8))


_MORE = _more(bytes.fromhex("5aa53cc396691e") * 12)
_OTHER_MORE = _more(bytes.fromhex("a55ac33c6996e1") * 12)  # every bit of the first one changed


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte of its body, end) of a JPEG's segments; at most MOST_SEGMENTS."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[0][1] == 0xD9 or found.end() + 2 > len(data):
            return
        start = found.end()
        at = start + int.from_bytes(data[start : start + 2], "big")
        yield found[0][1], start + 2, at


# Neither a stuffed byte nor a restart marker, as those are within a scan.
_MARKER = re.compile(b"\xff[\x02-\xcf\xd8-\xfe]")
_SOS, _PROGRESSIVE = 0xDA, 0xC2
MOST_SEGMENTS = 20_000


def _first_scan(data: bytes) -> int | None:
    for marker, _, end in segments(data):
        if marker == _SOS:
            return end
    return None


def _scans_complete(data: bytes) -> bool:
    """Whether a progressive JPEG has every coefficient of every component to its last bit. Other
    kinds are not checked, because their pixels show what is missing."""
    wanted: set[tuple[int, int]] = set()
    for marker, at, end in segments(data):
        body = data[at:end]
        if marker in _OTHER_FRAMES:
            return True
        if marker == _PROGRESSIVE and len(body) >= 6 + 3 * body[5]:
            wanted = {(body[6 + 3 * i], k) for i in range(body[5]) for k in range(64)}
        elif marker == _SOS and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if bits & 0x0F == 0:  # the lowest bit of these coefficients
                for i in range(body[0]):
                    wanted -= {(body[1 + 2 * i], k) for k in range(first, min(last, 63) + 1)}
            if not wanted:
                return True
    return not wanted


_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {_PROGRESSIVE, 0xC4, 0xC8, 0xCC}


def cut_jpeg(image: Image.Image, field: str) -> BadInput:
    return BadInput(
        field,
        "IMAGE_TRUNCATED",
        f"truncated: the header promises {image.height} rows, the data ends earlier; "
        "send the complete file.",
    )


def _check_jpeg(image: Image.Image, data: bytes, field: str, ended: bool) -> None:
    """Inserts more data before the end marker and decodes again: only a decoder that ran out of
    data will use it."""
    if ended and not _may_be_fill(image):
        return
    end = data.rfind(_END)
    for more in (_MORE,) if ended else (_MORE, _OTHER_MORE):
        again = Image.open(io.BytesIO(data[:end] + more + _END), formats=("JPEG",))
        again.draft(image.mode, image.size)
        try:
            again.load()
        except OSError:
            return  # the noise after a complete scan caused an error: the image itself is complete
        if _differ(image, again):
            raise cut_jpeg(image, field)


_ROWS = 64


def _differ(one: Image.Image, other: Image.Image) -> bool:
    for top in range(0, one.height, _ROWS):
        box = (0, top, one.width, min(one.height, top + _ROWS))
        if one.crop(box).tobytes() != other.crop(box).tobytes():
            return True
    return False


def _may_be_fill(image: Image.Image) -> bool:
    """Whether the last pixel may belong to a missing block. Such a block has no coefficients, so it
    is mid-grey, except for the neighbours' colour that bleeds into it."""
    if image.mode not in ("L", "RGB"):
        return True
    last = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    red, green, blue = last.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return abs(0.299 * red + 0.587 * green + 0.114 * blue - 128.0) <= 1.5
