"""Keys and values of earlier tokens, in the shape the library's attention layers ask for.

- `KeyValues` is filled by one prompt forward; `behind` lends it to a forward that must not grow it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


class Cache(Protocol):
    """What an attention layer calls: the new keys and values in, all that may be seen out."""

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

    def behind(self) -> Behind:
        return Behind(self)


class Behind:
    """Lets new tokens see a kept prompt and keeps nothing of them."""

    def __init__(self, prompt: KeyValues) -> None:
        self._prompt = prompt

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> Pair:
        kept = self._prompt.layers[layer]
        return torch.cat([kept[0], keys], dim=2), torch.cat([kept[1], values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return self._prompt.get_seq_length()
