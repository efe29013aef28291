"""A small whole file of every kind that is decoded, made by code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from tests.support import media_bytes as made


@dataclass(frozen=True, slots=True)
class Seed:
    name: str
    kind: str  # image or audio
    data: bytes


@lru_cache
def seeds(ogg_s: float = 0.5, mp3_s: float = 2.0) -> tuple[Seed, ...]:
    """`ogg_s` and `mp3_s`: how long these sounds are, in seconds; the others have half a second."""
    return (*_pictures(), *_sounds(ogg_s, mp3_s))


def _pictures() -> Iterator[Seed]:
    photo = Image.fromarray(made.photo(60, 80))
    kinds: list[tuple[str, str, Image.Image, dict[str, object]]] = [
        ("jpeg", "JPEG", photo, {"quality": 85}),
        ("jpeg progressive", "JPEG", photo, {"progressive": True}),
        ("jpeg 4:4:4", "JPEG", photo, {"subsampling": 0}),
        ("jpeg restart", "JPEG", photo, {"restart_marker_rows": 1}),
        ("jpeg grey", "JPEG", photo.convert("L"), {}),
        ("jpeg cmyk", "JPEG", photo.convert("CMYK"), {}),
        ("png", "PNG", photo, {}),
        ("png alpha", "PNG", photo.convert("RGBA"), {}),
        ("png palette", "PNG", photo.convert("P"), {}),
        ("png bit", "PNG", photo.convert("1"), {}),
        ("png 16", "PNG", _deep(), {}),
        ("webp", "WEBP", photo, {"quality": 60}),
        ("webp lossless", "WEBP", photo, {"lossless": True}),
        ("webp alpha", "WEBP", photo.convert("RGBA"), {"quality": 60}),
        ("gif", "GIF", photo.convert("P"), {}),
        ("bmp", "BMP", photo, {}),
        ("tiff", "TIFF", photo, {}),
        ("tiff lzw", "TIFF", photo, {"compression": "tiff_lzw"}),
        ("tiff deflate", "TIFF", photo, {"compression": "tiff_adobe_deflate"}),
    ]
    for name, form, picture, options in kinds:
        yield Seed(name, "image", made.image(form, picture, **options))
    turn = Image.Exif()
    turn[0x0112] = 6
    yield Seed("jpeg turned", "image", made.image("JPEG", photo, exif=turn.tobytes()))
    more = {"save_all": True, "append_images": [Image.fromarray(made.photo(60, 80, 1))]}
    for form in ("GIF", "WEBP", "TIFF"):
        yield Seed(f"{form.lower()} of two", "image", made.image(form, photo, **more))


def _deep() -> Image.Image:
    levels = np.linspace(0, 65_535, 80 * 60).reshape(60, 80).astype(np.uint16)
    return Image.fromarray(levels)


def _sounds(ogg_s: float, mp3_s: float) -> Iterator[Seed]:
    tone = made.tone(0.5)
    stereo = np.stack([tone, tone[::-1]], axis=1)
    for form, subtypes in {
        "WAV": ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW", "IMA_ADPCM"),
        "WAVEX": ("PCM_16",),
        "RF64": ("PCM_16",),
        "AIFF": ("PCM_16",),
        "FLAC": ("PCM_16", "PCM_24"),
    }.items():
        for subtype in subtypes:
            yield Seed(f"{form} {subtype}", "audio", made.sound(tone, form=form, subtype=subtype))
    yield Seed("WAV stereo", "audio", made.sound(stereo))
    yield Seed("FLAC stereo", "audio", made.sound(stereo, form="FLAC"))
    yield Seed("MP3", "audio", made.mp3(mp3_s))
    yield Seed("MP3 44.1", "audio", made.mp3(mp3_s, 44_100))
    yield Seed("MP3 stereo", "audio", made.mp3(mp3_s, stereo=True))
    yield Seed("MP3 bare", "audio", made.without_xing(made.mp3(mp3_s)))
    yield Seed("MP3 tagged", "audio", made.id3_tag(100) + made.mp3(mp3_s))
    for subtype in ("VORBIS", "OPUS"):
        yield Seed(f"OGG {subtype}", "audio", b"".join(made.ogg_pages(subtype, ogg_s)))
