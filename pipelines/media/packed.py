"""Packs parts and decoded values as plain values and one block of bytes, for a decoder in another
process. The values it sends back are not trusted: a picture may exploit a decoder, which can then
send anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.media.decode import Decoded
from pipelines.media.limits import WARNINGS, DecodedAudio, DecodedImage
from pipelines.types import Part, PcmFormat

Values = dict[str, Any]  # JSON can hold them
LONGEST_NAME = 64  # characters of a format, codec or colour mode

_IMAGE = {
    "format": str,
    "mode": str,
    "payload_bytes": int,
    "has_orientation": bool,
    "warning": str,
    "frames": int,
}
_AUDIO = {"sample_rate": int, "codec": str, "payload_bytes": int, "warning": str}


def part_values(part: Part) -> Values:
    """All fields of a part but its content."""
    return {
        "kind": part.kind,
        "mime": part.mime,
        "pcm": None if part.pcm is None else asdict(part.pcm),
    }


def part_of(values: Values, data: bytes) -> Part:
    pcm = values["pcm"]
    layout = None if pcm is None else PcmFormat(**pcm)
    return Part(values["kind"], data, values["mime"], layout)


def pack(decoded: Decoded) -> tuple[Values, NDArray[Any] | bytes]:
    """(values, the block that belongs to them)."""
    if isinstance(decoded, str):
        encoded = decoded.encode()
        return {"type": "text", "size": len(encoded)}, encoded
    names = _IMAGE if isinstance(decoded, DecodedImage) else _AUDIO
    values: Values = {name: getattr(decoded, name) for name in names}
    if isinstance(decoded, DecodedImage):
        shape = list(decoded.pixels.shape)
        values |= {"type": "image", "shape": shape, "sent": list(decoded.sent)}
        return values, decoded.pixels
    values |= {"type": "audio", "shape": list(decoded.wave.shape)}
    return values, decoded.wave


def size_of(values: Values) -> int:
    """Size in bytes of the block that belongs to these values. Raises ValueError for values that
    `pack` never makes."""
    kind = values.get("type")
    if kind == "text":
        return _whole(values, "size")
    shape = values.get("shape")
    if kind not in ("image", "audio") or not isinstance(shape, list):
        raise ValueError("neither a text, an image nor a sound")
    if len(shape) != (3 if kind == "image" else 2) or not all(map(_is_size, shape)):
        raise ValueError("not a shape")
    if kind == "image" and shape[2] != 3:
        raise ValueError("not three channels")
    size = 1 if kind == "image" else 4
    for length in shape:
        size *= length
    return size


def unpack(values: Values, block: memoryview) -> Decoded:
    """The decoded part. `block` has the size that `size_of` gives; arrays are views of it. Raises
    ValueError."""
    if len(block) != size_of(values):
        raise ValueError("the block has another size")
    if values["type"] == "text":
        return bytes(block).decode()
    if values["type"] == "audio":
        wave = np.frombuffer(block, "<f4").reshape(values["shape"])
        return DecodedAudio(wave=wave, **_checked(values, _AUDIO))
    sent = values.get("sent")
    if not isinstance(sent, list) or len(sent) != 2 or not all(map(_is_size, sent)):
        raise ValueError("not a size")
    pixels = np.frombuffer(block, np.uint8).reshape(values["shape"])
    height, width = pixels.shape[:2]
    fields = _checked(values, _IMAGE)
    return DecodedImage(
        pixels=pixels, width=width, height=height, sent=(sent[0], sent[1]), **fields
    )


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _whole(values: Values, name: str) -> int:
    value = values.get(name)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{name} is not a size")
    return value


def _checked(values: Values, types: Mapping[str, type]) -> Values:
    found = {name: values.get(name) for name in types}
    for name, value in found.items():
        if type(value) is not types[name]:
            raise ValueError(f"{name} has another type")
        if isinstance(value, str) and (len(value) > LONGEST_NAME or not value.isprintable()):
            raise ValueError(f"{name} is not a name")
        if type(value) is int and not 0 <= value < 1 << 31:
            raise ValueError(f"{name} is out of range")
    if found["warning"] and found["warning"] not in WARNINGS:
        raise ValueError("not a warning")
    return found
