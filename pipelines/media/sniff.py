"""Recognises the modality and format of a part, by its MIME type and by the first bytes of its
content."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.types import Modality

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
AUDIO_CODECS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "PCM")

_MIME: Mapping[str, tuple[Modality, str]] = {
    "image/jpeg": ("image", "JPEG"),
    "image/jpg": ("image", "JPEG"),
    "image/pjpeg": ("image", "JPEG"),
    "image/png": ("image", "PNG"),
    "image/webp": ("image", "WEBP"),
    "image/gif": ("image", "GIF"),
    "image/bmp": ("image", "BMP"),
    "image/x-ms-bmp": ("image", "BMP"),
    "image/tiff": ("image", "TIFF"),
    "audio/wav": ("audio", "WAV"),
    "audio/wave": ("audio", "WAV"),
    "audio/x-wav": ("audio", "WAV"),
    "audio/vnd.wave": ("audio", "WAV"),
    "audio/flac": ("audio", "FLAC"),
    "audio/x-flac": ("audio", "FLAC"),
    "audio/ogg": ("audio", "OGG"),
    "application/ogg": ("audio", "OGG"),
    "audio/opus": ("audio", "OGG"),
    "audio/vorbis": ("audio", "OGG"),
    "audio/mpeg": ("audio", "MP3"),
    "audio/mp3": ("audio", "MP3"),
    "audio/aiff": ("audio", "AIFF"),
    "audio/x-aiff": ("audio", "AIFF"),
    "audio/pcm": ("audio", "PCM"),
    "audio/l16": ("audio", "PCM"),
}


def declared(mime: str) -> tuple[Modality, str] | None:
    """(modality, format or "" for any) that a MIME type declares; None when it declares nothing.

    Raises KeyError for a type that this package does not decode.
    """
    name = mime.split(";")[0].strip().lower()
    if name in ("", "application/octet-stream", "binary/octet-stream"):
        return None
    if name.startswith("text/"):
        return ("text", "")
    if name in ("image/*", "audio/*"):
        return ("image" if name[0] == "i" else "audio", "")
    return _MIME[name]


_MOST_TAGS = 16


def behind_tags(data: bytes) -> int:
    """Where the content begins behind ID3v2 tags, by their own sizes. For a file that was cut
    within a tag, the position is beyond its end. Players skip such a tag in any format, not only in
    MP3."""
    at = 0
    for _ in range(_MOST_TAGS):
        if data[at : at + 3] != b"ID3" or at + 10 > len(data):
            break
        sizes = data[at + 6 : at + 10]
        if max(sizes) > 127:
            break  # not a tag, as a byte of its size has seven bits
        size = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    return at


def sniff(data: bytes) -> tuple[Modality, str] | None:
    """(modality, format) by the first bytes; None for a format that this package does not read."""
    head = data[:16]
    if head.startswith(b"\xff\xd8\xff"):
        return ("image", "JPEG")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ("image", "PNG")
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return ("image", "GIF")
    if head[:4] in (b"II*\0", b"MM\0*"):
        return ("image", "TIFF")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return ("audio", "WAV")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ("image", "WEBP")
    if head.startswith(b"fLaC"):
        return ("audio", "FLAC")
    if head.startswith(b"OggS"):
        return ("audio", "OGG")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return ("audio", "AIFF")
    if head.startswith(b"ID3") or _is_mpeg_frame(head):
        return ("audio", "MP3")
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return ("image", "BMP")
    return None


def _is_mpeg_frame(head: bytes) -> bool:
    """An MPEG audio frame header: 11 sync bits, no reserved version or rate, layer III. The other
    layers are refused: their header looks like a UTF-16 byte-order mark."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 == 0x02
        and head[2] & 0xF0 != 0xF0
        and head[2] & 0x0C != 0x0C
    )
