"""Decodes one part of a request to text, pixels or samples, within the bundle's limits.

Every refusal is a BadInput that names the field, a reason scripts can match, the limit and the
remedy. Sizes from a file's header are checked before memory is allocated for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipelines.errors import BadInput
from pipelines.media import foreign
from pipelines.media import sniff as media
from pipelines.media.decode_audio import decode_audio, decode_pcm
from pipelines.media.decode_image import decode_image
from pipelines.media.limits import DecodedAudio, DecodedImage, InputLimits
from pipelines.types import Modality, Part

__all__ = [
    "DecodePart",
    "Decoded",
    "DecodedAudio",
    "DecodedImage",
    "InputLimits",
    "check_parts",
    "decode",
    "decode_row",
    "modality_of",
]


Decoded = str | DecodedImage | DecodedAudio
# Has the signature of `decode` below: a part, its path, the limits. A server passes one that
# decodes in another process.
DecodePart = Callable[[Part, str, InputLimits], Decoded]


def modality_of(part: Decoded) -> Modality:
    if isinstance(part, str):
        return "text"
    return "image" if isinstance(part, DecodedImage) else "audio"


def check_parts(parts: Sequence[Part], limits: InputLimits) -> None:
    """Refuse a row by its shape alone, before any part is decoded. Raises BadInput."""
    if not parts:
        raise BadInput("parts", "NO_PARTS", "the row has no parts; send at least one.")
    if len(parts) > limits.max_parts:
        raise BadInput(
            "parts",
            "TOO_MANY_PARTS",
            f"{len(parts)} parts in one row; the limit is {limits.max_parts}. "
            "Split it into several rows.",
        )
    total = sum(len(part.data) for part in parts)
    if total > limits.max_row_bytes:
        raise BadInput(
            "parts",
            "ROW_TOO_LARGE",
            f"{total} bytes in one row; the limit is {limits.max_row_bytes}. "
            "Split it, or compress its images and sounds.",
        )


def field_of(number: int) -> str:
    """The path of a part, by its position in the row."""
    return f"parts[{number}]"


def decode_row(
    parts: Sequence[Part], limits: InputLimits, decode_part: DecodePart | None = None
) -> list[Decoded]:
    """Decodes every part of a row, in order. The sum of the decoded sizes is limited too: 32 images
    that are each within their own limit could take gigabytes. Raises BadInput, and any error of a
    `decode_part` other than `decode`."""
    check_parts(parts, limits)
    decoded: list[Decoded] = []
    size = 0
    for number, part in enumerate(parts):
        decoded.append(_named_decode(part, field_of(number), limits, decode_part or decode))
        size += 0 if isinstance(decoded[-1], str) else decoded[-1].nbytes
        if size > limits.max_row_decoded_bytes:
            raise BadInput(
                f"{field_of(number)}.data",
                "ROW_TOO_LARGE",
                f"the parts up to this one decode to {size} bytes; the limit is "
                f"{limits.max_row_decoded_bytes} a row. Scale images down, or split the row.",
            )
    return decoded


def _named_decode(part: Part, field: str, limits: InputLimits, decode_part: DecodePart) -> Decoded:
    """Calls `decode_part`; a refusal begins with the part's own name, such as its file name."""
    try:
        return decode_part(part, field, limits)
    except BadInput as error:
        name = "".join(c for c in part.id[:_NAME_CHARACTERS] if c.isprintable())
        if not name:
            raise
        raise BadInput(error.field, error.reason, f"{name}: {error.message}") from None


_NAME_CHARACTERS = 80


def decode(part: Part, field: str, limits: InputLimits) -> Decoded:
    """Decodes one part. `field` is its path, e.g. `parts[2]`; refusals name a path inside it.

    Raises BadInput.
    """
    if isinstance(part.data, str):
        return _given_text(part, part.data, field, limits)
    data = part.data
    if not data:
        raise BadInput(f"{field}.data", "EMPTY", "the part has 0 bytes; leave it out instead.")
    if len(data) > limits.max_part_bytes:
        raise BadInput(
            f"{field}.data",
            "PART_TOO_LARGE",
            f"{len(data)} bytes; the limit is {limits.max_part_bytes}. Compress or split it.",
        )
    kind, format = _recognise(part, data, field)
    if kind == "text":
        return _text(data, field, limits)
    if kind == "image":
        return decode_image(data, format, f"{field}.data", limits)
    if format == "PCM":
        return decode_pcm(data, part.pcm, field, limits)
    start = media.behind_tags(data)
    if start >= len(data):
        raise BadInput(
            f"{field}.data",
            "AUDIO_TRUNCATED",
            f"its ID3v2 tag takes {start} bytes, the file holds {len(data)}; send the complete "
            "file.",
        )
    content = data[start:] if start else data
    decoded = decode_audio(content, format, f"{field}.data", limits)
    return replace(decoded, payload_bytes=len(data)) if start else decoded


def _recognise(part: Part, data: bytes, field: str) -> tuple[Modality, str]:
    """(modality, format) by the content; a declared type must agree with it."""
    try:
        claim = media.declared(part.mime)
    except KeyError:
        _refuse_foreign(data, part.kind, field)
        raise BadInput(
            f"{field}.mime",
            "MIME_UNSUPPORTED",
            f"{part.mime!r} is not decoded here; send one of "
            f"{', '.join(media.IMAGE_FORMATS + media.AUDIO_CODECS)} or text.",
        ) from None
    kind = part.kind
    if claim and kind and claim[0] != kind:
        raise BadInput(
            f"{field}.mime",
            "MIME_MISMATCH",
            f"declared {part.mime!r} on a part of kind {kind}; correct one of them.",
        )
    kind = kind or (claim[0] if claim else None)
    if kind == "text":
        return ("text", "")
    if part.pcm is not None or (claim and claim[1] == "PCM"):
        if kind == "image":
            raise BadInput(f"{field}.pcm", "KIND_MISMATCH", "a PCM layout on an image; remove it.")
        return ("audio", "PCM")
    found = _sniffed(data)
    if found is None:
        return _unrecognised(kind, data, field)
    if claim and claim[1] and claim != found:
        raise BadInput(
            f"{field}.mime",
            "MIME_MISMATCH",
            f"declared {part.mime!r}, but the content is {found[1]}; correct the type, or leave "
            "it out: the content then decides.",
        )
    if kind and found[0] != kind:
        raise BadInput(
            f"{field}.data",
            "KIND_MISMATCH",
            f"declared as {kind}, but the content is {found[0]} ({found[1]}).",
        )
    return found


def _sniffed(data: bytes) -> tuple[Modality, str] | None:
    """As media.sniff, and also recognises a sound behind an ID3v2 tag."""
    start = media.behind_tags(data)
    if not start:
        return media.sniff(data)
    found = media.sniff(data[start : start + 16])
    if found is None and foreign.named(data, "audio") is not None:
        return None
    # An MP3 may have padding behind its tag.
    return found if found is not None and found[0] == "audio" else ("audio", "MP3")


def _refuse_foreign(data: bytes, kind: Modality | None, field: str) -> None:
    """Raises BadInput with the name of a format that this package does not decode."""
    found = foreign.named(data, kind)
    if found is not None:
        raise BadInput(f"{field}.data", found.reason, found.sentence(kind))


def _unrecognised(kind: Modality | None, data: bytes, field: str) -> tuple[Modality, str]:
    _refuse_foreign(data, kind, field)
    if kind is None and b"\0" not in data:
        return ("text", "")
    known = (media.IMAGE_FORMATS if kind != "audio" else ()) + (
        media.AUDIO_CODECS if kind != "image" else ()
    )
    raise BadInput(
        f"{field}.data",
        "UNKNOWN_FORMAT",
        f"the content is not one of {', '.join(known)}; convert it, or send text as UTF-8.",
    )


def _given_text(part: Part, text: str, field: str, limits: InputLimits) -> str:
    if part.kind not in (None, "text"):
        raise BadInput(
            f"{field}.data", "KIND_MISMATCH", f"declared as {part.kind}, but the content is text."
        )
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{field}.data",
            "TEXT_NOT_UTF8",
            f"character {error.start} is half of a surrogate pair; send well-formed Unicode.",
        ) from None
    return _text(encoded, field, limits)


def _text(data: bytes, field: str, limits: InputLimits) -> str:
    if len(data) > limits.max_text_bytes:
        raise BadInput(
            f"{field}.data",
            "TEXT_TOO_LONG",
            f"{len(data)} bytes of text; the limit is {limits.max_text_bytes}. Shorten it.",
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{field}.data",
            "TEXT_NOT_UTF8",
            f"byte {error.start} is not UTF-8 ({error.reason}); re-encode the text as UTF-8.",
        ) from None
    if not any(c.isprintable() and not c.isspace() for c in text):
        raise BadInput(
            f"{field}.data",
            "TEXT_EMPTY",
            "the text has no visible character; leave the part out instead.",
        )
    return text
