"""A whole bundle in a few hundred kilobytes: a random thinker, a byte tokenizer, real golden files.

It has everything that a trained bundle has, and is small enough to build in a second; its answers
have no meaning.
"""

from __future__ import annotations

import io
import json
import math
import wave
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipelines.build import from_checkpoint
from pipelines.build.build import BundleSpec, loader, write_bundle
from pipelines.bundle import manifest
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.parameters import write
from pipelines.bundle.stamp import Leaf
from pipelines.errors import BundleRefused
from pipelines.media import limits
from pipelines.models import tokens
from pipelines.models.qwen import log_mel, patches, thinker
from pipelines.types import Sample

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_bos|>",
    "<|IMAGE|>",
    "<|vision_eos|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
    "<|VIDEO|>",
)
LABELS = ("run on", "watch", "stop line", "ignore drill")
NAME = "tiny-2026.01"


# Several threads on so small a model only wait for each other.
ONE_THREAD = loader(threads=1)


def make_bundle(path: Path, seed: int = 0) -> Path:
    """Writes a valid bundle to `path` (which must not exist) and returns it."""
    write_bundle(make_spec(seed), path, ONE_THREAD)
    return path


def make_spec(seed: int = 0, **changes: Any) -> BundleSpec:
    """What `make_bundle` writes; `changes` replace fields of the specification."""
    fields: dict[str, Any] = {
        "name": NAME,
        "weights": thinker_tensors(seed),
        "config": thinker_config(),
        "tokenizer": tokenizer_json(),
        "preprocess": {
            "image": write(patches.DEFAULT),
            "audio": write(log_mel.DEFAULT),
            "text": write(tokens.DEFAULT),
            "limits": write(limits.DEFAULT),
        },
        "template": write(tokens.DEFAULT_TEMPLATE),
        "labels": {"labels": [{"name": n, "text": n} for n in LABELS], "temperature": 1.0},
        "golden": golden_samples(),
        "objective": {
            "unit": "EUR",
            "value": {
                true: {label: 1.0 if true == label else -4.0 for label in LABELS} for true in LABELS
            },
        },
        "training": {"data_id": f"random weights, seed {seed}"},
        "card": "# tiny\n\nRandom weights, for tests.\n",
        "created_at": "2026-01-01T00:00:00Z",
    }
    return BundleSpec(**(fields | changes))


def reseal(folder: Path, **changes: Any) -> Path:
    """Writes a manifest that fits the files as they are now, as a person who wants a changed bundle
    accepted would; `changes` replace fields of it."""
    old = manifest.read((folder / manifest.FILE).read_bytes())
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    leaves = tuple(
        Leaf(path.relative_to(folder).as_posix(), len(content), sha256(content).hexdigest())
        for path, content in ((path, path.read_bytes()) for path in found)
        if path.name != manifest.FILE
    )
    new = replace(old, **({"files": leaves} | changes))
    (folder / manifest.FILE).write_bytes(new.to_bytes())
    return folder


def token_id(token: str) -> int:
    return 256 + SPECIALS.index(token)


def thinker_config() -> dict[str, Any]:
    """A Qwen2.5-Omni thinker of about 100,000 parameters."""
    return {
        "model_type": "qwen2_5_omni_thinker",
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "audio_token_index": token_id("<|AUDIO|>"),
        "image_token_index": token_id("<|IMAGE|>"),
        "video_token_index": token_id("<|VIDEO|>"),
        "audio_start_token_id": token_id("<|audio_bos|>"),
        "audio_end_token_id": token_id("<|audio_eos|>"),
        "vision_start_token_id": token_id("<|vision_bos|>"),
        "vision_end_token_id": token_id("<|vision_eos|>"),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "vocab_size": 256 + len(SPECIALS),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "pad_token_id": token_id("<|endoftext|>"),
            "tie_word_embeddings": True,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]},
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1],
            "out_hidden_size": 32,
        },
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder",
            "num_mel_bins": 128,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "n_window": 100,
            "max_source_positions": 100,
            "output_dim": 32,
        },
        "tie_word_embeddings": True,
    }


def thinker_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names checkpoints use, scaled up so that inputs show in the scores
    (at the library's 0.02 all rows would answer nearly alike)."""
    tensors = thinker.tensors_of(thinker.fresh(thinker.read_config(thinker_config()), seed))
    return {
        name: tensor.detach().clone() * (4.0 if tensor.dim() > 1 else 1.0)
        for name, tensor in tensors.items()
    }


def tokenizer_json() -> bytes:
    """One token a byte, and the special tokens of the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    return json.dumps(json.loads(tokenizer.to_str()), indent=1, sort_keys=True).encode()


def golden_samples() -> tuple[Sample, ...]:
    """One input of each of the seven modality mixes."""
    return from_checkpoint.mixes("pressure dropped twice since the last shift", jpeg(), wav())


def jpeg(width: int = 96, height: int = 72, seed: int = 0) -> bytes:
    """A real JPEG: a coloured gradient with a disc in it."""
    y, x = np.mgrid[0:height, 0:width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
    pixels = np.stack([x * 2 % 256, y * 3 % 256, (40 * seed + x + y) % 256], axis=-1)
    pixels[disc] = (220, 60 + 10 * seed % 190, 30)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def wav(seconds: float = 0.4, rate: int = 16000, frequency: float = 440.0) -> bytes:
    """A real 16-bit mono WAV: a decaying tone."""
    t = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * math.pi * frequency * t) * np.exp(-3 * t)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 20000).astype("<i2").tobytes())
    return out.getvalue()


def refused(path: Path, check: str, message: str = ".") -> BundleRefused:
    with pytest.raises(BundleRefused, match=message) as caught:
        Bundle.open(path)
    assert caught.value.check == check, str(caught.value)
    return caught.value
