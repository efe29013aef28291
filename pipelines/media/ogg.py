"""The streams of an Ogg file (RFC 3533): its links one by one, each with a proper end.

libsndfile reads the first link of a chain and stops, refuses an Opus stream without the
end-of-stream flag, and does not report missing pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media.limits import NO_END, PAGES_MISSING

_MOST_LINKS = 64
_PAGES_A_SECOND = 400  # one for each packet of 2.5 ms, the shortest of Opus
_BOS, _EOS = 2, 4


@dataclass(frozen=True, slots=True)
class Page:
    at: int
    end: int
    flags: int
    serial: int
    number: int


def links(data: bytes, field: str, most_s: float) -> tuple[list[bytes], str]:
    """(each link as a file of its own, a warning or ""). Raises BadInput for more pages or links
    than `most_s` seconds of sound can have."""
    most = int(most_s * _PAGES_A_SECOND) + 1000
    groups: list[list[Page]] = []
    for count, page in enumerate(_pages(data)):
        if count >= most:
            raise _too_many(f"{most} pages", field)
        begins = page.flags & _BOS and not (groups and groups[-1][-1].flags & _BOS)
        if begins or not groups:
            groups.append([])
        groups[-1].append(page)
    if not groups:
        raise BadInput(
            field, "AUDIO_TRUNCATED", "the Ogg file has no whole page; send the complete file."
        )
    if len(groups) > _MOST_LINKS:
        raise _too_many(f"{_MOST_LINKS} links", field)
    whole = len(groups) == 1 and groups[0][-1].flags & _EOS
    if whole and groups[0][0].at == 0:
        return [data], _gaps(groups)
    warning = _gaps(groups) if all(group[-1].flags & _EOS for group in groups) else NO_END
    return [_ended(data, group) for group in groups], warning


def _pages(data: bytes) -> Iterator[Page]:
    at = data.find(b"OggS")
    while 0 <= at and at + 27 <= len(data):
        flags, serial, number = data[at + 5], *struct.unpack_from("<II", data, at + 14)
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(segments)
        if end > len(data):
            return
        yield Page(at, end, flags, serial, number)
        at = end if data.startswith(b"OggS", end) else data.find(b"OggS", end)


def _gaps(groups: list[list[Page]]) -> str:
    """Whether a page is missing between two of the same stream."""
    for group in groups:
        last: dict[int, int] = {}
        for page in group:
            if page.number > last.setdefault(page.serial, page.number) + 1:
                return PAGES_MISSING
            last[page.serial] = page.number
    return ""


def _ended(data: bytes, group: list[Page]) -> bytes:
    """The link with the end-of-stream flag on its last page."""
    last = group[-1]
    link = bytearray(data[group[0].at : last.end])
    if last.flags & _EOS:
        return bytes(link)
    at = last.at - group[0].at
    link[at + 5] |= _EOS
    link[at + 22 : at + 26] = bytes(4)
    struct.pack_into("<I", link, at + 22, _checksum(link[at:]))
    return bytes(link)


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        entry = value << 24
        for _ in range(8):
            entry = entry << 1 ^ (0x04C11DB7 if entry & 0x80000000 else 0)
        entries.append(entry & 0xFFFFFFFF)
    return tuple(entries)


_TABLE = _table()


def _checksum(page: bytearray) -> int:
    crc = 0
    for byte in page:
        crc = crc << 8 & 0xFFFFFFFF ^ _TABLE[crc >> 24 ^ byte]
    return crc


def _too_many(what: str, field: str) -> BadInput:
    return BadInput(
        field,
        "AUDIO_UNSUPPORTED",
        f"an Ogg file of more than {what}; convert it: ffmpeg -i INPUT OUTPUT.wav",
    )
