"""A Gemma 4 from a config and tensors, as transformers 5.17 to 5.23 build it.

- names are the library's own: `model.language_model.*`, `model.vision_tower.*`, ...;
- variants whose answers could not be exact, or would depend on the other rows of a batch, are
  refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipelines.errors import BundleRefused
from pipelines.models.attention import NAME, attend
from pipelines.models.gemma.patches import MAX_SOFT_TOKENS
from pipelines.models.weights import assign, refuse_empty

_DERIVED = ("inv_freq", "inv_timescales", "embed_scale", "softcap")
_OWN_KEYS = re.compile(r"model\.language_model\.layers\.(\d+)\.self_attn\.[kv]_(?:proj|norm)\.")
# Other types scale with the longest text of a batch: an answer would depend on the other rows of
# its batch.
_ROPES = ("default", "proportional")
# The library uses this channel count where the number of mel bins is meant.
_MEL_BINS = 128


def read_config(config: Mapping[str, Any]) -> Any:
    """A Gemma 4 config from its JSON.

    Raises BundleRefused("config") for another model family, or a variant that is not served.
    """
    if config.get("model_type") != "gemma4":
        raise BundleRefused("config", f"model_type {config.get('model_type')!r} is not gemma4")
    for part in ("text_config", "vision_config", "audio_config"):
        if not config.get(part):
            raise BundleRefused("config", f"a gemma4 without {part} is not served")
    # Imported late: servers of other families do not load this family's library code.
    from transformers import Gemma4Config

    parsed: Any = Gemma4Config.from_dict(dict(config))
    for unserved, why in _unserved(parsed):
        if unserved:
            raise BundleRefused("config", f"a gemma4 with {why} is not served")
    return parsed


def _unserved(config: Any) -> tuple[tuple[bool, str], ...]:
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    longest_side = MAX_SOFT_TOKENS * vision.pooling_kernel_size
    ropes = {rope.get("rope_type") for rope in text.rope_parameters.values()}
    channels = audio.subsampling_conv_channels[0]
    return (
        (
            bool(text.enable_moe_block),
            "routed experts (a rounding error in one batch may choose another expert)",
        ),
        (text.use_bidirectional_attention == "all", "attention to later tokens"),
        (not ropes <= set(_ROPES), f"rope types {sorted(ropes - set(_ROPES))}"),
        (
            vision.position_embedding_size < longest_side,
            f"vision positions for fewer than {longest_side} patches a side",
        ),
        (channels != _MEL_BINS, f"subsampling_conv_channels[0] = {channels}, not {_MEL_BINS}"),
        (
            bool(text.num_kv_shared_layers) and not text.hidden_size_per_layer_input,
            "shared keys but no per-layer embeddings",
        ),
    )


def load_model(
    config: Any, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Any:
    """The model with these weights, in `dtype` on `device`. No tensor is copied twice.

    Raises BundleRefused("weights") naming what is missing, unknown or of another shape.
    """
    from transformers import Gemma4ForConditionalGeneration

    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(config)
    keep = _used(config.text_config)
    wanted = {name: name for name in model.state_dict()}
    given = {name: tensor for name, tensor in tensors.items() if keep(name)}
    assign(model, wanted, given, device, dtype)
    _restore_buffers(model, config, device)
    return _adapted(model).eval().requires_grad_(False)


def belongs(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a checkpoint's tensor is used. Published files have key and value projections even
    for layers that share those of an earlier layer; these are never read.

    Raises BundleRefused("config").
    """
    return _used(read_config(config).text_config)


def _used(text: Any) -> Callable[[str], bool]:
    first_borrower = text.num_hidden_layers - text.num_kv_shared_layers

    def keep(name: str) -> bool:
        own = _OWN_KEYS.match(name)
        unread = own is not None and int(own[1]) >= first_borrower
        return not (unread or name.endswith(_DERIVED))

    return keep


def _restore_buffers(model: Any, config: Any, device: torch.device) -> None:
    """Computes the derived constants, which no checkpoint holds."""
    text, vision = model.model.language_model, model.model.vision_tower
    audio = model.model.audio_tower
    text.rotary_emb = type(text.rotary_emb)(config.text_config).to(device)
    vision.encoder.rotary_emb = type(vision.encoder.rotary_emb)(config.vision_config).to(device)
    audio.rel_pos_enc = type(audio.rel_pos_enc)(config.audio_config).to(device)
    for layer in audio.layers:
        attention = layer.self_attn
        attention.softcap = torch.tensor(attention.attention_logits_soft_cap, device=device)
    for table in (text.embed_tokens, getattr(text, "embed_tokens_per_layer", None)):
        if table is not None:
            table.embed_scale = torch.tensor(table.scalar_embed_scale, device=device)
    refuse_empty(model)


def _adapted(model: Any) -> Any:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    # The text stack is this package's (text.py); the audio encoder keeps its own attention.
    model.model.vision_tower.config._attn_implementation = NAME
    return model
