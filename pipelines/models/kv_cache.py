"""Keys and values of earlier tokens.

- `KeyValues` is filled by one prompt forward; `view` is for forwards that must not extend it;
- `Lines` holds the texts being generated: each has one line, as long as its text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
MIB: Final = 1 << 20
_ROUND = 64  # lines grow by a multiple of this many tokens


class KVCache(Protocol):
    """The interface for an attention layer: it takes new keys and values, and returns all visible
    ones."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair: ...


class KeyValues:
    """One (keys, values) pair for each layer; each tensor is [B, kv heads, tokens, head size]."""

    def __init__(self) -> None:
        self.layers: list[Pair] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair:
        if layer != len(self.layers):
            raise ValueError(f"layer {layer} came after {len(self.layers)} layers")
        self.layers.append((keys, values))
        return keys, values

    def view(self) -> PromptView:
        return PromptView(self)


class PromptView:
    """Lets new tokens see a cached prompt without storing them."""

    def __init__(self, prompt: KeyValues) -> None:
        self._prompt = prompt

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair:
        kept = self._prompt.layers[layer]
        return torch.cat([kept[0], keys], dim=2), torch.cat([kept[1], values], dim=2)


class NoRoom(Exception):
    """A text needs more memory than all that texts may use, even alone."""


class Lines:
    """Memory of the texts being written: one line for each text, in one block of [2, layers, lines,
    kv heads, room, head size] for all layers whose heads have the same shape.

    So one kernel for each block starts, moves or ends a line or makes all lines grow, whatever the
    number of layers and texts. `most_bytes` bounds the blocks, the copy while they grow included.
    Blocks that are pinned stay where they are, for recordings that compute on them; texts that need
    more get blocks beside them until all have ended.

    Invariant: unused places are finite (zeros or an earlier text), because a masked place still
    enters the product, with weight 0.
    """

    def __init__(
        self,
        heads: Sequence[tuple[int, int]],
        device: torch.device,
        dtype: torch.dtype,
        most_bytes: float = math.inf,
    ) -> None:
        """`heads`: (kv heads, head size) of each layer that keeps keys."""
        self._shapes = list(dict.fromkeys(heads))
        counts = dict.fromkeys(self._shapes, 0)
        self._layers: list[tuple[int, int]] = []  # (block, layer within the block) of each layer
        for shape in heads:
            self._layers.append((self._shapes.index(shape), counts[shape]))
            counts[shape] += 1
        self._counts = [counts[shape] for shape in self._shapes]
        self._device, self._dtype = device, dtype
        self._most_bytes = most_bytes
        self._blocks: list[torch.Tensor] = []
        self._pinned: list[torch.Tensor] = []  # these have a spare line after the others
        self._pinned_size = (0, 0)
        self.lines = self.room = 0  # size of the blocks, without the spare line
        self.token_bytes = 2 * dtype.itemsize * sum(count * size for count, size in heads)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, pinned ones included."""
        return sum(block.nbytes for block in {*self._blocks, *self._pinned})

    @property
    def pinned(self) -> bool:
        """Whether the texts are in the pinned blocks."""
        return bool(self._pinned) and self._blocks is self._pinned

    def pin(self, lines: int, room: int) -> bool:
        """Makes blocks that stay, with a spare line after the others for rows that are padding.
        Call it while no line is in use. False if they do not fit into `most_bytes`."""
        if (lines + 1) * room * self.token_bytes > self._most_bytes:
            return False
        self._pinned, self._pinned_size = self._made(lines + 1, room), (lines, room)
        self.clear()
        return True

    def fits(self, lines: int, room: int, used: int) -> bool:
        """Whether `reserve` would succeed."""
        return self._growth(lines, room, used) is not None

    def reserve(self, lines: int, room: int, used: int) -> bool:
        """Makes the blocks at least this large and keeps the first `used` lines; False if that must
        wait for a text to end.

        Raises NoRoom if no line is used and it does not fit even so.
        """
        growth = self._growth(lines, room, used)
        if growth is None:
            if not used:
                raise NoRoom(self._refusal(lines, room))
            return False
        if growth != (self.lines, self.room):
            self._grow(*growth, used)
        return True

    def clear(self) -> None:
        """Frees what is not pinned. Call it while no line is in use."""
        self._blocks = self._pinned
        self.lines, self.room = self._pinned_size

    def move(self, line: int, to: int, length: int) -> None:
        for block in self._blocks:
            block[:, :, to, :, :length] = block[:, :, line, :, :length]

    def reading(self, line: int, count: int, first: int, last: int) -> ReadingView:
        """The view for a forward that reads columns `first` to `last` of prompts into `count`
        lines."""
        return ReadingView(self, slice(line, line + count), first, last)

    def writing(
        self, places: torch.Tensor, longest: int, lines: torch.Tensor | None = None
    ) -> WritingView:
        """The view for a forward that writes one token at `places` i64 [rows]. It reads the first
        lines and writes to the same ones, or to `lines` i64 [rows] if given. `longest` is one more
        than the largest place."""
        return WritingView(self, places, longest, lines)

    def layer(self, number: int) -> torch.Tensor:
        """[2, lines, kv heads, room, head size]: keys, values."""
        block, layer = self._layers[number]
        return self._blocks[block][:, layer]

    def _growth(self, lines: int, room: int, used: int) -> tuple[int, int] | None:
        """The new (lines, room), or None if they do not fit. The number of lines doubles where that
        fits."""
        room = max(-(-room // _ROUND) * _ROUND, self.room if used else 0)
        if lines <= self.lines and room <= self.room:
            return self.lines, self.room
        held = self.nbytes if used else sum(block.nbytes for block in self._pinned)
        for more in (max(lines, 2 * used), max(lines, self.lines if used else 0)):
            if held + more * room * self.token_bytes <= self._most_bytes:
                return more, room
        return None

    def _grow(self, lines: int, room: int, used: int) -> None:
        old = self._blocks if used else []
        if not used:
            self.clear()  # before the new ones are made
        made = self._made(lines, room)
        for new, kept in zip(made, old, strict=False):
            new[:, :, :used, :, : self.room] = kept[:, :, :used]
        self._blocks, self.lines, self.room = made, lines, room

    def _made(self, lines: int, room: int) -> list[torch.Tensor]:
        return [
            torch.zeros(2, layers, lines, heads, room, size, dtype=self._dtype, device=self._device)
            for layers, (heads, size) in zip(self._counts, self._shapes, strict=True)
        ]

    def _refusal(self, lines: int, room: int) -> str:
        need = lines * room * self.token_bytes / MIB
        return (
            f"{lines} texts of up to {room} tokens need {need:,.0f} MiB of keys and values; "
            f"{self._most_bytes / MIB:,.0f} MiB are set aside for texts"
        )


class ReadingView:
    """Stores the keys and values of prompt columns, and returns those of all columns so far."""

    def __init__(self, lines: Lines, rows: slice, first: int, last: int) -> None:
        self._lines = lines
        self._rows = rows
        self._first, self._last = first, last

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair:
        kept = self._lines.layer(layer)[:, self._rows]
        kept[0, :, :, self._first : self._last] = keys
        kept[1, :, :, self._first : self._last] = values
        if not self._first:
            return keys, values
        return kept[0, :, :, : self._last], kept[1, :, :, : self._last]


class WritingView:
    """Stores the keys and values of each row's newest token on its line in `to`, and returns those
    of the same number of first lines."""

    def __init__(
        self, lines: Lines, places: torch.Tensor, longest: int, to: torch.Tensor | None
    ) -> None:
        self._lines = lines
        self._rows = torch.arange(len(places), device=places.device) if to is None else to
        self._places = places
        self._longest = longest

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> Pair:
        kept = self._lines.layer(layer)
        kept[0][self._rows, :, self._places] = keys[:, :, 0]
        kept[1][self._rows, :, self._places] = values[:, :, 0]
        seen = kept[:, : len(self._places), :, : self._longest]
        return seen[0], seen[1]
