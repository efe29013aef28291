"""Gemma 4 behind the backbone protocol.

Differences from Qwen2.5-Omni: positions simply count up; sliding-window layers see a limited number
of earlier tokens (and, in some checkpoints, later tokens of the same image); each layer has its own
embeddings by token id; the logits are capped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.batch import Batch, Images, Sounds
from pipelines.models.attention import Visibility, choose_sharing, segments_here
from pipelines.models.backbone import Backbone, TextInputs, additive
from pipelines.models.gemma import model as gemma_model
from pipelines.models.gemma.text import GemmaText
from pipelines.models.geometry import Geometry
from pipelines.models.kv_cache import KVCache
from pipelines.models.text_stack import choose_joining

_WHOLE_SOUND = 1 << 30  # mel frames: sounds are not cut in chunks


class GemmaBackbone(Backbone):
    """Gemma 4 with all three encoders, of transformers 5.17 to 5.23, tiny or real."""

    def __init__(self, model: Any, joined: bool = False) -> None:
        config, inner = model.config, model.model
        super().__init__(model, inner.language_model.embed_tokens)
        self.geometry = geometry(config)
        self._library, self._vision, self._audio = (
            inner.language_model,
            inner.vision_tower,
            inner.audio_tower,
        )
        sharing, why_sharing = choose_sharing(self.device, self.dtype)
        why_segments = segments_here(self.device, self.dtype)[1]
        self.reasons = {"attention": why_sharing, "segments": why_segments}
        self._text = GemmaText(self._library, joined, sharing)
        self._embed_image, self._embed_sound = inner.embed_vision, inner.embed_audio
        self._window: int = config.text_config.sliding_window
        # Tokens of an image see later tokens of the same image, which a piece might not contain.
        self.whole_prompts = config.text_config.use_bidirectional_attention == "vision"
        self._cap: float | None = config.text_config.final_logit_softcapping
        self._media = (config.image_token_id, config.audio_token_id, config.video_token_id)
        own = config.text_config.num_hidden_layers - config.text_config.num_kv_shared_layers
        self.cached_heads = tuple(map(_cached_heads, self._library.layers[:own]))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().head(hidden)
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def _inputs(
        self, tokens: torch.Tensor, positions: torch.Tensor, batch: Batch | None
    ) -> TextInputs:
        text_tokens = self._without_media(tokens)
        embeddings = self._with_media(self._embed(text_tokens), batch)
        return TextInputs(tokens, embeddings, positions, self._per_layer(text_tokens))

    def _stack(
        self, inputs: TextInputs, causal: int, behind: torch.Tensor | None, cache: KVCache | None
    ) -> torch.Tensor:
        whole = self._visibility(causal, behind)
        return self._text(
            inputs.embeddings,
            inputs.by_token,
            inputs.positions[0],
            {
                "full_attention": whole,
                "sliding_attention": self._near(whole, inputs.tokens[:, :causal], behind),
            },
            cache,
        )

    def _near(
        self, whole: Visibility, prompts: torch.Tensor, behind: torch.Tensor | None
    ) -> Visibility:
        """`whole`, restricted to the window of sliding layers; `prompts` [B, causal] are the tokens
        of the causal columns."""
        columns, mask_causal, mask = whole.causal, None, whole.mask
        ahead = self.whole_prompts and bool(columns)
        if columns > self._window or ahead:
            place = torch.arange(columns, device=prompts.device)
            near = within_window((place <= place[:, None])[None], self._window)
            if ahead:
                near = near | ahead_in_images(prompts, self.geometry.image_token)
            mask_causal = additive(near, self.dtype)
        if behind is not None and behind.shape[-1] > self._window:
            mask = additive(within_window(behind, self._window), self.dtype)
        return Visibility(columns, mask_causal, mask)

    def _without_media(self, tokens: torch.Tensor) -> torch.Tensor:
        """Replaces media placeholders by padding: their own embeddings are never used."""
        media = torch.zeros_like(tokens, dtype=torch.bool)
        for token in self._media:
            media |= tokens == token
        return tokens.masked_fill(media, self.geometry.pad_token)

    def _per_layer(self, text_tokens: torch.Tensor) -> torch.Tensor | None:
        if not self._library.hidden_size_per_layer_input:
            return None
        embeddings: torch.Tensor = self._library.get_per_layer_inputs(text_tokens, None)
        return embeddings

    def _see(self, images: Images) -> torch.Tensor:
        # All images are packed side by side, and each attends within itself (attention.py). The
        # library's own forward would pad each one to the maximum size.
        places = images.positions.flip(-1).unsqueeze(0)  # this family has (x, y)
        padding = torch.zeros(places.shape[:2], dtype=torch.bool, device=places.device)
        hidden = self._vision.patch_embedder(images.patches.unsqueeze(0), places, padding)
        rotary = self._vision.encoder.rotary_emb(hidden, places)
        for layer in self._vision.encoder.layers:
            hidden = layer(
                hidden,
                attention_mask=None,
                position_embeddings=rotary,
                position_ids=places,
                segments=(images.full, images.full),
            )
        tokens: torch.Tensor = self._embed_image(inputs_embeds=self._pooled(hidden[0]))
        return tokens

    def _pooled(self, patches: torch.Tensor) -> torch.Tensor:
        """[P, D] in merge order to [P / merge squared, D]: means, scaled (Gemma4VisionPooler)."""
        blocks = patches.float().view(-1, self.geometry.merge**2, patches.shape[1])
        pooled = blocks.mean(dim=1).to(patches.dtype).float() * self._vision.pooler.root_hidden_size
        if self._vision.config.standardize:
            pooled = (pooled - self._vision.std_bias.float()) * self._vision.std_scale.float()
        tokens: torch.Tensor = pooled.to(patches.dtype)
        return tokens

    def _hear(self, sounds: Sounds) -> torch.Tensor:
        frames = torch.arange(sounds.chunks.shape[2], device=sounds.chunks.device)
        real = frames < sounds.chunk_frames[:, None]
        heard = self._audio(sounds.chunks.transpose(1, 2), real).last_hidden_state
        tokens: torch.Tensor = self._embed_sound(
            inputs_embeds=heard.flatten(0, 1).index_select(0, sounds.valid)
        )
        return tokens


def geometry(config: Any) -> Geometry:
    """Reads a transformers Gemma 4 config."""
    vision = config.vision_config
    return Geometry(
        image_token=config.image_token_id,
        audio_token=config.audio_token_id,
        pad_token=config.text_config.pad_token_id or 0,
        merge=vision.pooling_kernel_size,
        window=0,
        audio_chunk=_WHOLE_SOUND,
        positions_per_second=0,
        patch_values=3 * vision.patch_size**2,
        mel_bins=config.audio_config.subsampling_conv_channels[0],
        image_block=False,
        audio_convolutions=2,
    )


def load_backbone(
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> GemmaBackbone:
    """For inference: weights frozen, in `dtype` on `device`.

    Raises BundleRefused("config" | "weights").
    """
    parsed = gemma_model.read_config(config)
    joined, why = choose_joining(device)
    backbone = GemmaBackbone(gemma_model.load_model(parsed, tensors, device, dtype), joined)
    backbone.reasons["projections"] = why
    return backbone


def _cached_heads(layer: Any) -> tuple[int, int]:
    """(key heads, head size) of a layer with keys of its own."""
    size = int(layer.self_attn.head_dim)
    return int(layer.self_attn.k_proj.weight.shape[0]) // size, size


def within_window(seen: torch.Tensor, window: int) -> torch.Tensor:
    """bool [..., queries, keys]: the `window` nearest of the keys that a query sees, its own
    included.

    It counts visible keys, not columns: the columns of other labels lie between a label's tokens
    and the prompt, and padding lies before the prompt.
    """
    if seen.shape[-1] <= window:
        return seen
    upto = seen.cumsum(dim=-1, dtype=torch.int32)
    return seen & (upto[..., -1:] - upto < window)


def ahead_in_images(tokens: torch.Tensor, image_token: int) -> torch.Tensor:
    """bool [B, columns, columns]: later tokens of the same image, for `tokens` [B, columns].

    Other tokens between them separate two images.
    """
    image = tokens == image_token
    starts = image & ~torch.nn.functional.pad(image[:, :-1], (1, 0))
    picture = starts.cumsum(dim=1, dtype=torch.int32)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    same = picture[:, :, None] == picture[:, None, :]
    return same & image[:, :, None] & image[:, None, :] & (place > place[:, None])
