"""Limits the work of decoding a part, from its structure and before anything is decoded.

Sizes alone are not enough: a JPEG of 371 kB with 6,500 scans took 83 s. So the elements that a
decoder reads one by one are counted, in a bounded number of steps. `cost_s` estimates the time from
bytes and declared pixels; the estimate decides how long a decoder may take
(server/replica/decoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media import riff, sniff
from pipelines.media.limits import InputLimits
from pipelines.media.truncation import MOST_SEGMENTS, segments
from pipelines.types import Part

# Encoders write 1 to 15 scans; an empty scan costs 0.5 ns for each pixel (measured).
MOST_SCANS = 100
MOST_SCAN_PIXELS = 1_000_000_000  # pixels times scans
MOST_PNG_CHUNKS = 65_536  # writers put 8 KiB or more into one chunk; a part has at most 32 MiB
# Blocks and bytes besides the first picture. Pillow joins comments one by one, which takes
# quadratic time.
MOST_GIF_EXTENSIONS = 1_000
MOST_GIF_EXTENSION_BYTES = 4 << 20
MOST_GIF_BLOCKS = 400_000  # each has up to 255 bytes
MOST_TIFF_ENTRIES = 4_096
MOST_TIFF_VALUES = 65_536  # values in one entry, such as the offsets of the strips
MOST_FLAC_BLOCKS = 1_000  # blocks of metadata

# The most that decoding costs on a slow core, from measurements of each format
# (docs/benchmarks.md): 25 megapixels of WebP 0.72 s, of progressive JPEG 0.54 s; 300 s of Opus 1.06
# s.
S_PER_BYTE = 30e-9
S_PER_PIXEL = 20e-9
S_PER_AUDIO_SECOND = 4e-3
LOWEST_AUDIO_BYTES_S = 2_000  # bytes a second of the most compressed ordinary sound
# A JPEG whose size comes after this many bytes counts as one of the largest allowed size.
_HEADER_BYTES = 1 << 18
_WALKED_CHUNKS = 64


def check(data: bytes, format: str, field: str, pixels: int = 0) -> None:
    """Refuses a part that takes too much work. `format` as found by sniff; `pixels` as declared.
    Raises BadInput with the count and the limit."""
    if format == "JPEG":
        _check_jpeg(data, field, pixels)
    elif format == "PNG":
        if not _within(_png_chunks(data), MOST_PNG_CHUNKS):
            raise _too_complex(field, f"more than {MOST_PNG_CHUNKS} chunks", _AS_IMAGE)
    elif format == "GIF":
        _check_gif(data, field)
    elif format == "TIFF":
        _check_tiff(data, field)
    elif format == "FLAC" and not _within(flac_blocks(data), MOST_FLAC_BLOCKS):
        raise _too_complex(field, f"more than {MOST_FLAC_BLOCKS} blocks of metadata", _AS_SOUND)


def cost_s(data: bytes, limits: InputLimits) -> float:
    """The most seconds of one core that decoding this part takes if it is an ordinary one, from its
    size and the declarations in its header. An unknown format counts by its bytes."""
    start = sniff.behind_tags(data)
    found = sniff.sniff(data[start : start + 16] if start else data)
    cost = len(data) * S_PER_BYTE
    if found is not None and found[0] == "image":
        declared = declared_pixels(data, found[1])
        most = limits.max_image_pixels
        cost += S_PER_PIXEL * (most if declared is None else min(declared, most))
    elif start or (found is not None and found[1] in ("MP3", "OGG")):
        seconds = min(limits.max_audio_s, len(data) / LOWEST_AUDIO_BYTES_S)
        cost += S_PER_AUDIO_SECOND * seconds
    return cost


def plain(part: Part) -> bool:
    """Whether only Python and NumPy read this part: text, raw samples, an ordinary WAV."""
    if isinstance(part.data, str) or part.kind == "text" or part.pcm is not None:
        return True
    return riff.pcm16(part.data) is not None


def declared_pixels(data: bytes, format: str) -> int | None:
    """Width x height from the header; None if that is not near the beginning of the file."""
    size = declared_size(data, format)
    return None if size is None else size[0] * size[1]


def declared_size(data: bytes, format: str) -> tuple[int, int] | None:
    """(width, height) from the header; None if that is not near the beginning of the file."""
    size: tuple[int, int] | None = None
    if format == "JPEG":
        size = _jpeg_size(data)
    elif format == "PNG" and len(data) >= 24:
        size = struct.unpack_from(">II", data, 16)
    elif format == "GIF" and len(data) >= 10:
        size = struct.unpack_from("<HH", data, 6)
    elif format == "BMP" and len(data) >= 26:
        of_os2 = data[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if of_os2 else "<ii", data, 18)
        size = (abs(width), abs(height))
    elif format == "WEBP":
        size = webp_size(data)
    return size


def webp_size(data: bytes) -> tuple[int, int] | None:
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
    return None


_AS_IMAGE = "Save it again as a plain PNG or baseline JPEG."
_AS_SOUND = "Save it again as a plain WAV or FLAC."


def _too_complex(field: str, what: str, remedy: str) -> BadInput:
    kind = "IMAGE" if remedy is _AS_IMAGE else "AUDIO"
    return BadInput(field, f"{kind}_TOO_COMPLEX", f"{what}; that is the limit. {remedy}")


def _within(steps: Iterator[object], most: int) -> bool:
    return sum(1 for _, _ in zip(range(most + 1), steps, strict=False)) <= most


# ---- pictures ------------------------------------------------------------------------------------


def _check_jpeg(data: bytes, field: str, pixels: int) -> None:
    seen = scans = 0
    most = MOST_SCANS if pixels < 1 else min(MOST_SCANS, max(1, MOST_SCAN_PIXELS // pixels))
    for marker, _, _ in segments(data):
        seen += 1
        scans += marker == 0xDA
        if scans > most:
            raise _too_complex(field, f"more than {most} scans of {pixels} pixels", _AS_IMAGE)
    if seen >= MOST_SEGMENTS:
        raise _too_complex(field, f"{MOST_SEGMENTS} segments or more", _AS_IMAGE)


# Frame headers: SOF0 to SOF15 without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for (marker, at, _), _ in zip(segments(data), range(_WALKED_CHUNKS), strict=False):
        if marker in _FRAMES and at + 5 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 1)
            return width, height
        if at > _HEADER_BYTES:
            return None
    return None


def _png_chunks(data: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


@dataclass(slots=True)
class _Gif:
    """A walk through a GIF up to the end of its first picture."""

    data: bytes
    at: int
    blocks: int = 0

    def sub_blocks(self) -> int:
        """Moves behind a chain of sub-blocks; returns their number of bytes."""
        start = self.at
        while self.at < len(self.data):
            size = self.data[self.at]
            self.at += 1 + size
            self.blocks += 1
            if not size or self.blocks > MOST_GIF_BLOCKS:
                break
        return self.at - start


def _check_gif(data: bytes, field: str) -> None:
    walk = _Gif(data, 13 + colour_table_bytes(data[10:11]))
    extensions = size = 0
    while walk.at < len(data) and walk.blocks <= MOST_GIF_BLOCKS:
        kind = data[walk.at : walk.at + 1]
        if kind == b",":
            walk.at += 11 + colour_table_bytes(data[walk.at + 9 : walk.at + 10])
            walk.sub_blocks()
            break
        if kind == b"!":
            walk.at += 2
            size += walk.sub_blocks()
            extensions += 1
        else:  # Pillow skips a byte it does not know
            walk.at += 1
            walk.blocks += 1
        if extensions > MOST_GIF_EXTENSIONS or size > MOST_GIF_EXTENSION_BYTES:
            what = (
                f"more than {MOST_GIF_EXTENSIONS} extensions or {MOST_GIF_EXTENSION_BYTES} bytes "
                "of them before the first picture"
            )
            raise _too_complex(field, what, _AS_IMAGE)
    if walk.blocks > MOST_GIF_BLOCKS:
        raise _too_complex(field, f"more than {MOST_GIF_BLOCKS} blocks", _AS_IMAGE)


def colour_table_bytes(packed: bytes) -> int:
    """Bytes of the colour table, from these flags of a GIF."""
    return 3 << (packed[0] & 7) + 1 if packed and packed[0] & 0x80 else 0


def _check_tiff(data: bytes, field: str) -> None:
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8:
        return
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return
    (entries,) = struct.unpack_from(order + "H", data, at)
    if entries > MOST_TIFF_ENTRIES:
        raise _too_complex(field, f"more than {MOST_TIFF_ENTRIES} entries", _AS_IMAGE)
    for number in range(entries):
        entry = at + 2 + 12 * number
        if entry + 12 > len(data):
            return
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        # Pillow reads text and undefined bytes as one value, numbers as one value each.
        if kind not in (1, 2, 6, 7) and count > MOST_TIFF_VALUES:
            what = f"more than {MOST_TIFF_VALUES} values in the entry {tag}"
            raise _too_complex(field, what, _AS_IMAGE)


# ---- sounds --------------------------------------------------------------------------------------


def flac_blocks(data: bytes) -> Iterator[int]:
    at = 4
    while at + 4 <= len(data):
        yield at
        if data[at] & 0x80:  # the last block
            return
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
