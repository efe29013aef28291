"""Qwen2.5-Omni thinkers behind the backbone protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.batch import Batch, Images, Sounds
from pipelines.models.attention import choose_sharing, segments_here
from pipelines.models.backbone import Backbone, TextInputs
from pipelines.models.geometry import Geometry
from pipelines.models.kv_cache import KVCache
from pipelines.models.qwen import thinker
from pipelines.models.qwen.text import QwenText
from pipelines.models.text_stack import choose_joining


class QwenOmniBackbone(Backbone):
    """Qwen2.5-Omni thinkers of transformers 5.17 to 5.23, tiny or real."""

    def __init__(self, model: Any, joined: bool = False) -> None:
        super().__init__(model, model.get_input_embeddings())
        self.geometry = Geometry.of(model.config)
        text, self._visual, self._audio = thinker.parts(model)
        sharing, why_sharing = choose_sharing(self.device, self.dtype)
        why_segments = segments_here(self.device, self.dtype)[1]
        self.reasons = {"attention": why_sharing, "segments": why_segments}
        self._text = QwenText(text, joined, sharing)
        attention = text.layers[0].self_attn
        heads = (text.config.num_key_value_heads, attention.head_dim)
        self.cached_heads = (heads,) * len(text.layers)

    @staticmethod
    def fresh(config: Mapping[str, Any], seed: int) -> QwenOmniBackbone:
        """A randomly initialised backbone in float32 on the CPU, for training."""
        return QwenOmniBackbone(thinker.fresh(thinker.read_config(config), seed))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights to save, under the names every library version reads."""
        return thinker.tensors_of(self.model)

    def _inputs(
        self, tokens: torch.Tensor, positions: torch.Tensor, batch: Batch | None
    ) -> TextInputs:
        return TextInputs(tokens, self._with_media(self._embed(tokens), batch), positions)

    def _stack(
        self, inputs: TextInputs, causal: int, behind: torch.Tensor | None, cache: KVCache | None
    ) -> torch.Tensor:
        visibility = self._visibility(causal, behind)
        return self._text(inputs.embeddings, inputs.positions, visibility, cache)

    def _see(self, images: Images) -> torch.Tensor:
        # One segment for the library's own splitting; this package's segments are in `segments`
        # (attention.py).
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
    model = thinker.load_model(thinker.read_config(config), tensors, device, dtype)
    joined, why = choose_joining(device)
    backbone = QwenOmniBackbone(model, joined)
    backbone.reasons["projections"] = why
    return backbone
