"""One part decoded as its kind, or refused, for tests."""

from __future__ import annotations

import pytest

from pipelines.errors import BadInput
from pipelines.media.decode import DecodedAudio, DecodedImage, InputLimits, decode
from pipelines.types import Modality, Part, PcmFormat

LIMITS = InputLimits()
FIELD = "parts[2]"


def opened(data: bytes | str, kind: Modality | None = None, mime: str = "") -> DecodedImage:
    found = decode(Part(kind, data, mime), FIELD, LIMITS)
    assert isinstance(found, DecodedImage)
    return found


def heard(data: bytes, mime: str = "", pcm: PcmFormat | None = None) -> DecodedAudio:
    found = decode(Part(None, data, mime, pcm), FIELD, LIMITS)
    assert isinstance(found, DecodedAudio)
    return found


def refusal(
    data: bytes | str,
    kind: Modality | None = None,
    mime: str = "",
    pcm: PcmFormat | None = None,
    limits: InputLimits = LIMITS,
) -> BadInput:
    with pytest.raises(BadInput) as caught:
        decode(Part(kind, data, mime, pcm), FIELD, limits)
    assert caught.value.field.startswith(FIELD)
    assert " at 0x" not in caught.value.message  # no address of ours in an answer
    return caught.value
