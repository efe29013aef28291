"""Counts the bytes of samples that a WAV or AIFF really holds, whatever its size fields claim.

A writer that could not seek back leaves a placeholder in the size fields, and the samples continue
to the end of the file. libsndfile believes a claim of 0, and silently shortens a file whose claim
is too large. So this module checks the claim, and replaces a placeholder by the true size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pipelines.errors import BadInput
from pipelines.media import wave_layout
from pipelines.media.limits import DAMAGED, HEADER_WRONG, LENGTH_UNKNOWN, LENGTH_WRONG

PLACEHOLDER = 0x7FFF0000  # from this size on the field is a placeholder, as no part has 2 GiB
_RF64_UNKNOWN = 1 << 40


_MOST_CHUNKS = 64  # most chunks before the samples in a file that Python reads itself
# Chunks that writers put before the samples, besides the layout.
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
    """The layout of a WAV of 16-bit samples whose sizes agree, found in a few steps. None for any
    other file, which libsndfile reads."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    layout, stated = (0, 0, 0, 0, 0, 0), 0
    for name, at, size in islice(_walk(data, "<"), _MOST_CHUNKS):
        if name == b"data":
            found = _pcm16(data, at, size, layout)
            agreed = found is None or stated in (0, found.size // layout[4])
            return found if agreed else None
        if name == b"fmt " and size >= 16 and at + 16 <= len(data):
            layout = struct.unpack_from("<HHIIHH", data, at)
        elif name == b"fact" and size >= 4 and at + 4 <= len(data):
            (stated,) = struct.unpack_from("<I", data, at)
        elif name not in _USUAL:
            return None
    return None


def _walk(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, size) of each chunk; `order` as in struct."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + (size & 1)


def _pcm16(data: bytes, at: int, size: int, layout: tuple[int, ...]) -> Pcm16 | None:
    tag, channels, rate, byte_rate, frame, bits = layout
    usual = tag == 1 and bits == 16 and channels > 0 and rate > 0 and frame == 2 * channels
    usual = usual and byte_rate == rate * frame
    whole = usual and 0 < size <= len(data) - at and size % frame == 0
    if not whole or data.find(b"data", at + size) >= 0:  # there are samples in two places
        return None
    return Pcm16(rate, channels, at, size)


@dataclass(frozen=True, slots=True)
class Chunks:
    """`at` is the first byte of samples, `claim` their size by the header. For a WAV, `layout` has
    the fields of its `fmt ` chunk, and `stated` the samples for each channel that another chunk
    gives. For an AIFF, `held` has the bytes of samples that its layout gives. 0: not given."""

    little: bool
    at: int
    claim: int
    layout: wave_layout.WaveLayout | None = None
    stated: int = 0
    held: int = 0


def chunks(data: bytes, format: str) -> Chunks | None:
    """The chunks of a WAV or AIFF (`format`). None if there are no samples; libsndfile refuses such
    a file."""
    return _wav(data) if format == "WAV" else _aiff(data)


def mp3(data: bytes) -> slice | None:
    """Where the frames are in a WAV that contains an MP3: its layout does not describe them."""
    found = False
    for name, at, size in _walk(data, "<"):
        if name == b"fmt ":
            found = data[at : at + 2] == _MP3
        elif name == b"data" or not found:
            return slice(at, at + size) if found else None
    return None


_MP3 = b"\x55\0"


def completed(data: bytes, found: Chunks, field: str) -> tuple[bytes, str]:
    """(the file with true sizes, a warning or ""). Raises BadInput for a file that was cut, or
    whose header does not give the layout of its samples."""
    warning = ""
    if found.layout is not None:
        data, layout, warning = wave_layout.agreed(data, found.layout, field)
        found = replace(found, layout=layout)
    present = len(data) - found.at
    if found.claim >= PLACEHOLDER or (found.claim == 0 and _unfinished(data, found)):
        return _with_size(data, found, present), warning or LENGTH_UNKNOWN
    if found.claim <= present:
        if _broken_blocks(data, found):
            return data, DAMAGED
        return data, warning or _length(found)
    if _claim_holds_header(data, found):
        return _with_size(data, found, present), warning or LENGTH_WRONG
    raise BadInput(
        field,
        "AUDIO_TRUNCATED",
        f"the header promises {found.claim} bytes of samples, the file holds {present}; "
        "send the complete file.",
    )


_SSND_HEAD = 8  # offset and block size, before the samples


def _length(found: Chunks) -> str:
    """LENGTH_WRONG if another chunk gives a number of samples that the file does not have. In ADPCM
    the last block may be padded. Some writers count the samples of all channels; libsndfile divides
    the count of IMA ADPCM by the channels."""
    layout = found.layout
    if found.held:
        size = found.claim - _SSND_HEAD
        return "" if abs(found.held - size) <= size // 100 + _SSND_HEAD else HEADER_WRONG
    if layout is None or not 0 < found.stated < PLACEHOLDER:
        return ""
    held = found.claim // layout.frame * layout.samples
    slack = max(layout.samples, held // 100)
    count, channels = found.stated, layout.channels
    counts = (count, count // channels, count * channels)
    return "" if any(abs(held - count) <= slack for count in counts) else LENGTH_WRONG


def _broken_blocks(data: bytes, found: Chunks) -> bool:
    """Whether a block of ADPCM begins with a state that no encoder can produce. libsndfile would
    continue from another state, without an error. The layouts are in Microsoft's "Multimedia Data
    Standards Update" (1994): IMA has 89 steps, Microsoft's own codec seven standard predictors."""
    layout = found.layout
    if layout is None or layout.tag not in (wave_layout.MS_ADPCM, wave_layout.IMA_ADPCM):
        return False
    block, channels = layout.frame, layout.channels
    if block < 7 * channels:
        return False
    body = data[found.at : found.at + found.claim]
    if layout.tag == wave_layout.IMA_ADPCM:  # the byte after the step is reserved, and is 0
        steps = [body[4 * c + 2 :: block] for c in range(channels)]
        zeros = [body[4 * c + 3 :: block] for c in range(channels)]
        return _above(steps, 88) or _above(zeros, 0)
    return _above([body[c::block] for c in range(channels)], 6)


def _above(states: list[bytes], most: int) -> bool:
    return any(max(state, default=0) > most for state in states)


def _wav(data: bytes) -> Chunks | None:
    long_size = stated = 0
    layout: wave_layout.WaveLayout | None = None
    for name, at, size in _walk(data, "<"):
        if name == b"ds64" and at + 16 <= len(data):
            (long_size,) = struct.unpack_from("<Q", data, at + 8)
            stated = int.from_bytes(data[at + 16 : at + 24], "little")
        elif name == b"fmt ":
            layout = wave_layout.read(data, at, size)
        elif name == b"fact" and size >= 4 and at + 4 <= len(data):
            stated = stated or int.from_bytes(data[at : at + 4], "little")
        elif name == b"data":
            # RF64 has the true size in a chunk of its own.
            apart = size == 0xFFFFFFFF and 0 < long_size < _RF64_UNKNOWN
            return Chunks(True, at, long_size if apart else size, layout, stated)
    return None


def _aiff(data: bytes) -> Chunks | None:
    held = 0
    for name, at, size in _walk(data, ">"):
        if name == b"COMM":
            held = _aiff_bytes(data[at : at + size], data[8:12] == b"AIFC")
        elif name == b"SSND":
            return Chunks(False, at, size, held=held)
    return None


# Codecs whose samples take whole bytes; in an AIFC their byte order or type may differ.
_UNPACKED = frozenset((b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"fl64", b"FL64"))


def _aiff_bytes(body: bytes, compressed: bool) -> int:
    """Bytes of samples that the layout gives; 0 if that is not known."""
    if len(body) < 18 or (compressed and body[18:22] not in _UNPACKED):
        return 0
    channels, frames, bits = struct.unpack_from(">HIH", body)
    held: int = channels * frames * -(-bits // 8)
    return held if 0 < frames < PLACEHOLDER else 0


def _unfinished(data: bytes, found: Chunks) -> bool:
    """Whether there are samples after a claim of 0. If a chain of chunks continues to the end of
    the file, the sound is really empty."""
    layout, at = ("<4sI" if found.little else ">4sI"), found.at
    while at + 8 <= len(data):
        name, size = struct.unpack_from(layout, data, at)
        if not name.decode("latin-1").isprintable() or at + 8 + size > len(data):
            return True
        at += 8 + size + (size & 1)
    return at < len(data)


def _claim_holds_header(data: bytes, found: Chunks) -> bool:
    """Whether the writer counted its header as samples. Then the claim ends less than a header
    beyond the end of the file as the first size field gives it, and the file reaches that end."""
    whole = int.from_bytes(data[4:8], "little" if found.little else "big")
    beyond = found.at + found.claim - (whole + 8)
    return whole + 8 <= len(data) and 0 < beyond <= found.at


def _with_size(data: bytes, found: Chunks, present: int) -> bytes:
    copy = bytearray(data)
    order = "<I" if found.little else ">I"
    copy[:4] = b"RIFF" if found.little else b"FORM"
    struct.pack_into(order, copy, 4, len(data) - 8)
    struct.pack_into(order, copy, found.at - 4, present)
    return bytes(copy)
