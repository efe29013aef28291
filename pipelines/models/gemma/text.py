"""The text stack of Gemma 4: `layers` and `norm` of the library's module.

Sliding and full layers have their own rotary positions and head sizes; the last layers borrow the
keys and values of an earlier layer of their kind; each layer adds an embedding of its own by token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from pipelines.models.attention import Sharing, Visibility, attend_text
from pipelines.models.kv_cache import KVCache, Pair
from pipelines.models.text_stack import (
    GatedMlp,
    Projections,
    RmsNorm,
    Rotary,
    heads,
    rotary,
    rotated,
)

_SCALE = 1.0  # queries and keys are normalised


class GemmaText:
    def __init__(self, module: Any, joined: bool, sharing: Sharing) -> None:
        config = module.config
        self._module = module
        self._kinds: tuple[str, ...] = tuple(config.layer_types)
        own = config.num_hidden_layers - config.num_kv_shared_layers
        lenders = {kind: n for n, kind in enumerate(self._kinds[:own])}
        self._layers = [
            _GemmaLayer(layer, n if n < own else lenders[self._kinds[n]], n < own, joined, sharing)
            for n, layer in enumerate(module.layers)
        ]
        self._norm = _norm(module.norm)

    def __call__(
        self,
        hidden: torch.Tensor,
        by_token: torch.Tensor | None,
        positions: torch.Tensor,
        visibility: Mapping[str, Visibility],
        cache: KVCache | None,
    ) -> torch.Tensor:
        """[B, T, H] of embeddings [B, T, H] at positions [B, T], after the last norm; `by_token`
        [B, T, layers, size] are the embeddings of each layer."""
        angles = {kind: self._angles(kind, positions, hidden.dtype) for kind in set(self._kinds)}
        each = None
        if by_token is not None:
            each = self._module.project_per_layer_inputs(hidden, by_token)
        kept: dict[int, Pair] = {}
        for number, (layer, kind) in enumerate(zip(self._layers, self._kinds, strict=True)):
            extra = None if each is None else each[:, :, number]
            hidden = layer(hidden, extra, angles[kind], visibility[kind], cache, kept)
        return self._norm(hidden)

    def _angles(self, kind: str, positions: torch.Tensor, dtype: torch.dtype) -> Rotary:
        module = self._module.rotary_emb
        angles = positions[..., None].float() * getattr(module, f"{kind}_inv_freq").float()
        return rotary(angles, getattr(module, f"{kind}_attention_scaling"), dtype)


class _GemmaLayer:
    """`lender` is the layer whose keys and values are used; a layer with `own` keys is its own
    lender."""

    def __init__(self, layer: Any, lender: int, own: bool, joined: bool, sharing: Sharing) -> None:
        attention = layer.self_attn
        self._layer = layer
        self._lender = lender
        self._sharing = sharing
        self._size: int = attention.head_dim
        inputs = [attention.q_proj]
        self._key_norm = self._value_norm = None
        if own:
            # Without their own projection, values are the keys before norm and rotation.
            inputs += [p for p in (attention.k_proj, attention.v_proj) if p is not None]
            self._key_norm = _norm(attention.k_norm)
            self._value_norm = RmsNorm(None, attention.v_norm.eps, self._size)
        self._query_norm = _norm(attention.q_norm)
        self._project = Projections(inputs, joined)
        self._out = attention.o_proj
        self._mlp = GatedMlp(layer.mlp, joined)
        self._before_attention = _norm(layer.input_layernorm)
        self._after_attention = _norm(layer.post_attention_layernorm)
        self._before_mlp = _norm(layer.pre_feedforward_layernorm)
        self._after_mlp = _norm(layer.post_feedforward_layernorm)
        self._after_extra = None
        if layer.hidden_size_per_layer_input:
            self._after_extra = _norm(layer.post_per_layer_input_norm)

    def __call__(
        self,
        hidden: torch.Tensor,
        extra: torch.Tensor | None,
        by: Rotary,
        visibility: Visibility,
        cache: KVCache | None,
        kept: dict[int, Pair],
    ) -> torch.Tensor:
        query, *own = (heads(x, self._size) for x in self._project(self._before_attention(hidden)))
        query = rotated(self._query_norm(query), by).transpose(1, 2)
        if self._key_norm is not None and self._value_norm is not None:
            key = rotated(self._key_norm(own[0]), by).transpose(1, 2)
            value = self._value_norm(own[-1]).transpose(1, 2)
            kept[self._lender] = (
                (key, value) if cache is None else cache.update(key, value, self._lender)
            )
        seen = attend_text(query, *kept[self._lender], visibility, _SCALE, self._sharing)
        seen = F.linear(seen, self._out.weight, self._out.bias)
        hidden = hidden + self._after_attention(seen)
        hidden = hidden + self._after_mlp(self._mlp(self._before_mlp(hidden)))
        if extra is not None and self._after_extra is not None:
            hidden = hidden + self._after_extra(self._by_token(hidden, extra))
        scaled: torch.Tensor = hidden * self._layer.layer_scalar
        return scaled

    def _by_token(self, hidden: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        gate: torch.Tensor = self._layer.act_fn(self._layer.per_layer_input_gate(hidden))
        added: torch.Tensor = self._layer.per_layer_projection(gate * extra)
        return added


def _norm(module: Any) -> RmsNorm:
    return RmsNorm(module.weight, module.eps, module.weight.shape[0])
