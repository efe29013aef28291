"""Prepared rows of random content, and the library's own model as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from pipelines.models.qwen import thinker
from pipelines.models.qwen.backbone import QwenOmniBackbone, load_backbone
from pipelines.models.qwen.log_mel import audio_tokens
from pipelines.types import Modality, Prepared, Task
from tests.support.tinybundle import thinker_config, thinker_tensors, token_id

# At these sizes a second thread only waits, and waits busily.
torch.set_num_threads(1)

Media = tuple[int, int] | int | str  # (rows, columns) of patches, mel frames, or text


def windowed_config() -> dict[str, Any]:
    """Three vision layers, of which only the second sees whole images; the head is not tied."""
    config = thinker_config()
    config["vision_config"] |= {"depth": 3, "fullatt_block_indexes": [1]}
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    return config


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Scaled up from the library's initialisation, so that attention and scores are not flat."""
    fresh = thinker.tensors_of(thinker.fresh(thinker.read_config(config), seed))
    return {name: t.clone() * (4.0 if t.dim() > 1 else 1.0) for name, t in fresh.items()}


def tiny_backbone(config: dict[str, Any] | None = None) -> QwenOmniBackbone:
    tensors = thinker_tensors() if config is None else random_tensors(config)
    return load_backbone(config or thinker_config(), tensors, torch.device("cpu"), torch.float32)


def reference_model(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The library's model as it is, with the same weights, no part of ours in it."""
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker.read_config(config)).eval()
    names = {thinker.canonical(name): name for name in model.state_dict()}
    state = {names[name]: tensor for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


def row(
    media: Sequence[Media], seed: int = 0, task: Task = "classify", id: str = "row"
) -> Prepared:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = [token_id("<|im_start|>")]
    pixels, grids, mels = [], [], []
    kinds: set[Modality] = set()
    for item in media:
        if isinstance(item, str):
            ids += list(item.encode())
            kinds.add("text")
        elif isinstance(item, int):
            holes = [token_id("<|AUDIO|>")] * audio_tokens(item)
            ids += [token_id("<|audio_bos|>"), *holes, token_id("<|audio_eos|>")]
            mels.append(torch.randn(128, item, generator=generator))
            kinds.add("audio")
        else:
            holes = [token_id("<|IMAGE|>")] * (item[0] * item[1] // 4)
            ids += [token_id("<|vision_bos|>"), *holes, token_id("<|vision_eos|>")]
            grids.append((1, *item))
            pixels.append(torch.randn(item[0] * item[1], 1176, generator=generator))
            kinds.add("image")
    return Prepared(
        id=id,
        task=task,
        labels=(),
        want_embedding=False,
        max_new_tokens=8,
        input_ids=np.array([*ids, token_id("<|im_end|>")], dtype=np.int64),
        pixel_values=torch.cat(pixels) if pixels else None,
        image_grid=tuple(grids),
        log_mels=tuple(mels),
        features={},
        modalities=tuple(sorted(kinds)),
        tokens=len(ids) + 1,
        decode_ms=0.0,
        preprocess_ms=0.0,
    )


def reference_inputs(row: Prepared, more: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """What the library's own forward takes for this row, `more` tokens behind its prompt."""
    ids = torch.tensor([[*row.input_ids.tolist(), *more]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row.pixel_values is not None:
        inputs |= {
            "pixel_values": row.pixel_values,
            "image_grid_thw": torch.tensor(row.image_grid),
        }
    if row.log_mels:
        longest = max(mel.shape[1] for mel in row.log_mels)
        padded = [F.pad(mel, (0, longest - mel.shape[1])) for mel in row.log_mels]
        real = [
            F.pad(torch.ones(mel.shape[1]), (0, longest - mel.shape[1])) for mel in row.log_mels
        ]
        inputs |= {
            "input_features": torch.stack(padded),
            "feature_attention_mask": torch.stack(real).long(),
        }
    return inputs


def five_rows() -> list[Prepared]:
    """Every modality alone, all together, several of a kind, and lengths that differ much."""
    mixes: list[list[Media]] = [
        ["a plain note"],
        [(4, 6), "with a picture"],
        ["with a sound", 230],
        [(6, 8), "all", 77, (10, 4), "of them", 450],
        [(12, 18)],
    ]
    return [row(media, seed, id=str(seed)) for seed, media in enumerate(mixes)]
