"""The model behind the heads: a batch in, hidden states out; vocabulary logits only when asked.

Knows no task, label or tokenizer. Everything here is differentiable; the caller decides whether
gradients are kept.
"""

from __future__ import annotations

from typing import Any

import torch

from pipelines.batch import Batch, Images, LabelTrees, Sounds
from pipelines.models.geometry import Geometry
from pipelines.models.kv_cache import KeyValues, KVCache


class Backbone:
    """What heads and generation need of a model family: a transformers model with `lm_head` and
    token embeddings. A family sets `geometry` and implements `_run`, `_see` and `_hear`.
    """

    geometry: Geometry

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
        tokens, positions = batch.prompt_ids, batch.positions
        label_trees = batch.label_trees[0] if batch.packed else None
        if label_trees is not None:
            tokens = torch.cat([tokens, label_trees.tokens], dim=1)
            positions = torch.cat([positions, label_trees.positions], dim=2)
        return self._run(tokens, positions, visible(batch, label_trees), None, batch)

    def prefill(self, batch: Batch) -> tuple[torch.Tensor, KeyValues]:
        """([B, prompt columns, H], the keys and values of the prompts)."""
        if batch.packed:
            raise ValueError("a packed batch has no prompt-only columns to keep")
        cache, seen = KeyValues(), visible(batch, None)
        return self._run(batch.prompt_ids, batch.positions, seen, cache, batch), cache

    def extend(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        """[B, N, H] of `tokens` [B, N] after the cached ones; `seen` is bool [B, N, keys]."""
        return self._run(tokens, positions, seen, cache, None)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits [..., V] of hidden states [..., H]."""
        logits: torch.Tensor = self.model.lm_head(hidden)
        return logits

    def _run(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: KVCache | None,
        batch: Batch | None,
    ) -> torch.Tensor:
        """`batch` holds the media of `tokens`; None when these columns have none."""
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


def visible(batch: Batch, label_trees: LabelTrees | None) -> torch.Tensor:
    """bool [B, columns, columns]: causal prompts without padding, label trees behind them.

    A padded query sees itself, because attention to nothing would give NaN.
    """
    width, device = batch.prompt_columns, batch.prompt_ids.device
    columns = width + (label_trees.columns if label_trees is not None else 0)
    place = torch.arange(width, device=device)
    real = place >= batch.starts[:, None]
    seen = torch.zeros(batch.rows, columns, columns, dtype=torch.bool, device=device)
    seen[:, :width, :width] = (place[:, None] >= place) & real[:, None, :]
    seen[:, :width, :width] |= place[:, None] == place
    if label_trees is not None:
        seen[:, width:, :width] = real[:, None, :]
        seen[:, width:, width:] = label_trees.ancestors
    return seen


def visible_after_prompt(batch: Batch, label_trees: LabelTrees) -> torch.Tensor:
    """bool [B, label columns, prompt + label columns], for a forward after the cached prompt."""
    place = torch.arange(batch.prompt_columns, device=batch.prompt_ids.device)
    real = (place >= batch.starts[:, None])[:, None, :].expand(-1, label_trees.columns, -1)
    return torch.cat([real, label_trees.ancestors], dim=2)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, queries, keys] of 0 and the lowest number: one conversion, not one a layer."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
