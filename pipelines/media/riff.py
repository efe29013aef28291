"""How many bytes of samples a WAV or AIFF really holds, whatever its size fields claim.

A writer that could not seek back leaves a placeholder in the size fields, and the samples go on to
the end of the file. libsndfile believes a claim of 0, and shortens a file without an error when the
claim is too large. So the claim is judged here, and written anew where it was a placeholder.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media.limits import DAMAGED, LENGTH_UNKNOWN, LENGTH_WRONG

PLACEHOLDER = 0x7FFF0000  # from here on a size is a placeholder: no part is 2 GiB
_RF64_UNKNOWN = 1 << 40


_MOST_CHUNKS = 64  # in front of the samples, of a file that Python reads itself
# What writers put in front of the samples, besides their layout.
_USUAL = frozenset(
    (b"LIST", b"fact", b"bext", b"JUNK", b"junk", b"PEAK", b"iXML", b"id3 ", b"cue ")
)


@dataclass(frozen=True, slots=True)
class Pcm16:
    """Where the samples of a usual WAV are: `size` bytes from `at`, interleaved, little-endian."""

    rate: int
    channels: int
    at: int
    size: int


def pcm16(data: bytes) -> Pcm16 | None:
    """The layout of a WAV of 16-bit samples whose sizes agree. None for any other file, which is
    libsndfile's to read; found in a few steps."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, layout = 12, (0, 0, 0, 0, 0, 0)
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return None
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            return _pcm16(data, at + 8, size, layout)
        if name == b"fmt " and size >= 16 and at + 24 <= len(data):
            layout = struct.unpack_from("<HHIIHH", data, at + 8)
        elif name not in _USUAL:
            return None
        at += 8 + size + (size & 1)
    return None


def _pcm16(data: bytes, at: int, size: int, layout: tuple[int, ...]) -> Pcm16 | None:
    tag, channels, rate, _, frame, bits = layout
    usual = tag == 1 and bits == 16 and channels > 0 and rate > 0 and frame == 2 * channels
    whole = usual and 0 < size <= len(data) - at and size % frame == 0
    if not whole or data.find(b"data", at + size) >= 0:  # samples in two places
        return None
    return Pcm16(rate, channels, at, size)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """`at` is the first byte of samples, `claim` their size by the header; `rest` starts what
    follows a claim of 0."""

    little: bool
    at: int
    claim: int


def completed(data: bytes, format: str, field: str) -> tuple[bytes, str]:
    """(the file with true sizes, a warning or ""). `format` is WAV or AIFF. Raises BadInput for a
    file that was cut."""
    found = _samples(data, little=format == "WAV")
    if found is None:
        return data, ""
    present = len(data) - found.at
    if found.claim >= PLACEHOLDER or (found.claim == 0 and _unfinished(data, found)):
        return _with_size(data, found, present), LENGTH_UNKNOWN
    if found.claim <= present:
        whole = format == "AIFF" or not _broken_blocks(data, found)
        return data, "" if whole else DAMAGED
    if _claim_holds_header(data, found):
        return _with_size(data, found, present), LENGTH_WRONG
    raise BadInput(
        field,
        "AUDIO_TRUNCATED",
        f"the header promises {found.claim} bytes of samples, the file holds {present}; "
        "send the complete file.",
    )


def _broken_blocks(data: bytes, found: _Chunks) -> bool:
    """Whether a block of ADPCM begins with a state that no encoder can be in: libsndfile goes on
    from another one without an error. The layouts are those of Microsoft's "Multimedia Data
    Standards Update" (1994): IMA has 89 steps, Microsoft's own codec as many predictors as its
    header lists."""
    at, end = 12, found.at
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"fmt " and at + 24 <= end:
            tag, channels = struct.unpack_from("<HH", data, at + 8)
            (block,) = struct.unpack_from("<H", data, at + 20)
            if tag not in (_MS_ADPCM, _IMA_ADPCM) or not channels or block < 7 * channels:
                return False
            body = data[found.at : found.at + found.claim]
            if tag == _IMA_ADPCM:  # the byte behind the step is reserved, and 0
                steps = [body[4 * c + 2 :: block] for c in range(channels)]
                zeros = [body[4 * c + 3 :: block] for c in range(channels)]
                return _above(steps, 88) or _above(zeros, 0)
            return _above([body[c::block] for c in range(channels)], 6)
        at += 8 + size + (size & 1)
    return False


def _above(states: list[bytes], most: int) -> bool:
    return any(max(state, default=0) > most for state in states)


_MS_ADPCM, _IMA_ADPCM = 2, 0x11


def _samples(data: bytes, little: bool) -> _Chunks | None:
    layout, wanted = ("<4sI", b"data") if little else (">4sI", b"SSND")
    at, long_size = 12, 0
    while at + 8 <= len(data):
        name, size = struct.unpack_from(layout, data, at)
        if name == b"ds64" and at + 24 <= len(data):
            (long_size,) = struct.unpack_from("<Q", data, at + 16)
        if name == wanted:
            if size == 0xFFFFFFFF and 0 < long_size < _RF64_UNKNOWN:
                size = long_size  # RF64 has the true size in a chunk of its own
            return _Chunks(little, at + 8, size)
        at += 8 + size + (size & 1)
    return None


def _unfinished(data: bytes, found: _Chunks) -> bool:
    """Samples behind a claim of 0. A chain of chunks to the end of the file is a sound that is
    really empty."""
    layout, at = ("<4sI" if found.little else ">4sI"), found.at
    while at + 8 <= len(data):
        name, size = struct.unpack_from(layout, data, at)
        if not name.decode("latin-1").isprintable() or at + 8 + size > len(data):
            return True
        at += 8 + size + (size & 1)
    return at < len(data)


def _claim_holds_header(data: bytes, found: _Chunks) -> bool:
    """The claim passes the end of the whole file as the first size field has it, by less than the
    header, and the file reaches that end: the writer counted its header as samples."""
    whole = int.from_bytes(data[4:8], "little" if found.little else "big")
    beyond = found.at + found.claim - (whole + 8)
    return whole + 8 <= len(data) and 0 < beyond <= found.at


def _with_size(data: bytes, found: _Chunks, present: int) -> bytes:
    copy = bytearray(data)
    order = "<I" if found.little else ">I"
    copy[:4] = b"RIFF" if found.little else b"FORM"
    struct.pack_into(order, copy, 4, len(data) - 8)
    struct.pack_into(order, copy, found.at - 4, present)
    return bytes(copy)
