"""Checks whether the fields of a WAV's layout agree with each other, and decides which ones to use
if not.

Rate, channels, bits for each sample, bytes for each frame and bytes for each second are five fields
with two equations between them (Microsoft's "Multimedia Data Standards Update", 1994). The others
identify one wrong field. If more are wrong, players differ in what they play, so the file is
refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from pipelines.errors import BadInput
from pipelines.media.limits import HEADER_WRONG

_PCM, MS_ADPCM, _FLOAT, _ALAW, _MULAW, IMA_ADPCM = 1, 2, 3, 6, 7, 0x11
_EXTENSIBLE = 0xFFFE
_APART = 0.01


@dataclass(frozen=True, slots=True)
class WaveLayout:
    """The `fmt ` chunk; `at` is its first byte. `frame` bytes hold `samples` samples of each
    channel: one sample, or for ADPCM a block of them. `used` bits of each sample carry sound."""

    at: int
    tag: int
    channels: int
    rate: int
    byte_rate: int
    frame: int
    bits: int
    samples: int = 1
    used: int = 0


def read(data: bytes, at: int, size: int) -> WaveLayout | None:
    """The layout in the chunk whose body is at `at`. None for a codec without these equations, or
    for a chunk that is too short: libsndfile judges those."""
    if size < 16 or at + size > len(data):
        return None
    tag, channels, rate, byte_rate, frame, bits = struct.unpack_from("<HHIIHH", data, at)
    samples, used = 1, bits
    if tag == _EXTENSIBLE and size >= 40:
        (used,) = struct.unpack_from("<H", data, at + 18)
        (tag,) = struct.unpack_from("<H", data, at + 24)
    elif tag in (MS_ADPCM, IMA_ADPCM) and size >= 20:
        (samples,) = struct.unpack_from("<H", data, at + 18)
    if not (channels and rate and samples):
        return None
    known = tag in (_PCM, _FLOAT, _ALAW, _MULAW) and bits > 0
    if known or (tag in (MS_ADPCM, IMA_ADPCM) and size >= 20):
        return WaveLayout(at, tag, channels, rate, byte_rate, frame, bits, samples, used)
    return None


def agreed(data: bytes, layout: WaveLayout, field: str) -> tuple[bytes, WaveLayout, str]:
    """(the file, its layout, a warning or ""). A wrong frame size is repaired in both. Raises
    BadInput if the position of the samples cannot be determined."""
    usual = _usual_frame(layout)
    # For ADPCM, ffmpeg writes the bit rate of its encoder, whatever the rate of the sound is.
    wrong = layout.samples == 1 and not _near(layout.byte_rate, layout.rate * layout.frame)
    if layout.frame == usual:
        wide = layout.used > layout.bits  # more bits are used than the sample has
        return data, layout, HEADER_WRONG if wrong or wide else ""
    if not _near(layout.byte_rate, layout.rate * usual / layout.samples):
        raise BadInput(
            field,
            "AUDIO_HEADER_WRONG",
            f"the header contradicts itself: {layout.channels} channels of {layout.bits} bits are "
            f"not {layout.frame} bytes; write the file again from its source.",
        )
    copy = bytearray(data)
    struct.pack_into("<H", copy, layout.at + 12, usual)
    return bytes(copy), replace(layout, frame=usual), HEADER_WRONG


def _usual_frame(layout: WaveLayout) -> int:
    """Bytes of a frame by the other fields; for ADPCM, bytes of a block of that many samples."""
    if layout.tag == IMA_ADPCM:  # four bits for each sample, after one whole sample in four bytes
        return layout.channels * (4 + layout.samples // 2)
    if layout.tag == MS_ADPCM:  # after two whole samples in seven bytes
        return layout.channels * 7 + (layout.samples - 2) * layout.channels // 2
    return layout.channels * -(-layout.bits // 8)


def _near(value: float, other: float) -> bool:
    return abs(value - other) <= _APART * other
