"""Keys and values of earlier tokens, in the form that the library's attention layers take.

- `KeyValues` is filled by one prompt forward; `view` is for forwards that must not extend it;
- `GenerationCache` holds the texts being generated: one line each, as long as its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
_ROUND = 64  # tokens by which lines grow


class KVCache(Protocol):
    """What an attention layer calls: takes new keys and values, returns all visible ones."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> Pair: ...

    def get_seq_length(self, *_: Any) -> int: ...


class KeyValues:
    """One (keys, values) pair a layer, each [B, kv heads, tokens, head size]."""

    def __init__(self) -> None:
        self.layers: list[Pair] = []

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> Pair:
        if layer != len(self.layers):
            raise ValueError(f"layer {layer} came after {len(self.layers)} layers")
        self.layers.append((keys, values))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def view(self) -> PromptView:
        return PromptView(self)


class PromptView:
    """Lets new tokens see a cached prompt without storing them."""

    def __init__(self, prompt: KeyValues) -> None:
        self._prompt = prompt

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> Pair:
        kept = self._prompt.layers[layer]
        return torch.cat([kept[0], keys], dim=2), torch.cat([kept[1], values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return self._prompt.get_seq_length()


class GenerationCache:
    """A block of [lines, kv heads, room, head size] a layer; the first `len(used)` lines are in
    use.

    Invariant: unused places are finite (zeros or an earlier text), because a masked place still
    enters the product, with weight 0.
    """

    def __init__(self) -> None:
        self._layers: list[Pair] = []
        self._used: list[int] = []
        self._lengths = torch.zeros(0, dtype=torch.int64)
        self._rows = torch.zeros(0, dtype=torch.int64)

    @property
    def device(self) -> torch.device:
        return self._lengths.device

    def append(self, prompts: KeyValues, starts: Sequence[int], more: int) -> None:
        """A line for each prompt (left padded up to its start), with room for `more` tokens."""
        before, columns = len(self._used), prompts.get_seq_length()
        self._used += [columns - start for start in starts]
        self._reserve(prompts, len(self._used), columns + more)
        for block, prompt in zip(self._layers, prompts.layers, strict=True):
            for ours, theirs in zip(block, prompt, strict=True):
                for row, start in enumerate(starts):
                    ours[before + row, :, : columns - start] = theirs[row, :, start:]
        self._sync(prompts.layers[0][0].device)

    def make_room(self) -> torch.Tensor:
        """One more token on every line; returns what each line may see, bool [lines, 1,
        longest]."""
        self._lengths = self._lengths + 1
        self._used = [length + 1 for length in self._used]
        place = torch.arange(max(self._used), device=self.device)
        return (place < self._lengths[:, None])[:, None, :]

    def remove(self, line: int) -> None:
        """Removes a line; the last line takes its place."""
        last = len(self._used) - 1
        if line != last:
            used = self._used[last]
            for block in self._layers:
                for ours in block:
                    ours[line, :, :used] = ours[last, :, :used]
            self._used[line] = used
        self._used.pop()
        self._sync(self.device)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> Pair:
        """Writes the newest token of every line, [lines, kv heads, 1, head size]."""
        longest, last = max(self._used), self._lengths - 1
        kept = self._layers[layer]
        kept[0][self._rows, :, last] = keys[:, :, 0]
        kept[1][self._rows, :, last] = values[:, :, 0]
        lines = len(self._used)
        return kept[0][:lines, :, :longest], kept[1][:lines, :, :longest]

    def get_seq_length(self, *_: Any) -> int:
        return max(self._used, default=1) - 1

    def _sync(self, device: torch.device) -> None:
        self._lengths = torch.tensor(self._used, dtype=torch.int64, device=device)
        self._rows = torch.arange(len(self._used), device=device)

    def _reserve(self, like: KeyValues, lines: int, room: int) -> None:
        """Grows the blocks and keeps their content."""
        held = self._layers[0][0].shape if self._layers else (0, 0, 0, 0)
        room = -(-max(room, held[2]) // _ROUND) * _ROUND
        if lines <= held[0] and room <= held[2]:
            return
        lines = max(lines, held[0])
        grown = []
        for number, pair in enumerate(like.layers):
            fresh = [half.new_zeros(lines, half.shape[1], room, half.shape[3]) for half in pair]
            if self._layers:
                for new, old in zip(fresh, self._layers[number], strict=True):
                    new[: held[0], :, : held[2]] = old
            grown.append((fresh[0], fresh[1]))
        self._layers = grown
