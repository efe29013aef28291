"""A Gemma 4 small enough to build in a test: random weights in the library's own file layout, rows
of random content, and the inputs of the library's forward for them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessorPil,
)

from pipelines.types import Modality, Prepared, Task

torch.set_num_threads(1)  # at these sizes a second thread only waits, and waits busily

SPECIALS = (
    *("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>"),
    *("<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>"),
)
LINE_FEEDS = "\n\n\n"  # an added token, but not a special one
Media = tuple[int, int] | int | str  # (rows, columns) of patches, mel frames, or text


def token_id(token: str) -> int:
    return 256 + SPECIALS.index(token)


def gemma_config(**text: Any) -> dict[str, Any]:
    """Every trick of the family at once: a window of 12 tokens, two layers that borrow the keys
    and values of earlier ones, embeddings per layer, capped logits, clipped and standardised
    encoders. `text` replaces text parameters."""
    return {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "boi_token_id": token_id("<|image>"),
        "image_token_id": token_id("<|image|>"),
        "eoi_token_id": token_id("<image|>"),
        "boa_token_id": token_id("<|audio>"),
        "audio_token_id": token_id("<|audio|>"),
        "eoa_token_index": token_id("<audio|>"),
        "video_token_id": token_id("<|video|>"),
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "gemma4_text",
            "vocab_size": 256 + len(SPECIALS) + 1,
            "vocab_size_per_layer_input": 256 + len(SPECIALS) + 1,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 12,
            "final_logit_softcapping": 20.0,
            "pad_token_id": token_id("<pad>"),
            "eos_token_id": token_id("<turn|>"),
            "bos_token_id": token_id("<bos>"),
            **text,
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "position_embedding_size": 3360,
            "use_clipped_linears": True,
            "standardize": True,
        },
        "audio_config": {
            "model_type": "gemma4_audio",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [128, 8],
            "output_proj_dims": 32,
        },
    }


def random_model(config: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """The library's model as it is, with weights far from flat and bounds that do clip."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma4ForConditionalGeneration(Gemma4Config.from_dict(config or gemma_config()))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                _fill(name, tensor)
    return model.eval()


def _fill(name: str, tensor: torch.Tensor) -> None:
    if name.endswith(("input_min", "output_min")):
        tensor.fill_(-2.5)
    elif name.endswith(("input_max", "output_max")):
        tensor.fill_(2.5)
    elif name.endswith(("layer_scalar", "std_scale")) or "norm" in name:
        tensor.uniform_(0.7, 1.3)
    elif tensor.dim() > 1:
        tensor.normal_(0.0, 0.12)
    else:
        tensor.normal_(0.0, 0.3)


def tokenizer_json() -> bytes:
    """One token a byte, the marks of the family, and one added token that is ordinary text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    tokenizer.add_tokens([AddedToken(LINE_FEEDS, special=False, normalized=False)])
    return str(tokenizer.to_str()).encode()


def save_checkpoint(folder: Path, model: Any) -> Path:
    """A directory as published: weights, config, tokenizer, the parameters of both processors."""
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mel filters that are zero, as they are in the original
        extractor = Gemma4AudioFeatureExtractor()
    stated = {
        "processor_class": "Gemma4Processor",
        "image_processor": Gemma4ImageProcessorPil().to_dict(),
        "feature_extractor": json.loads(extractor.to_json_string()),
    }
    (folder / "processor_config.json").write_text(json.dumps(stated))
    return folder


def row(
    media: Sequence[Media], seed: int = 0, task: Task = "classify", id: str = "row"
) -> Prepared:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = [token_id("<bos>"), token_id("<|turn>")]
    pixels, grids, mels = [], [], []
    kinds: set[Modality] = set()
    for item in media:
        if isinstance(item, str):
            ids += list(item.encode())
            kinds.add("text")
        elif isinstance(item, int):
            holes = [token_id("<|audio|>")] * -(-item // 4)
            ids += [token_id("<|audio>"), *holes, token_id("<audio|>")]
            mels.append(torch.randn(128, item, generator=generator))
            kinds.add("audio")
        else:
            holes = [token_id("<|image|>")] * (item[0] * item[1] // 9)
            ids += [token_id("<|image>"), *holes, token_id("<image|>")]
            grids.append((1, *item))
            pixels.append(torch.rand(item[0] * item[1], 768, generator=generator))
            kinds.add("image")
    return Prepared(
        id=id,
        task=task,
        labels=(),
        want_embedding=False,
        max_new_tokens=8,
        input_ids=np.array([*ids, token_id("<turn|>")], dtype=np.int64),
        pixel_values=torch.cat(pixels) if pixels else None,
        image_grid=tuple(grids),
        log_mels=tuple(mels),
        features={},
        modalities=tuple(sorted(kinds)),
        tokens=len(ids) + 1,
        decode_ms=0.0,
        preprocess_ms=0.0,
    )


def six_rows() -> list[Prepared]:
    """Every modality alone, all together, several of a kind, and lengths that differ much."""
    mixes: list[list[Media]] = [
        ["a plain note"],
        [(3, 6), "with a picture"],
        ["with a sound", 101],
        [(6, 9), "all", 30, (12, 3), (3, 3), "of them", 247],
        [(12, 15)],
        [64],
    ]
    return [row(media, seed, id=str(seed)) for seed, media in enumerate(mixes)]


def in_rows(patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Patches from our merge order to the reference's, row by row."""
    _, h, w = grid
    blocks = patches.view(h // 3, w // 3, 3, 3, -1)
    return blocks.permute(0, 2, 1, 3, 4).reshape(h * w, -1)


def reference_inputs(row: Prepared, more: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """What the library's own forward takes for this row, `more` tokens behind its prompt."""
    ids = torch.tensor([[*row.input_ids.tolist(), *more]])
    kinds = (ids == token_id("<|image|>")).long() + 3 * (ids == token_id("<|audio|>")).long()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    if row.pixel_values is not None:
        inputs |= _reference_images(row)
    if row.log_mels:
        longest = max(mel.shape[1] for mel in row.log_mels)
        features = torch.zeros(len(row.log_mels), longest, 128)
        real = torch.zeros(len(row.log_mels), longest, dtype=torch.bool)
        for number, mel in enumerate(row.log_mels):
            features[number, : mel.shape[1]] = mel.T
            real[number, : mel.shape[1]] = True
        inputs |= {"input_features": features, "input_features_mask": real}
    return inputs


def _reference_images(row: Prepared) -> dict[str, torch.Tensor]:
    assert row.pixel_values is not None
    sizes = [h * w for _, h, w in row.image_grid]
    pixels = torch.zeros(len(sizes), max(sizes), 768)
    places = torch.full((len(sizes), max(sizes), 2), -1)
    for number, patches in enumerate(row.pixel_values.split(sizes)):
        _, h, w = grid = row.image_grid[number]
        pixels[number, : sizes[number]] = in_rows(patches, grid)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        places[number, : sizes[number]] = torch.stack([x, y], dim=-1).view(-1, 2)
    return {"pixel_values": pixels, "image_position_ids": places}
