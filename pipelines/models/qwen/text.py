"""The text stack of a Qwen2.5-Omni thinker: `layers` and `norm` of the library's module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipelines.models.attention import Sharing, Visibility, attend_text
from pipelines.models.kv_cache import KVCache
from pipelines.models.text_stack import (
    GatedMlp,
    Projections,
    RmsNorm,
    Rotary,
    heads,
    rotary,
    rotated,
)


class QwenText:
    """Positions have three axes (M-RoPE, Qwen2-VL, section 2.1); each frequency belongs to one
    axis."""

    def __init__(self, module: Any, joined: bool, sharing: Sharing) -> None:
        config = module.config
        self._rotary = module.rotary_emb
        sections = config.rope_parameters.get("mrope_section", [16, 24, 24])
        axes = [number % 3 for number, size in enumerate(sections) for _ in range(size)]
        self._axes = torch.tensor(axes, device=module.rotary_emb.inv_freq.device)
        self._layers = [
            _QwenLayer(layer, n, joined, sharing) for n, layer in enumerate(module.layers)
        ]
        self._norm = _norm(module.norm)

    def __call__(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        visibility: Visibility,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """[B, T, H] of embeddings [B, T, H] at positions [3, B, T], after the last norm."""
        by = self._angles(positions, hidden.dtype)
        for layer in self._layers:
            hidden = layer(hidden, by, visibility, cache)
        return self._norm(hidden)

    def _angles(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotary:
        each = positions.index_select(0, self._axes).movedim(0, -1)
        angles = each.float() * self._rotary.inv_freq.float()
        return rotary(angles, self._rotary.attention_scaling, dtype)


class _QwenLayer:
    def __init__(self, layer: Any, number: int, joined: bool, sharing: Sharing) -> None:
        attention = layer.self_attn
        self._number = number
        self._sharing = sharing
        self._size: int = attention.head_dim
        self._scale = self._size**-0.5
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._project = Projections(projections, joined)
        self._counts = [layer.weight.shape[0] // self._size for layer in projections[:2]]
        self._out = attention.o_proj
        self._before, self._between = map(
            _norm, (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self._mlp = GatedMlp(layer.mlp, joined)

    def __call__(
        self, hidden: torch.Tensor, by: Rotary, visibility: Visibility, cache: KVCache | None
    ) -> torch.Tensor:
        query, key, value = self._projected(self._before(hidden), by)
        if cache is not None:
            key, value = cache.update(key, value, self._number)
        seen = attend_text(query, key, value, visibility, self._scale, self._sharing)
        hidden = hidden + F.linear(seen, self._out.weight)
        return hidden + self._mlp(self._between(hidden))

    def _projected(self, inputs: torch.Tensor, by: Rotary) -> Sequence[torch.Tensor]:
        """Queries, keys and values [B, heads, T, D], the first two rotated."""
        if not self._project.joined:
            query, key, value = (heads(x, self._size) for x in self._project(inputs))
            found = (rotated(query, by), rotated(key, by), value)
        else:  # both are side by side already, so both are rotated at once
            both, value = (heads(x, self._size) for x in self._project.merged(inputs, (2, 1)))
            query, key = torch.split(rotated(both, by), self._counts, dim=2)
            found = (query, key, value)
        return [x.transpose(1, 2) for x in found]


def _norm(module: Any) -> RmsNorm:
    return RmsNorm(module.weight, module.variance_epsilon, module.weight.shape[0])
