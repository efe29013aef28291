"""What decoding yields, what it may cost at most, and how a format is told from its first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.bundle import parameters
from pipelines.types import Modality


@dataclass(frozen=True, slots=True)
class Limits:
    """What one row may ask of us. Checked before memory is spent wherever a header allows it.

    Part of the bundle: a limit decides which inputs the model ever sees. `jpeg_draft_px` is 0
    (off), or the side in pixels down to which the JPEG decoder may scale while decoding: faster,
    and up to 14 of 255 levels away from the exact picture.
    """

    max_parts: int = 32
    max_part_bytes: int = 32 * 2**20
    max_row_bytes: int = 64 * 2**20
    max_row_decoded_bytes: int = 256 * 2**20  # pixels and samples of all parts together
    max_text_bytes: int = 64 * 2**10
    max_image_pixels: int = 25_000_000
    max_image_side: int = 16_384
    max_image_aspect: float = 100.0
    jpeg_draft_px: int = 0
    max_audio_s: float = 30.0
    min_audio_s: float = 0.05
    min_audio_rate: int = 8_000
    max_audio_rate: int = 192_000
    max_audio_channels: int = 8
    max_audio_values: int = 24_000_000  # frames times channels: 96 MB as float32
    max_audio_peak: float = 16.0  # full scale is 1; beyond this the samples are not scaled at all
    min_audio_rms_dbfs: float = -90.0  # below the noise of 16-bit audio there is no signal

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...) for an unknown or missing limit."""
        return parameters.read(cls, values, "limits")


DEFAULT = Limits()
QWEN = Limits(max_audio_s=300.0, max_audio_values=32_000_000)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`pixels` uint8 [H, W, 3], upright, on white; `mode` is the file's own colour mode.

    `has_orientation`: an EXIF orientation other than upright was applied. `warning`: the picture is
    whole but its metadata was not.
    """

    pixels: NDArray[np.uint8]
    format: str
    mode: str
    width: int
    height: int
    payload_bytes: int
    has_orientation: bool = False
    warning: bool = False

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """`wave` float32 [T, channels] in [-1, 1] at the file's own `sample_rate` (hertz)."""

    wave: NDArray[np.float32]
    sample_rate: int
    codec: str
    payload_bytes: int

    @property
    def nbytes(self) -> int:
        return self.wave.nbytes

    @property
    def channels(self) -> int:
        return int(self.wave.shape[1])

    @property
    def seconds(self) -> float:
        return float(self.wave.shape[0] / self.sample_rate)


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
    """(modality, format or "" for any of its formats) a mime type claims; None: it claims nothing.

    Raises KeyError for a type that nothing here decodes.
    """
    name = mime.split(";")[0].strip().lower()
    if name in ("", "application/octet-stream", "binary/octet-stream"):
        return None
    if name.startswith("text/"):
        return ("text", "")
    if name in ("image/*", "audio/*"):
        return ("image" if name[0] == "i" else "audio", "")
    return _MIME[name]


def sniff(data: bytes) -> tuple[Modality, str] | None:
    """(modality, format) told from the first bytes; None when they are no media format we read."""
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
    layers are refused: their header cannot be told from a UTF-16 byte-order mark."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x18 != 0x08
        and head[1] & 0x06 == 0x02
        and head[2] & 0xF0 != 0xF0
        and head[2] & 0x0C != 0x0C
    )
