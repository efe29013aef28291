"""Splits an Ogg file (RFC 3533) into its links, each with a correct end.

libsndfile reads the first link of a chain and stops, refuses an Opus stream without the
end-of-stream flag, and does not report missing pages.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.errors import BadInput
from pipelines.media.limits import DAMAGED, NO_END, PAGES_MISSING

_MOST_LINKS = 64
_PAGES_A_SECOND = 400  # one for each packet of 2.5 ms, the shortest of Opus
_BOS, _EOS = 2, 4
# Other codecs in Ogg files, by the first bytes of a stream's first packet.
_FOREIGN = {
    b"\x7fFLAC": ("OGG_FLAC", "FLAC in an Ogg file"),
    b"Speex   ": ("SPEEX", "a Speex voice recording"),
    b"\x80theora": ("OGG_VIDEO", "a Theora video"),
}


@dataclass(frozen=True, slots=True)
class Page:
    """`sound`: its checksum is correct. libogg drops any other page without an error."""

    at: int
    end: int
    flags: int
    serial: int
    number: int
    sound: bool


def links(data: bytes, field: str, most_s: float) -> tuple[list[bytes], str]:
    """(each link as a file of its own, a warning or ""). Raises BadInput for more pages or links
    than `most_s` seconds of sound can have."""
    most = int(most_s * _PAGES_A_SECOND) + 1000
    groups: list[list[Page]] = []
    for count, page in enumerate(_pages(data)):
        if count >= most:
            raise _too_many(f"{most} pages", field)
        if not page.sound:
            continue
        begins = page.flags & _BOS and not (groups and groups[-1][-1].flags & _BOS)
        if begins or not groups:
            groups.append([])
        groups[-1].append(page)
    if not groups:
        raise BadInput(
            field, "AUDIO_TRUNCATED", "the Ogg file has no whole page; send the complete file."
        )
    _refuse_foreign(data, groups[0], field)
    if len(groups) > _MOST_LINKS:
        raise _too_many(f"{_MOST_LINKS} links", field)
    whole = len(groups) == 1 and groups[0][-1].flags & _EOS
    if whole and groups[0][0].at == 0:
        return [data], _gaps(groups)
    warning = _gaps(groups) if all(group[-1].flags & _EOS for group in groups) else NO_END
    return [_ended(data, group) for group in groups], warning


def _refuse_foreign(data: bytes, group: list[Page], field: str) -> None:
    """Raises BadInput for a link of another codec, with a reason code of its own as in
    foreign.py."""
    for page in group:
        if not page.flags & _BOS:
            return
        begin = page.at + 27 + data[page.at + 26]
        for magic, (code, name) in _FOREIGN.items():
            if data.startswith(magic, begin):
                raise BadInput(
                    field,
                    f"UNSUPPORTED_{code}",
                    f"the content is {name}, which is not decoded here; convert it: ffmpeg -i "
                    "INPUT OUTPUT.wav",
                )


def _pages(data: bytes) -> Iterator[Page]:
    at = data.find(b"OggS")
    while 0 <= at and at + 27 <= len(data):
        flags, serial, number = data[at + 5], *struct.unpack_from("<II", data, at + 14)
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + data[at + 26] + sum(segments)
        if end > len(data):
            return
        (checksum,) = struct.unpack_from("<I", data, at + 22)
        sound = _checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) == checksum
        yield Page(at, end, flags, serial, number, sound)
        at = end if data.startswith(b"OggS", end) else data.find(b"OggS", end)


def _gaps(groups: list[list[Page]]) -> str:
    """A warning: PAGES_MISSING if a page is missing within a stream; DAMAGED if a page is repeated,
    follows the end of its stream, or follows bytes that belong to no page; else ""."""
    for group in groups:
        last: dict[int, Page] = {}
        for before, page in zip((None, *group), group, strict=False):
            own = last.get(page.serial)
            if own is not None and page.number > own.number + 1:
                return PAGES_MISSING
            again = own is not None and (page.number <= own.number or own.flags & _EOS)
            if again or (before is not None and page.at > before.end):
                return DAMAGED
            last[page.serial] = page
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
    struct.pack_into("<I", link, at + 22, _checksum(bytes(link[at:])))
    return bytes(link)


_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _checksum(page: bytes) -> int:
    """The checksum of RFC 3533: zlib's CRC-32 with the bit order of bytes and result reversed,
    starting from 0."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _too_many(what: str, field: str) -> BadInput:
    return BadInput(
        field,
        "AUDIO_UNSUPPORTED",
        f"an Ogg file of more than {what}; convert it: ffmpeg -i INPUT OUTPUT.wav",
    )
