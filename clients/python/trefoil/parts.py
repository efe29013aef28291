"""The parts of a request: text, images and audio, in the order given.

Values that cannot be sent are refused here, before any network call, and the error names the
argument: TypeError for a wrong type, ValueError for content that every server would refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from trefoil._proto import inference_pb2 as pb
from trefoil.pixels import is_array, is_picture, png_of_array, png_of_picture

Media = bytes | bytearray | memoryview | str | Path  # content, or the path of a file
# Type of an array of samples -> whether samples are floats.
_SAMPLES = {"float32": True, "int16": False}


def text(content: str) -> pb.Part:
    """Raises TypeError for anything but a str, ValueError for a lone surrogate."""
    if isinstance(content, (bytes, bytearray)):
        raise TypeError("content: bytes; decode them first, e.g. content.decode('utf-8')")
    if not isinstance(content, str):
        raise TypeError(f"content: {_kind(content)} is not a str")
    return pb.Part(text=well_formed(content, "content"), modality=pb.TEXT)


def image(source: Media | Any, mime: str = "") -> pb.Part:
    """JPEG, PNG, WebP, GIF, BMP or TIFF, as bytes or as the path of a file. Also a PIL image or an
    array (numpy's or similar) of uint8 or uint16, [height, width] or [height, width, 1 | 3 | 4] in
    RGB order; these two are sent as PNG."""
    if is_picture(source):
        return pb.Part(data=png_of_picture(source), modality=pb.IMAGE)
    if is_array(source):
        return pb.Part(data=png_of_array(source), modality=pb.IMAGE)
    return _part(source, pb.IMAGE, mime)


def audio(source: Media, mime: str = "") -> pb.Part:
    """WAV, FLAC, Ogg, Opus, MP3 or AIFF, as bytes or as the path of a file."""
    if is_array(source):
        raise TypeError("source: an array has no sample rate; use pcm(samples, rate_hz)")
    return _part(source, pb.AUDIO, mime)


def pcm(
    samples: bytes | bytearray | memoryview | Any,
    rate_hz: int,
    channels: int = 1,
    floats: bool = False,
) -> pb.Part:
    """Raw little-endian samples: 16-bit integers, or 32-bit floats. Also an array of float32 or
    int16, [samples] or [samples, channels]; then its dtype and shape decide."""
    if is_array(samples):
        array = cast(Any, samples)
        kind, shape = str(array.dtype), tuple(array.shape)
        if kind not in _SAMPLES or len(shape) not in (1, 2):
            raise TypeError(
                f"samples: an array of {kind} {list(shape)}; give float32 or int16, [samples] or "
                "[samples, channels]"
            )
        floats, channels = _SAMPLES[kind], shape[1] if len(shape) == 2 else 1
        samples = array.astype("<f4" if floats else "<i2").tobytes()
    if not isinstance(samples, (bytes, bytearray, memoryview)):
        raise TypeError(f"samples: {_kind(samples)} is neither bytes nor an array")
    for name, value in (("rate_hz", rate_hz), ("channels", channels)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise ValueError(f"{name}: {value!r} is not a whole number above 0")
    encoding = pb.PcmFormat.F32LE if floats else pb.PcmFormat.S16LE
    pcm_format = pb.PcmFormat(sample_rate_hz=rate_hz, channels=channels, encoding=encoding)
    return pb.Part(data=bytes(samples), modality=pb.AUDIO, pcm=pcm_format)


def checked(parts: Iterable[Any], where: str = "parts") -> tuple[pb.Part, ...]:
    """The parts of one example. Raises TypeError naming the one that is not a part."""
    if isinstance(parts, (str, bytes, pb.Part)):
        raise TypeError(f"{where}: give a list of parts, such as [text('...')]")
    found = tuple(parts)
    for index, part in enumerate(found):
        if isinstance(part, pb.Part):
            continue
        remedy = "text(...), image(...) or audio(...)"
        if isinstance(part, (str, bytes)):
            remedy = "text(...) for words, image(...) or audio(...) for a file"
        raise TypeError(f"{where}[{index}]: {_kind(part)} is not a part; make one with {remedy}")
    return found


def well_formed(value: str, name: str) -> str:
    """Raises ValueError for a lone surrogate, which UTF-8 cannot encode."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: character {error.start} is half of a surrogate pair; give well-formed Unicode"
        ) from None
    return value


def _part(source: Any, modality: pb.Modality, mime: str) -> pb.Part:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return pb.Part(data=bytes(source), modality=modality, mime_type=mime)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source: {_kind(source)} is neither bytes nor the path of a file")
    path = Path(source)
    return pb.Part(data=path.read_bytes(), modality=modality, mime_type=mime, id=path.name)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
