"""The model behind the heads: a batch in, hidden states out; vocabulary logits only when asked.

This module does not know tasks, labels or tokenizers. Everything here is differentiable; the caller
decides whether gradients are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from pipelines.batch import Batch, Images, LabelTrees, Sounds
from pipelines.models.attention import Visibility
from pipelines.models.geometry import Geometry
from pipelines.models.kv_cache import KeyValues, KVCache


@dataclass(frozen=True, slots=True)
class TextInputs:
    """The inputs of the text stack: `tokens` i64 [B, T] with embeddings [B, T, H] at `positions`
    i64 [3, B, T]. `by_token` [B, T, layers, size] has the embeddings of each layer, in families
    that have them."""

    tokens: torch.Tensor
    embeddings: torch.Tensor
    positions: torch.Tensor
    by_token: torch.Tensor | None = None

    def part(self, first: int, last: int) -> TextInputs:
        by_token = None if self.by_token is None else self.by_token[:, first:last]
        return replace(
            self,
            tokens=self.tokens[:, first:last],
            embeddings=self.embeddings[:, first:last],
            positions=self.positions[:, :, first:last],
            by_token=by_token,
        )


class RecordedStack(Protocol):
    """The text stack recorded for batches of some sizes (graphs.py)."""

    def run(
        self, inputs: TextInputs, causal: int, behind: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The result of `Backbone._stack` without a cache; None where no recording fits."""


class Backbone:
    """What heads and generation need of a model family: a transformers model with `lm_head` and
    token embeddings. A family sets the fields and implements `_stack`, `_inputs`, `_see`, `_hear`.
    """

    geometry: Geometry
    whole_prompts = False  # True: a prompt cannot be read in pieces
    cached_heads: tuple[tuple[int, int], ...]  # (key heads, head size) of each layer with a cache
    reasons: dict[str, str]  # the choices for this device, each with its reason
    recorded: RecordedStack | None = None

    def __init__(self, model: Any, embed: Any) -> None:
        self.model = model
        self._embed = embed

    @property
    def device(self) -> torch.device:
        return torch.device(self._embed.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._embed.weight.dtype
        return dtype

    @property
    def weight_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.model.parameters())

    @property
    def width(self) -> int:
        """H, the size of a hidden state and of an embedding."""
        return int(self._embed.weight.shape[1])

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[B, columns, H]: prompts and, if packed, label trees, after the last norm."""
        tokens, positions, behind = batch.prompt_ids, batch.positions, None
        if batch.packed:
            label_trees = batch.label_trees[0]
            tokens = torch.cat([tokens, label_trees.tokens], dim=1)
            positions = torch.cat([positions, label_trees.positions], dim=2)
            behind = visible_after_prompt(batch, label_trees)
        inputs = self._inputs(tokens, positions, batch)
        if self.recorded is not None:
            found = self.recorded.run(inputs, batch.prompt_columns, behind)
            if found is not None:
                return found
        return self.stack(inputs, batch.prompt_columns, behind)

    def stack(self, inputs: TextInputs, causal: int, behind: torch.Tensor | None) -> torch.Tensor:
        """[B, T, H] of embedded columns: `causal` prompt columns, then those that see `behind`."""
        return self._stack(inputs, causal, behind, None)

    def prefill(self, batch: Batch) -> tuple[torch.Tensor, KeyValues]:
        """([B, prompt columns, H], the keys and values of the prompts)."""
        if batch.packed:
            raise ValueError("a packed batch has no prompt-only columns to keep")
        cache = KeyValues()
        return self._stack(self.columns(batch), batch.prompt_columns, None, cache), cache

    def columns(self, batch: Batch) -> TextInputs:
        """The prompts of a batch as inputs of `read`; media are encoded here."""
        return self._inputs(batch.prompt_ids, batch.positions, batch)

    def read(self, prompt: TextInputs, first: int, last: int, cache: KVCache) -> torch.Tensor:
        """[B, last - first, H] of these columns of `prompt`; `cache` has the keys of all columns
        before `last`."""
        part = prompt.part(first, last)
        if not first:
            return self._stack(part, last, None, cache)
        place = torch.arange(last, device=self.device)
        return self._stack(part, 0, (place <= place[first:, None])[None], cache)

    def extend(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        """[B, N, H] of `tokens` [B, N] after the cached ones; `seen` is bool [B, N, keys]."""
        return self._stack(self._inputs(tokens, positions, None), 0, seen, cache)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits [..., V] of hidden states [..., H]."""
        logits: torch.Tensor = self.model.lm_head(hidden)
        return logits

    def _inputs(
        self, tokens: torch.Tensor, positions: torch.Tensor, batch: Batch | None
    ) -> TextInputs:
        """`batch` holds the media of `tokens`; None if these columns have no media."""
        raise NotImplementedError

    def _stack(
        self,
        inputs: TextInputs,
        causal: int,
        behind: torch.Tensor | None,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """[B, T, H]. The first `causal` columns are prompts, from their first token on; those after
        them see the keys in `behind`, bool [B or 1, columns, keys]."""
        raise NotImplementedError

    def _see(self, images: Images) -> torch.Tensor:
        raise NotImplementedError

    def _hear(self, sounds: Sounds) -> torch.Tensor:
        raise NotImplementedError

    def _with_media(self, embeddings: torch.Tensor, batch: Batch | None) -> torch.Tensor:
        """Puts the embeddings of images and sounds in their places; none without a batch."""
        if batch is None:
            return embeddings
        flat = embeddings.flatten(0, 1)
        if batch.images is not None:
            flat = flat.index_copy(0, batch.images.target, self._see(batch.images).to(flat.dtype))
        if batch.sounds is not None:
            flat = flat.index_copy(0, batch.sounds.target, self._hear(batch.sounds).to(flat.dtype))
        return flat.view(embeddings.shape)

    def _visibility(self, causal: int, behind: torch.Tensor | None) -> Visibility:
        mask = None if behind is None else additive(behind, self.dtype)
        return Visibility(causal, None, mask)


def visible_after_prompt(batch: Batch, label_trees: LabelTrees) -> torch.Tensor:
    """bool [B, label columns, prompt + label columns]: the prompt without padding, and the columns
    before in the tree. A padded column sees itself, because attention without any key would give
    NaN."""
    place = torch.arange(batch.prompt_columns, device=batch.prompt_ids.device)
    real = (place < batch.lengths[:, None])[:, None, :].expand(-1, label_trees.columns, -1)
    return torch.cat([real, label_trees.ancestors], dim=2)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, queries, keys] of 0 and the lowest number: converted once, not in each layer."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
