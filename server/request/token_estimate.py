"""Estimates the tokens of a part, and its modality, from only its size and first bytes.

Nothing is decoded here: the estimate only orders and limits the queue. The replica counts tokens
exactly before it composes a batch.
"""

from __future__ import annotations

from proto import inference_pb2 as pb
from server.request.modalities import MODALITIES, NAMES

# Approximate rates of the Qwen-omni family: a token is about 4 bytes of text, a 28x28 cell of a
# picture (about 150 bytes in a JPEG of ordinary quality) or 40 ms of sound (1,280 bytes of 16 kHz
# 16-bit PCM, about 160 of a compressed format).
TEXT_BYTES = 4
IMAGE_BYTES = 150
PCM_BYTES = 1280
COMPRESSED_BYTES = 160
# A bundle scales a picture to at most about this many cells, however well it is compressed.
MOST_IMAGE_TOKENS = 1280
MOST_AUDIO_TOKENS = 1500

_AUDIO_STARTS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


def modality_of(part: pb.Part, head: bytes) -> str:
    """text, image or audio; "" when neither the caller nor the first bytes reveal it."""
    if part.modality in NAMES:
        return NAMES[part.modality]
    if part.WhichOneof("source") == "text":
        return "text"
    if part.HasField("pcm"):
        return "audio"
    family = part.mime_type.partition("/")[0]
    return family if family in MODALITIES else _sniff(head)


def _sniff(head: bytes) -> str:
    if head.startswith(b"RIFF"):
        return {b"WAVE": "audio", b"WEBP": "image"}.get(head[8:12], "")
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio"
    if head.startswith(_AUDIO_STARTS):
        return "audio"
    return "image" if head.startswith(_IMAGE_STARTS) else ""


def tokens_of(modality: str, size: int, head: bytes) -> int:
    if modality == "image":
        return min(1 + size // IMAGE_BYTES, MOST_IMAGE_TOKENS)
    if modality == "audio":
        raw = head.startswith((b"RIFF", b"FORM")) or not _sniff(head)
        return min(1 + size // (PCM_BYTES if raw else COMPRESSED_BYTES), MOST_AUDIO_TOKENS)
    return 1 + size // TEXT_BYTES
