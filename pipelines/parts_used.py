"""How much of each part of a row was used, and the refusal of a row with a part that was cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.errors import BadInput
from pipelines.media.limits import INCOMPLETE, WARNINGS, DecodedAudio, DecodedImage
from pipelines.models.tokens import Encoded
from pipelines.types import PartUsed

Grid = tuple[int, int, int]  # (time, rows, columns) in patches


def parts_used(
    parts: Sequence[str | DecodedImage | DecodedAudio],
    encoded: Encoded,
    grids: Sequence[Grid],
    patch: int,
) -> tuple[PartUsed, ...]:
    """One entry for each part, in order. `grids` are those of the pictures, `patch` the side of a
    patch in pixels."""
    texts, pictures = iter(encoded.text_parts), iter(grids)
    return tuple(_used(part, texts, pictures, patch) for part in parts)


def _used(
    part: str | DecodedImage | DecodedAudio,
    texts: Iterator[tuple[int, int]],
    pictures: Iterator[Grid],
    patch: int,
) -> PartUsed:
    if isinstance(part, str):
        kept, sent = next(texts)
        return PartUsed(modality="text", cut=kept < sent, tokens_used=kept, tokens_sent=sent)
    cut = part.warning in INCOMPLETE
    if isinstance(part, DecodedAudio):
        return PartUsed(
            modality="audio",
            cut=cut,
            seconds_used=part.seconds,
            seconds_sent=part.seconds,
            channels_sent=part.channels,
            warning=part.warning,
        )
    _, rows, columns = next(pictures)
    return PartUsed(
        modality="image",
        cut=cut or part.frames > 1,
        width_used=columns * patch,
        height_used=rows * patch,
        width_sent=part.sent[0],
        height_sent=part.sent[1],
        frames_sent=part.frames,
        warning=part.warning,
    )


def refuse_cut(used: Sequence[PartUsed]) -> None:
    """Raises BadInput naming the first part that was cut."""
    for number, part in enumerate(used):
        if part.cut:
            what, remedy = _what(part)
            raise BadInput(
                f"parts[{number}].data",
                "PART_CUT",
                f"{what}, and on_truncation is REFUSE; {remedy}, or let it be answered.",
            )


def _what(part: PartUsed) -> tuple[str, str]:
    if part.tokens_used < part.tokens_sent:
        return f"{part.tokens_used} of {part.tokens_sent} tokens fit", "shorten the text"
    if part.frames_sent > 1:
        return f"the first of {part.frames_sent} pictures would be used", "send that one alone"
    return WARNINGS[part.warning], "send the complete file"
