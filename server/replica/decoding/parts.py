"""Parts of a row and the decoders that process them: what is sent to a decoder, for how long, and
which results are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pipelines.errors import BadInput
from pipelines.media import packed, work
from pipelines.media.decode import Decoded, DecodePart, decode, field_of
from pipelines.media.limits import InputLimits
from pipelines.types import Part
from server.replica.decoding.nursery import Nursery
from server.replica.decoding.pool import (
    DecoderPool,
    DecoderRefused,
    DecodingSettings,
    EncodedPart,
    RowDecoding,
)
from server.replica.model import Lane

# CPU time that a part may take: ALLOWED_FACTOR times the most that an ordinary part of its size
# takes, and at least ALLOWED_FIRST_S.
ALLOWED_FIRST_S = 1.0
ALLOWED_FACTOR = 8.0
# A row whose parts are expected to take longer is heavy: it never uses the last free decoder.
LIGHT_S = 0.125
LIGHT_BYTES = 2 << 20
# Any thread, even the computing one, decodes text and plain samples up to this size itself.
DIRECT_BYTES = 64 << 10


class PartDecoders:
    """Decodes the parts of rows within the limits of a bundle."""

    def __init__(self, count: int, limits: InputLimits, nursery: Nursery) -> None:
        """Raises OSError."""
        self._limits = limits
        largest = max(3 * limits.max_image_pixels, 4 * limits.max_audio_values)
        outputs = limits.max_row_decoded_bytes + largest
        settings = DecodingSettings(
            asdict(limits), max(limits.max_part_bytes, LIGHT_BYTES), outputs
        )
        self.pool = DecoderPool(count, settings, nursery)

    def lane(self, parts: Sequence[Part]) -> Lane:
        """The lane of a row. Reads headers only."""
        size = sum(len(part.data) for part in parts)
        if size > LIGHT_BYTES:
            return "heavy"
        foreign = [part.data for part in parts if not work.plain(part)]
        if not foreign:
            return "direct" if size <= DIRECT_BYTES else "light"
        costs = (work.cost_s(data, self._limits) for data in foreign if isinstance(data, bytes))
        return "light" if sum(costs) <= LIGHT_S else "heavy"

    @contextmanager
    def row(self, parts: Sequence[Part]) -> Iterator[DecodePart]:
        """Decodes the parts of one row, in order. The results are valid only within this
        context."""
        with self.pool.row() as row:
            yield _Row(row, parts, self._limits)


class _Row:
    """Sends as many parts at once as are light together, because each exchange costs two context
    switches; a part that is not light is sent alone, with its own budget."""

    def __init__(self, row: RowDecoding, parts: Sequence[Part], limits: InputLimits) -> None:
        self._row = row
        self._limits = limits
        self._waiting = deque(
            (EncodedPart(field_of(number), packed.part_values(part), part.data))
            for number, part in enumerate(parts)
            if isinstance(part.data, bytes) and self._foreign(part)
        )
        self._found: deque[dict[str, Any]] = deque()
        self._refused: DecoderRefused | None = None

    def __call__(self, part: Part, field: str, limits: InputLimits) -> Decoded:
        """As pipelines.media.decode.decode; also raises what RowDecoding.decode raises."""
        if not self._foreign(part):
            return decode(part, field, limits)
        if not self._found and self._refused is None:
            self._ask()
        if not self._found:
            assert self._refused is not None
            raise _bad_input(self._refused)
        values = self._found.popleft()
        try:
            return packed.unpack(values, self._row.block(packed.size_of(values)))
        except ValueError as error:
            raise RuntimeError(f"a decoder sent what cannot be: {error}") from error

    def _foreign(self, part: Part) -> bool:
        """Whether a decoder process must read the part; a part that is refused for its size needs
        none."""
        return not work.plain(part) and 0 < len(part.data) <= self._limits.max_part_bytes

    def _ask(self) -> None:
        parts: list[EncodedPart] = []
        size, cost_s = 0, 0.0
        while self._waiting:
            data = self._waiting[0].data
            size, cost_s = size + len(data), cost_s + work.cost_s(data, self._limits)
            if parts and (size > LIGHT_BYTES or cost_s > LIGHT_S):
                break
            parts.append(self._waiting.popleft())
            allowed_s = ALLOWED_FIRST_S + ALLOWED_FACTOR * cost_s
        try:
            found, self._refused = self._row.decode(parts, allowed_s)
        except DecoderRefused as refusal:
            raise _bad_input(refusal) from refusal
        self._found.extend(found)


def _bad_input(refusal: DecoderRefused) -> BadInput:
    return BadInput(refusal.field, refusal.reason, refusal.message)
