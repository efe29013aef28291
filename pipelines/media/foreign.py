"""Names formats that this package does not decode, by their first bytes, with the command that
converts them. Each has its own reason code, so that refusals can be counted by format."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.media.sniff import behind_tags
from pipelines.types import Modality

_SOUND = "ffmpeg -i INPUT OUTPUT.wav"
_PICTURE = "magick INPUT OUTPUT.png"
_FRAME = "ffmpeg -i INPUT -frames:v 1 OUTPUT.png"
_HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Foreign:
    """`code` ends the reason; `name` is for the message. `plain`: a text can begin like this, so
    the format counts only in binary content or in a part that is not declared as text."""

    code: str
    name: str
    remedy: str
    plain: bool = False

    @property
    def reason(self) -> str:
        return f"UNSUPPORTED_{self.code}"

    def sentence(self, kind: Modality | None) -> str:
        remedy = _FRAME if self.remedy == _SOUND and kind == "image" else self.remedy
        return f"the content is {self.name}, which is not decoded here; convert it: {remedy}"


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _matches(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.DOTALL | re.IGNORECASE)
    return lambda head: compiled.match(head) is not None


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Matches an ISO base media file of one of these brands: the major brand, or any brand if the
    major one is generic."""

    def check(head: bytes) -> bool:
        if head[4:8] != b"ftyp":
            return False
        size = min(int.from_bytes(head[:4], "big"), len(head))
        listed = [head[8:12]]
        if listed[0] in _GENERIC:
            listed += [head[at : at + 4] for at in range(16, size - 3, 4)]
        return any(name.startswith(brands) for name in listed)

    return check


_GENERIC = (b"mif1", b"msf1", b"miaf", b"isom", b"iso2", b"mp41", b"mp42")

# The first match counts.
_KNOWN: tuple[tuple[Callable[[bytes], bool], Foreign], ...] = (
    (_brand(b"avif", b"avis"), Foreign("AVIF", "an AVIF picture", _PICTURE)),
    (
        _brand(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        Foreign("HEIC", "a HEIC picture, as phones take them", "heif-convert INPUT OUTPUT.jpg"),
    ),
    (_brand(b"crx "), Foreign("CR3", "a raw photo (CR3)", _PICTURE)),
    (_brand(b"M4A", b"M4B"), Foreign("M4A", "an M4A sound (AAC in MP4)", _SOUND)),
    (_brand(b"3g"), Foreign("3GP", "a 3GP recording", _SOUND)),
    (_brand(b"qt"), Foreign("MOV", "a QuickTime file", _SOUND)),
    (_brand(b""), Foreign("MP4", "an MP4 file", _SOUND)),
    (
        _starts(b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
        Foreign("JXL", "a JPEG XL picture", "djxl INPUT OUTPUT.png"),
    ),
    (
        _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        Foreign("JPEG2000", "a JPEG 2000 picture", _PICTURE),
    ),
    (_matches(rb"\x1aE\xdf\xa3.{0,64}webm"), Foreign("WEBM", "a WebM recording", _SOUND)),
    (_starts(b"\x1aE\xdf\xa3"), Foreign("MATROSKA", "a Matroska file", _SOUND)),
    (_starts(b"#!AMR"), Foreign("AMR", "an AMR voice recording", _SOUND)),
    (_matches(rb"\xff[\xf0\xf1\xf8\xf9]"), Foreign("AAC", "AAC in ADTS frames", _SOUND)),
    (_matches(rb"\xff[\xf4\xf5\xfc\xfd]"), Foreign("MP2", "MPEG audio of layer II", _SOUND)),
    (_starts(b"riff\x2e\x91\xcf\x11"), Foreign("W64", "a Sony Wave64 sound", _SOUND)),
    (_starts(b"caff\0"), Foreign("CAF", "an Apple CAF sound", _SOUND)),
    (_starts(b".snd\0", b"dns.\0"), Foreign("AU", "a Sun AU sound", _SOUND)),
    (_starts(b"RIFX"), Foreign("RIFX", "a big-endian WAV (RIFX)", _SOUND, plain=True)),
    (_matches(rb"RIFF.{4}AVI "), Foreign("AVI", "an AVI video", _SOUND)),
    (_matches(rb"RIFF.{4}RMID|MThd\0"), Foreign("MIDI", "MIDI notes", "timidity INPUT -Ow")),
    (_starts(b"FLV\x01"), Foreign("FLV", "a Flash video", _SOUND)),
    (_starts(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), Foreign("WMA", "a WMA or ASF file", _SOUND)),
    (_starts(b"wvpk"), Foreign("WAVPACK", "a WavPack sound", _SOUND, plain=True)),
    (_starts(b"MAC "), Foreign("APE", "a Monkey's Audio sound", _SOUND, plain=True)),
    (_starts(b"MPCK", b"MP+"), Foreign("MUSEPACK", "a Musepack sound", _SOUND, plain=True)),
    (_starts(b"TTA1"), Foreign("TTA", "a True Audio sound", _SOUND, plain=True)),
    (_starts(b"DSD ", b"FRM8"), Foreign("DSD", "a DSD sound", _SOUND, plain=True)),
    (_starts(b"\x0b\x77"), Foreign("AC3", "Dolby Digital sound (AC-3)", _SOUND)),
    (_starts(b"Creative Voice File\x1a"), Foreign("VOC", "a Creative VOC sound", _SOUND)),
    (_starts(b"II+\0", b"MM\0+"), Foreign("BIGTIFF", "a BigTIFF picture", _PICTURE)),
    (_starts(b"8BPS\0"), Foreign("PSD", "a Photoshop picture", "magick 'INPUT[0]' OUTPUT.png")),
    (_starts(b"\0\0\1\0", b"\0\0\2\0"), Foreign("ICO", "a Windows icon", _PICTURE)),
    (_starts(b"v/1\x01"), Foreign("EXR", "an OpenEXR picture", _PICTURE)),
    (_starts(b"#?RADIANCE", b"#?RGBE"), Foreign("HDR", "a Radiance picture", _PICTURE)),
    (_starts(b"qoif"), Foreign("QOI", "a QOI picture", _PICTURE, plain=True)),
    (_starts(b"DDS \x7c"), Foreign("DDS", "a DDS texture", _PICTURE)),
    (_matches(rb"P[1-7]\s"), Foreign("PNM", "a PNM picture", _PICTURE, plain=True)),
    (_matches(rb".{128}DICM"), Foreign("DICOM", "a DICOM study", "dcm2img INPUT OUTPUT.png")),
    (_starts(b"%PDF-"), Foreign("PDF", "a PDF", "pdftoppm -png -r 150 INPUT OUTPUT")),
    (
        _starts(b"%!PS", b"\xc5\xd0\xd3\xc6"),
        Foreign("POSTSCRIPT", "PostScript", "gs -sDEVICE=png16m -r150 -o OUTPUT.png INPUT"),
    ),
    (
        _matches(
            rb"\s*(<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*+-->\s*+)*+(<!doctype svg[^>]*>\s*)?<svg"
        ),
        Foreign("SVG", "an SVG drawing", "rsvg-convert INPUT -o OUTPUT.png", plain=True),
    ),
    (
        _matches(rb"\s*(<!doctype html|<html)"),
        Foreign("HTML", "a web page, such as an error page", "send the file itself", plain=True),
    ),
    (_starts(b"{\\rtf"), Foreign("RTF", "an RTF document", "send its text", plain=True)),
    (_starts(b"PK\3\4"), Foreign("ZIP", "a ZIP or Office file", "send what is in it")),
    (_starts(b"\x1f\x8b"), Foreign("GZIP", "gzip data", "gunzip INPUT")),
    (
        _starts(b"\xff\xfe", b"\xfe\xff"),
        Foreign("UTF16", "text in UTF-16", "iconv -f UTF-16 -t UTF-8 INPUT > OUTPUT"),
    ),
)


def named(data: bytes, kind: Modality | None) -> Foreign | None:
    """The format of the content; None if it is unknown here too. `kind` is the modality that the
    caller declared."""
    start = behind_tags(data)
    head = data[start : start + _HEAD_BYTES] if start < len(data) else b""
    text_like = kind is None and b"\0" not in data[:_HEAD_BYTES]
    for check, found in _KNOWN:
        if check(head) and not (found.plain and text_like):
            return found
    return None
