"""Reads the layout of a FLAC from its frames, whatever its STREAMINFO claims (RFC 9639).

libFLAC takes rate, channels and width from STREAMINFO, which has no checksum; ffmpeg takes them
from the frames, each of which has one. Where the two disagree this module uses the frames, because
the sound was encoded with their values. libFLAC also turns a frame missing in the middle into
silence, without an error. So the frame headers are read here, and STREAMINFO is rewritten from
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media.limits import DAMAGED, HEADER_WRONG, LENGTH_UNKNOWN
from pipelines.media.work import flac_blocks

_RATES = (
    *(0, 88_200, 176_400, 192_000, 8_000, 16_000),
    *(22_050, 24_000, 32_000, 44_100, 48_000, 96_000),
)
_WIDTHS = (0, 8, 12, 0, 16, 20, 24, 32)
_BLOCKS = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8)))
_SYNC = re.compile(b"\xff[\xf8\xf9]")
# In random data, two bytes that look like a frame's occur once in 32 kB. After more than this many,
# the rest is not read.
_MOST_SYNCS = 100_000
_STREAMINFO = slice(18, 26)  # rate 20 bits, channels 3, width 5, samples 36
_SAMPLES = (1 << 36) - 1


@dataclass(frozen=True, slots=True)
class FlacLayout:
    """`width` is in bits for each sample."""

    rate: int
    channels: int
    width: int


@dataclass(frozen=True, slots=True)
class FlacFrame:
    """`number` is the number of the first sample, or of the frame if all frames have the same
    length; `step` is the distance to the next frame's number. A field of `layout` is 0 where the
    frame does not give it."""

    number: int
    step: int
    layout: FlacLayout


@dataclass(frozen=True, slots=True)
class Judged:
    """`data` has a STREAMINFO that agrees with its frames and gives no length, so that libFLAC
    reads to the end. `claim`: the number of samples that the original gave, 0 if none."""

    data: bytes
    claim: int
    layout: FlacLayout
    warning: str


def judged(data: bytes, field: str) -> Judged | None:
    """The file with a corrected STREAMINFO. None for a file that does not begin with a STREAMINFO;
    libFLAC refuses it. Raises BadInput where the layout changes within the file."""
    if len(data) < 42 or data[4] & 0x7F:
        return None
    bits = int.from_bytes(data[_STREAMINFO], "big")
    claimed = FlacLayout(bits >> 44, (bits >> 41 & 7) + 1, (bits >> 36 & 31) + 1)
    layout, gap = _agreed(data, claimed, field)
    claim = bits & _SAMPLES
    fields = (layout.rate << 8 | layout.channels - 1 << 5 | layout.width - 1) << 36
    warning = HEADER_WRONG if layout != claimed else "" if claim else LENGTH_UNKNOWN
    whole = data[:18] + fields.to_bytes(8, "big") + data[26:]
    return Judged(whole, claim, layout, DAMAGED if gap else warning)


def _agreed(data: bytes, claimed: FlacLayout, field: str) -> tuple[FlacLayout, bool]:
    """(the layout of all frames, whether a frame is missing between them)."""
    found: FlacLayout | None = None
    gap = False
    for frame, follows in _sequence(_frames(data)):
        gap = gap or not follows
        layout = FlacLayout(
            frame.layout.rate or claimed.rate,
            frame.layout.channels,
            frame.layout.width or claimed.width,
        )
        if found not in (None, layout):
            raise BadInput(
                field,
                "AUDIO_UNSUPPORTED",
                "a FLAC whose rate, channels or width change on the way; convert it: "
                "ffmpeg -i INPUT OUTPUT.wav",
            )
        found = layout
    return found or claimed, gap


def _sequence(frames: Iterator[FlacFrame]) -> Iterator[tuple[FlacFrame, bool]]:
    """(frame, whether it follows the one before it). Compressed sound can look like a frame. It
    hardly ever has a number shortly after the last one, or is followed by a second frame that
    fits."""
    last: FlacFrame | None = None
    stray: FlacFrame | None = None
    for frame in frames:
        follows = frame.number == (last.number + last.step if last else 0)
        if stray is not None and frame.number == stray.number + stray.step:
            yield stray, last is None
            follows = True
        elif not follows and not (last is not None and _is_later(frame, last)):
            stray = frame
            continue
        yield frame, follows
        last, stray = frame, None


def _is_later(frame: FlacFrame, last: FlacFrame) -> bool:
    ahead = frame.number - last.number
    return frame.layout == last.layout and last.step < ahead <= _MOST_MISSING * last.step


_MOST_MISSING = 64  # largest gap, in frames, after which a single frame is accepted


def _frames(data: bytes) -> Iterator[FlacFrame]:
    at = max(flac_blocks(data), default=4)
    begin = at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    for found, _ in zip(_SYNC.finditer(data, begin), range(_MOST_SYNCS), strict=False):
        frame = header(data[found.start() : found.start() + 16])
        if frame is not None:
            yield frame


def header(head: bytes) -> FlacFrame | None:
    """The frame header at the beginning of 16 bytes; None if its checksum is wrong."""
    if len(head) < 6 or head[3] & 1:
        return None
    block, rate = head[2] >> 4, head[2] & 15
    channels, width = head[3] >> 4, head[3] >> 1 & 7
    if block == 0 or rate == 15 or channels > 10 or width == 3:
        return None
    more = _coded_bytes(head[4])
    end = 4 + more + (block == 6) + 2 * (block == 7) + (rate == 12) + 2 * (rate in (13, 14))
    if not more or end >= len(head) or _checksum(head[:end]) != head[end]:
        return None
    number = _coded(head[4 : 4 + more])
    size = _BLOCKS[block]
    if block in (6, 7):
        size = int.from_bytes(head[4 + more : 4 + more + block - 5], "big") + 1
    hertz = _RATES[rate] if rate < 12 else 0
    if rate == 12:
        hertz = 1000 * head[end - 1]
    elif rate > 12:
        hertz = int.from_bytes(head[end - 2 : end], "big") * (10 if rate == 14 else 1)
    count = channels + 1 if channels < 8 else 2
    return FlacFrame(number, size if head[1] & 1 else 1, FlacLayout(hertz, count, _WIDTHS[width]))


def _coded_bytes(first: int) -> int:
    """Length of a number in UTF-8-like coding, up to seven bytes; 0 for a continuation byte."""
    ones = 8 - (first ^ 0xFF).bit_length()
    return 0 if ones in (1, 8) else max(1, ones)


def _coded(data: bytes) -> int:
    value = data[0] & (0x7F >> len(data)) if len(data) > 1 else data[0]
    for byte in data[1:]:
        value = value << 6 | byte & 0x3F
    return value


def _table() -> bytes:
    entries = bytearray()
    for value in range(256):
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
        entries.append(value)
    return bytes(entries)


_TABLE = _table()


def _checksum(head: bytes) -> int:
    crc = 0
    for byte in head:
        crc = _TABLE[crc ^ byte]
    return crc
