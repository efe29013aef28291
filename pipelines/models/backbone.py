"""The model behind the heads: a batch in, hidden states out; vocabulary logits only when asked.

Knows no task, label or tokenizer. Everything here is differentiable; whether gradients are kept
is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from pipelines.batch import Batch, BranchColumns, Images, Sounds
from pipelines.models.geometry import Geometry
from pipelines.models.kv_cache import Cache, KeyValues
from pipelines.models.qwen import thinker


class Backbone(Protocol):
    """What heads and generation need of a model family."""

    geometry: Geometry

    @property
    def device(self) -> torch.device: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def width(self) -> int:
        """H, the size of a hidden state and of an embedding."""

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[B, columns, H]: prompts and, if packed, label branches, after the last norm."""

    def prefill(self, batch: Batch) -> tuple[torch.Tensor, KeyValues]:
        """([B, prompt columns, H], the keys and values of the prompts)."""

    def extend(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: Cache,
    ) -> torch.Tensor:
        """[B, N, H] of `tokens` [B, N] behind what the cache holds; `seen` is bool [B, N, keys]."""

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits [..., V] of hidden states [..., H]."""


class QwenOmniBackbone:
    """Qwen2.5-Omni thinkers of transformers 5.17 to 5.23, tiny or real."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.geometry = Geometry.of(model.config)
        self._text, self._visual, self._audio = thinker.parts(model)
        self._embed = model.get_input_embeddings()

    @staticmethod
    def fresh(config: Mapping[str, Any], seed: int) -> QwenOmniBackbone:
        """Randomly initialised, float32, on the CPU: where training begins."""
        return QwenOmniBackbone(thinker.fresh(thinker.read_config(config), seed))

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
        return int(self._embed.weight.shape[1])

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights to save, under the names every library version reads."""
        return thinker.tensors_of(self.model)

    def hidden(self, batch: Batch) -> torch.Tensor:
        tokens, positions = batch.prompt_ids, batch.positions
        branches = batch.branches[0] if batch.packed else None
        if branches is not None:
            tokens = torch.cat([tokens, branches.tokens], dim=1)
            positions = torch.cat([positions, branches.positions], dim=2)
        embeddings = self._embeddings(tokens, batch)
        return self._run(embeddings, positions, visible(batch, branches), None)

    def prefill(self, batch: Batch) -> tuple[torch.Tensor, KeyValues]:
        if batch.packed:
            raise ValueError("a packed batch has no prompt-only columns to keep")
        cache = KeyValues()
        embeddings = self._embeddings(batch.prompt_ids, batch)
        return self._run(embeddings, batch.positions, visible(batch, None), cache), cache

    def extend(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: Cache,
    ) -> torch.Tensor:
        return self._run(self._embed(tokens), positions, seen, cache)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.lm_head(hidden)
        return logits

    def _run(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        cache: Cache | None,
    ) -> torch.Tensor:
        mask = additive(seen, self.dtype)
        out: torch.Tensor = self._text(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=positions,
            past_key_values=cache,
            use_cache=False,
        ).last_hidden_state
        return out

    def _embeddings(self, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
        embeddings: torch.Tensor = self._embed(tokens)
        flat = embeddings.flatten(0, 1)
        if batch.images is not None:
            flat = flat.index_copy(0, batch.images.target, self._see(batch.images).to(flat.dtype))
        if batch.sounds is not None:
            flat = flat.index_copy(0, batch.sounds.target, self._hear(batch.sounds).to(flat.dtype))
        return flat.view(embeddings.shape)

    def _see(self, images: Images) -> torch.Tensor:
        # One segment for the library's own splitting; ours are in `segments` (attention.py).
        whole = torch.tensor([0, len(images.patches)], dtype=torch.int32)
        out: torch.Tensor = self._visual(
            images.patches.to(self.dtype),
            images.grids,
            position_ids=images.positions,
            cu_seqlens=whole,
            window_index=images.window_index,
            cu_window_seqlens=whole,
            segments=(images.full, images.windowed),
        ).pooler_output
        return out

    def _hear(self, sounds: Sounds) -> torch.Tensor:
        whole = torch.tensor([0, len(sounds.valid)], dtype=torch.int32)
        out: torch.Tensor = self._audio(
            None,
            feature_lens=sounds.frames,
            padded_feature=sounds.chunks,
            chunk_lengths=sounds.chunk_frames,
            valid_indices=sounds.valid,
            pool_indices=sounds.pool,
            cu_seqlens=whole,
            segments=(sounds.full, sounds.full),
        ).last_hidden_state
        return out


def load_backbone(
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> QwenOmniBackbone:
    """For inference: weights frozen, in `dtype` on `device`.

    Raises BundleRefused("config" | "weights").
    """
    model = thinker.loaded(thinker.read_config(config), tensors, device, dtype)
    return QwenOmniBackbone(model)


def visible(batch: Batch, branches: BranchColumns | None) -> torch.Tensor:
    """bool [B, columns, columns]: causal prompts without padding, label branches behind them.

    A padded query sees itself, for attention to nothing would be NaN.
    """
    width, device = batch.prompt_columns, batch.prompt_ids.device
    columns = width + (branches.columns if branches is not None else 0)
    place = torch.arange(width, device=device)
    real = place >= batch.starts[:, None]
    seen = torch.zeros(batch.rows, columns, columns, dtype=torch.bool, device=device)
    seen[:, :width, :width] = (place[:, None] >= place) & real[:, None, :]
    seen[:, :width, :width] |= place[:, None] == place
    if branches is not None:
        seen[:, width:, :width] = real[:, None, :]
        seen[:, width:, width:] = branches.ancestors
    return seen


def visible_behind(batch: Batch, branches: BranchColumns) -> torch.Tensor:
    """bool [B, branch columns, prompt + branch columns], for a forward behind the kept prompt."""
    place = torch.arange(batch.prompt_columns, device=batch.prompt_ids.device)
    real = (place >= batch.starts[:, None])[:, None, :].expand(-1, branches.columns, -1)
    return torch.cat([real, branches.ancestors], dim=2)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, queries, keys] of 0 and the lowest number: one conversion, not one a layer."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
