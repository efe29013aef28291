"""The parts of a request: text, images and audio, in the order given."""

from __future__ import annotations

from pathlib import Path

from trefoil._proto import inference_pb2 as pb

Media = bytes | str | Path  # content, or the path of a file


def text(content: str) -> pb.Part:
    return pb.Part(text=content, modality=pb.TEXT)


def image(source: Media, mime: str = "") -> pb.Part:
    """JPEG, PNG, WebP, GIF, BMP or TIFF."""
    return _part(source, pb.IMAGE, mime)


def audio(source: Media, mime: str = "") -> pb.Part:
    """WAV, FLAC, Ogg, Opus, MP3 or AIFF."""
    return _part(source, pb.AUDIO, mime)


def pcm(samples: bytes, rate_hz: int, channels: int = 1, floats: bool = False) -> pb.Part:
    """Raw little-endian samples: 16-bit integers, or 32-bit floats."""
    encoding = pb.PcmFormat.F32LE if floats else pb.PcmFormat.S16LE
    pcm_format = pb.PcmFormat(sample_rate_hz=rate_hz, channels=channels, encoding=encoding)
    return pb.Part(data=samples, modality=pb.AUDIO, pcm=pcm_format)


def _part(source: Media, modality: pb.Modality, mime: str) -> pb.Part:
    if isinstance(source, bytes):
        return pb.Part(data=source, modality=modality, mime_type=mime)
    path = Path(source)
    return pb.Part(data=path.read_bytes(), modality=modality, mime_type=mime, id=path.name)
