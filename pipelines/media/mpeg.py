"""The length of an MP3, counted from its frames.

libmpg123 takes the length from the Xing header, or estimates it from the size of the file. An
estimate that is too short loses the end of the sound without an error; one that is too long makes a
complete file look cut. So this module counts the frames, and puts a header with the true count in
front of a file whose own header is missing or wrong.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media.limits import DAMAGED, LENGTH_WRONG

_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2.5
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_SYNC = re.compile(b"\xff[\xe2-\xff]")
_SEARCH_BYTES = 1 << 16  # damaged bytes that are skipped in one file, in all
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
_IN_A_ROW = 3  # this many frames of another kind in a row are another stream, not damage
# Frames counted beyond the limit, so that the sum exceeds it whatever padding is removed.
_MARGIN = 8
# Header, side information and the Xing header written here fit into a frame of this size.
_XING_BYTES = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame header. `key` is equal for all frames of a stream."""

    key: tuple[int, int, bool]
    version: int
    rate: int
    samples: int
    size: int
    mono: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """`data` begins with a header that has the true number of frames. `samples` is for each
    channel, at `rate` hertz."""

    data: bytes
    samples: int
    rate: int
    warning: str


@dataclass(frozen=True, slots=True)
class _Walk:
    count: int  # number of frames, a header frame included
    first: int  # where the first frame begins
    end: int  # where the last complete frame ends
    damaged: bool
    cut: bool = False  # another frame begins there, and the file ends inside it
    changed: bool = False  # frames with another rate or number of channels begin there


@dataclass(frozen=True, slots=True)
class _Header:
    """The claims of a Xing, Info or VBRI frame; 0: not given. `trimmed`: samples that the encoder
    added before and after the sound, which a decoder removes. `silent`: the side information is
    zero; libmpg123 recognises a header only in such a frame, and otherwise estimates the length."""

    frames: int
    bytes: int
    trimmed: int = 0
    silent: bool = True

    def holds(self, count: int, frame: Frame) -> bool:
        """Whether libmpg123 can use this header for `count` frames. A decoder never removes more
        than its delay and three frames: LAME adds 576 samples and at most two frames."""
        return self.silent and self.frames == count and self.trimmed <= 3 * frame.samples + 1105


def counted(data: bytes, field: str, most_s: float) -> Counted:
    """Counts the frames. `data` begins behind any ID3v2 tag. At most `most_s` seconds of frames are
    counted. Raises BadInput for a file that was cut, or that holds no frames."""
    start = _first_frame(data)
    if start is None:
        raise BadInput(
            field,
            "AUDIO_UNDECODABLE",
            "not a whole MP3 file (no MPEG layer III frames were found); send the complete file.",
        )
    frame = _frame(data, start)
    assert frame is not None
    if frame.size == 0:
        raise BadInput(
            field,
            "AUDIO_UNSUPPORTED",
            "an MP3 of free bit rate; convert it: ffmpeg -i INPUT OUTPUT.wav",
        )
    most = int(most_s * frame.rate / frame.samples) + _MARGIN
    walk = _walk(data, start, frame, most)
    if walk.changed:
        raise BadInput(
            field,
            "AUDIO_UNSUPPORTED",
            "an MP3 whose rate or channels change on the way; convert it: ffmpeg -i INPUT "
            "OUTPUT.wav",
        )
    if walk.count >= most:
        return Counted(data, walk.count * frame.samples, frame.rate, "")
    header = _header(data[start : start + frame.size])
    count = walk.count - (header is not None)
    if walk.cut or _is_short(header, count, walk.end - start):
        promised = f"the header promises {header.frames} frames" if header else "its last is cut"
        raise BadInput(
            field,
            "AUDIO_TRUNCATED",
            f"the file holds {count} whole frames; {promised}. Send the complete file.",
        )
    warning = DAMAGED if walk.damaged else ""
    body = data[start : walk.end] if start or walk.end < len(data) else data
    if header is None or not header.holds(count, frame):
        if header is not None:
            warning = warning or (LENGTH_WRONG if header.frames else "")
            body = body[frame.size :]
        body = _xing(data[start : start + 4], frame, count, len(body)) + body
    return Counted(body, count * frame.samples, frame.rate, warning)


def _is_short(header: _Header | None, count: int, size: int) -> bool:
    """Whether the file has fewer frames than its header gives. Some encoders count the header as a
    frame: then their count of bytes is complete."""
    if header is None or header.frames <= count:
        return False
    return not (header.frames == count + 1 and 0 < header.bytes <= size)


def _frame(data: bytes, at: int) -> Frame | None:
    """The layer III header at `at`; `size` is 0 for a free bit rate."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version, kbits, rate = data[at + 1] >> 3 & 3, data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or kbits == 15 or rate == 3:
        return None
    hertz, mono = _RATES[version][rate], data[at + 3] >> 6 == 3
    samples = 1152 if version == 3 else 576
    size = samples // 8 * 1000 * _KBITS[version][kbits] // hertz
    size += (data[at + 2] >> 1 & 1) if size else 0
    return Frame((version, rate, mono), version, hertz, samples, size, mono)


def _first_frame(data: bytes) -> int | None:
    """Where the first frame begins that is followed by another frame of its stream, by a tag, or by
    the end of the file."""
    for found in _SYNC.finditer(data, 0, _SEARCH_BYTES):
        at = found.start()
        frame = _frame(data, at)
        if frame is None:
            continue
        following = _frame(data, at + frame.size) if frame.size else frame
        if at + frame.size >= len(data) or (following and following.key == frame.key):
            return at
        if data.startswith(_TAGS, at + frame.size):
            return at
    return None


def _walk(data: bytes, start: int, first: Frame, most: int) -> _Walk:
    at, count, skipped, filled = start, 0, 0, len(data.rstrip(b"\0"))
    while count < most:
        frame = _frame(data, at)
        if frame is not None and frame.key == first.key and frame.size:
            if at + frame.size > len(data):
                return _Walk(count, start, at, skipped > 0, cut=True)
            at, count = at + frame.size, count + 1
            continue
        if data.startswith(_TAGS, at) or at >= filled:
            break
        if frame is not None and _begins(data, at, frame):
            return _Walk(count, start, at, skipped > 0, changed=True)
        if len(data) - at < 4 and data[at] == 0xFF:  # the file ends within a header
            return _Walk(count, start, at, skipped > 0, cut=True)
        again = _resume(data, at, first, _SEARCH_BYTES - skipped)
        skipped += (again or len(data)) - at
        if again is None:
            break
        at = again
    return _Walk(count, start, at, skipped > 0)


def _begins(data: bytes, at: int, frame: Frame) -> bool:
    """Whether several frames of this kind follow one another from here; that does not happen by
    chance."""
    for _ in range(_IN_A_ROW):
        found = _frame(data, at)
        if found is None or found.key != frame.key or not found.size:
            return False
        at += found.size
    return at <= len(data)


def _resume(data: bytes, at: int, first: Frame, budget: int) -> int | None:
    """Where the stream continues after damage."""
    for found in _SYNC.finditer(data, at + 1, at + max(0, budget)):
        frame = _frame(data, found.start())
        if frame is None or frame.key != first.key or not frame.size:
            continue
        following = _frame(data, found.start() + frame.size)
        if following is not None and following.key == first.key:
            return found.start()
    return None


def _header(frame: bytes) -> _Header | None:
    for name in (b"Xing", b"Info"):
        at = frame.find(name, 4, 64)
        if at >= 0 and at + 16 <= len(frame):
            flags, *values = struct.unpack_from(">III", frame, at + 4)
            frames = values.pop(0) if flags & 1 else 0
            size = values.pop(0) if flags & 2 else 0
            # With a checksum (lowest bit of the second byte is 0), two bytes of checksum come
            # first.
            silent = not any(frame[4 if frame[1] & 1 else 6 : at])
            return _Header(frames, size, _trimmed(frame, at, flags), silent)
    at = frame.find(b"VBRI", 4, 64)
    if at >= 0 and at + 18 <= len(frame):
        size, frames = struct.unpack_from(">II", frame, at + 10)
        return _Header(frames, size)
    return None


def _trimmed(frame: bytes, xing: int, flags: int) -> int:
    """Delay plus padding in samples, 12 bits each. They come after the fields that `flags` names
    and 21 bytes of the encoder's own (LAME's "MP3 Info Tag")."""
    at = xing + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2 + 21
    if at + 3 > len(frame):
        return 0
    both = int.from_bytes(frame[at : at + 3], "big")
    return (both >> 12) + (both & 0xFFF)


def _xing(header: bytes, frame: Frame, count: int, size: int) -> bytes:
    """A silent frame with the count in its header."""
    kbits = _KBITS[frame.version]
    index, length = next(
        (i, n)
        for i in range(1, 15)
        if (n := frame.samples // 8 * 1000 * kbits[i] // frame.rate) >= _XING_BYTES
    )
    # Without a checksum (lowest bit of the second byte) and without padding.
    head = bytes((0xFF, header[1] | 1, index << 4 | header[2] & 0x0C, header[3]))
    side = (17 if frame.mono else 32) if frame.version == 3 else (9 if frame.mono else 17)
    body = head + bytes(side) + b"Xing" + struct.pack(">III", 3, count, size + length)
    return body.ljust(length, b"\0")
