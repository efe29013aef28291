"""Builds a Qwen2.5-Omni thinker from a config and tensors, for two library versions.

- canonical names are those that 5.17 uses and every version saves: `model.*`, `visual.*`,
  `audio_tower.*`, `lm_head.weight`; full-Omni checkpoints carry `thinker.` in front;
- the module tree is built without storage, so no weights are initialised only to be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from pipelines.errors import BundleRefused
from pipelines.models.attention import NAME, attend
from pipelines.models.weights import HEAD, assign, refuse_empty

_NOT_THINKER = ("talker.", "token2wav.")
# 5.23 has all three parts below `model`; 5.17 has only the text stack there.
_NESTED = {
    "model.language_model.": "model.",
    "model.visual.": "visual.",
    "model.audio_tower.": "audio_tower.",
}


class PatchProjection(torch.nn.Module):
    """A convolution whose stride equals its kernel, as a matrix product. Same weight and name.

    The convolution call costs several times the product on CPU and on CUDA in bf16.
    """

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(patches.flatten(1), self.weight.flatten(1))


def read_config(config: Mapping[str, Any]) -> Any:
    """A thinker config from its JSON, or from the `thinker_config` of a full-Omni one.

    Raises BundleRefused("config") for another model family, or a layer type that is not served.
    """
    inner = config.get("thinker_config", config)
    if inner.get("model_type") != "qwen2_5_omni_thinker":
        raise BundleRefused("config", f"model_type {inner.get('model_type')!r} is not served")
    parsed: Any = Qwen2_5OmniThinkerConfig.from_dict(dict(inner))
    if "sliding_attention" in parsed.text_config.layer_types:
        raise BundleRefused("config", "sliding-window attention is not served")
    return parsed


def fresh(config: Any, seed: int) -> Any:
    """A randomly initialised thinker in float32 on the CPU, ready to train."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return _adapted(model)


def load_model(
    config: Any, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Any:
    """The thinker with these weights, in `dtype` on `device`. No tensor is copied twice.

    Raises BundleRefused("weights") naming what is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    wanted = {canonical(name): name for name in model.state_dict()}
    given = {canonical(name): tensor for name, tensor in tensors.items() if belongs(name)}
    assign(model, wanted, given, device, dtype)
    _restore_buffers(model, config, device)
    return _adapted(model).eval().requires_grad_(False)


def belongs(name: str) -> bool:
    """Whether a checkpoint's tensor belongs to the thinker, not to a talker or a derived buffer."""
    return not (
        name.startswith(_NOT_THINKER) or name.endswith(("inv_freq", "positional_embedding"))
    )


def canonical(name: str) -> str:
    name = name.removeprefix("thinker.")
    for nested, flat in _NESTED.items():
        if name.startswith(nested):
            return flat + name[len(nested) :]
    return name


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """The weights to save, under their canonical names; a tied head is left out."""
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    named = {canonical(name): tensor.detach() for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in named.items() if not (tied and name == HEAD)}


def parts(model: Any) -> tuple[Any, Any, Any]:
    """(text stack, vision encoder, audio encoder), which each library version keeps under other
    names."""
    inner = model.model
    if hasattr(inner, "language_model"):
        return inner.language_model, inner.visual, inner.audio_tower
    return inner, model.visual, model.audio_tower


def _restore_buffers(model: Any, config: Any, device: torch.device) -> None:
    """Rebuilds the small modules of derived constants, which no checkpoint holds."""
    text, visual, audio = parts(model)
    text.rotary_emb = type(text.rotary_emb)(config=config.text_config).to(device)
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(config.vision_config).to(device)
    sinusoids = audio.positional_embedding
    audio.positional_embedding = type(sinusoids)(sinusoids.length, sinusoids.channels).to(device)
    refuse_empty(model)


def _adapted(model: Any) -> Any:
    from transformers import AttentionInterface

    # The text stack is this package's (text.py).
    AttentionInterface.register(NAME, attend)
    _, visual, audio = parts(model)
    for part in (visual, audio):
        part.config._attn_implementation = NAME
    for number, block in enumerate(visual.blocks):
        block.attn.windowed = number not in visual.fullatt_block_indexes
    visual.patch_embed.proj = PatchProjection(visual.patch_embed.proj.weight)
    return model
