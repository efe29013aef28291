"""A format that is not decoded here is named, with the command that converts it."""

from __future__ import annotations

import pytest

from pipelines.errors import BadInput
from pipelines.media.decode import InputLimits, decode, decode_row
from pipelines.types import Modality, Part
from tests.support import media_bytes as made

LIMITS = InputLimits()


def boxed(brand: bytes, *compatible: bytes) -> bytes:
    names = b"".join(compatible)
    head = (16 + len(names)).to_bytes(4, "big") + b"ftyp" + brand + bytes(4) + names
    return head + b"\0\0\0\x08mdat" + bytes(200)


BODY = bytes(range(256)) * 2
FILES: dict[str, tuple[bytes, str, str]] = {
    # name of the file: content, end of the reason, a word of the command
    "voice.m4a": (boxed(b"M4A ", b"M4A ", b"mp42", b"isom"), "M4A", "ffmpeg"),
    "book.m4b": (boxed(b"M4B "), "M4A", "ffmpeg"),
    "clip.mp4": (boxed(b"isom", b"isom", b"avc1"), "MP4", "ffmpeg"),
    "dash.mp4": (boxed(b"dash", b"iso6"), "MP4", "ffmpeg"),
    "old.3gp": (boxed(b"3gp4", b"isom"), "3GP", "ffmpeg"),
    "old.3g2": (boxed(b"3g2a"), "3GP", "ffmpeg"),
    "clip.mov": (boxed(b"qt  ", b"qt  "), "MOV", "ffmpeg"),
    "photo.heic": (boxed(b"heic", b"mif1", b"heic"), "HEIC", "heif-convert"),
    "burst.heic": (boxed(b"msf1", b"hevc"), "HEIC", "heif-convert"),
    "photo.heif": (boxed(b"mif1", b"mif1"), "HEIC", "heif-convert"),
    "photo.avif": (boxed(b"avif", b"mif1"), "AVIF", "magick"),
    "other.avif": (boxed(b"mif1", b"avif", b"miaf"), "AVIF", "magick"),
    "raw.cr3": (boxed(b"crx "), "CR3", "magick"),
    "photo.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + BODY, "JXL", "djxl"),
    "bare.jxl": (b"\xff\x0a" + BODY, "JXL", "djxl"),
    "photo.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + BODY, "JPEG2000", "magick"),
    "browser.webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\x82\x84webm" + BODY, "WEBM", "ffmpeg"),
    "film.mkv": (b"\x1aE\xdf\xa3\xa3B\x82\x88matroska" + BODY, "MATROSKA", "ffmpeg"),
    "phone.amr": (b"#!AMR\n" + BODY, "AMR", "ffmpeg"),
    "phone.awb": (b"#!AMR-WB\n" + BODY, "AMR", "ffmpeg"),
    "radio.aac": (b"\xff\xf1\x50\x80" + BODY, "AAC", "ffmpeg"),
    "radio2.aac": (b"\xff\xf9\x50\x80" + BODY, "AAC", "ffmpeg"),
    "tagged.aac": (made.id3_tag() + b"\xff\xf1\x50\x80" + BODY, "AAC", "ffmpeg"),
    "radio.mp2": (b"\xff\xfd\x84\x00" + BODY, "MP2", "ffmpeg"),
    "long.w64": (b"riff\x2e\x91\xcf\x11" + BODY, "W64", "ffmpeg"),
    "apple.caf": (b"caff\0\1\0\0" + BODY, "CAF", "ffmpeg"),
    "sun.au": (b".snd\0\0\0\x18" + BODY, "AU", "ffmpeg"),
    "big.wav": (b"RIFX\0\0\1\0WAVE" + BODY, "RIFX", "ffmpeg"),
    "film.avi": (b"RIFF\0\0\1\0AVI LIST" + BODY, "AVI", "ffmpeg"),
    "film.flv": (b"FLV\1\5\0\0\0\x09" + BODY, "FLV", "ffmpeg"),
    "old.wma": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + BODY, "WMA", "ffmpeg"),
    "tune.mid": (b"MThd\0\0\0\6" + BODY, "MIDI", "timidity"),
    "tune.rmi": (b"RIFF\0\0\1\0RMIDdata" + BODY, "MIDI", "timidity"),
    "loss.wv": (b"wvpk" + BODY, "WAVPACK", "ffmpeg"),
    "loss.ape": (b"MAC \x96\x0f" + BODY, "APE", "ffmpeg"),
    "loss.mpc": (b"MPCKSH" + BODY, "MUSEPACK", "ffmpeg"),
    "loss.tta": (b"TTA1\1\0" + BODY, "TTA", "ffmpeg"),
    "fine.dsf": (b"DSD \x1c\0" + BODY, "DSD", "ffmpeg"),
    "disc.ac3": (b"\x0b\x77" + BODY, "AC3", "ffmpeg"),
    "old.voc": (b"Creative Voice File\x1a" + BODY, "VOC", "ffmpeg"),
    "huge.tif": (b"II+\0\x08\0\0\0" + BODY, "BIGTIFF", "magick"),
    "huge2.tif": (b"MM\0+\0\x08\0\0" + BODY, "BIGTIFF", "magick"),
    "layers.psd": (b"8BPS\0\1" + BODY, "PSD", "magick"),
    "favicon.ico": (b"\0\0\1\0\1\0" + BODY, "ICO", "magick"),
    "light.exr": (b"v/1\x01\2\0\0\0" + BODY, "EXR", "magick"),
    "light.hdr": (b"#?RADIANCE\n" + BODY, "HDR", "magick"),
    "fast.qoi": (b"qoif" + BODY, "QOI", "magick"),
    "game.dds": (b"DDS \x7c\0\0\0" + BODY, "DDS", "magick"),
    "plain.ppm": (b"P6\n16 10\n255\n" + BODY, "PNM", "magick"),
    "scan.dcm": (bytes(128) + b"DICM" + BODY, "DICOM", "dcm2img"),
    "report.pdf": (b"%PDF-1.7\n%\xe2\xe3" + BODY, "PDF", "pdftoppm"),
    "page.ps": (b"%!PS-Adobe-3.0\n" + BODY, "POSTSCRIPT", "gs "),
    "page.eps": (b"\xc5\xd0\xd3\xc6" + BODY, "POSTSCRIPT", "gs "),
    "report.docx": (b"PK\3\4\x14\0" + BODY, "ZIP", "what is in it"),
    "log.gz": (b"\x1f\x8b\x08\0" + BODY, "GZIP", "gunzip"),
    "note.txt": (b"\xff\xfe" + "Größe".encode("utf-16-le") * 9, "UTF16", "iconv"),
}
NAMES = tuple(FILES)
SENT_AS: tuple[Modality | None, ...] = (None, "image", "audio")


def refused(part: Part) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode_row([Part(None, "hum"), part], LIMITS)
    assert caught.value.field == "parts[1].data"
    return caught.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SENT_AS)
def test_format_is_named_with_its_command(name: str, kind: Modality | None) -> None:
    content, code, word = FILES[name]
    fault = refused(Part(kind, content, id=name))
    assert fault.reason == f"UNSUPPORTED_{code}"
    assert fault.message.startswith(f"{name}: ") and word in fault.message
    assert len(fault.message) < 160


@pytest.mark.parametrize(
    ("mime", "name"),
    [("audio/mp4", "voice.m4a"), ("audio/webm", "browser.webm"), ("image/heic", "photo.heic")],
)
def test_declared_type_does_not_hide_the_name(mime: str, name: str) -> None:
    content, code, _ = FILES[name]
    assert refused(Part(None, content, mime)).reason == f"UNSUPPORTED_{code}"


def test_film_sent_as_a_picture_gets_the_command_for_a_frame() -> None:
    assert "-frames:v 1" in refused(Part("image", FILES["clip.mp4"][0])).message
    assert "OUTPUT.wav" in refused(Part("audio", FILES["clip.mp4"][0])).message


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"{\\rtf1 hum}", "RTF"),
        (b"P3\n1 1\n255\n1 2 3\n", "PNM"),
    ],
)
def test_markup_is_named_where_a_picture_was_expected_and_text_elsewhere(
    content: bytes, code: str
) -> None:
    assert refused(Part("image", content)).reason == f"UNSUPPORTED_{code}"
    assert decode(Part(None, content), "parts[0]", LIMITS) == content.decode()
    assert decode(Part("text", content), "parts[0]", LIMITS) == content.decode()


@pytest.mark.parametrize("text", ["MAC address of the pump", "RIFX", "P1 alarm", "wvpk", "DSD "])
def test_text_that_begins_like_a_format_stays_text(text: str) -> None:
    assert decode(Part(None, text.encode()), "parts[0]", LIMITS) == text


def test_name_of_a_part_is_short_and_printable_in_the_message() -> None:
    fault = refused(Part("audio", b"\1\0", id="a\n\x1b[31m" + "b" * 500))
    assert fault.message.startswith("a[31m" + "b" * 10) and len(fault.message) < 250
