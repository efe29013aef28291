"""A thinker of the real 3B dimensions with random weights, its rows, and a bundle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.gpu.measure import arguments, settle, show
from pipelines.build import from_checkpoint
from pipelines.build.build import Shard, loader, write_bundle
from pipelines.build.checkpoint import Checkpoint
from pipelines.bundle import tensors as tensor_files
from pipelines.models.families import QWEN
from pipelines.models.qwen import thinker
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.models.qwen.log_mel import audio_tokens
from pipelines.models.text_stack import choose_joining
from pipelines.types import Prepared, Task

# Sizes of Qwen2.5-Omni-3B's thinker; anything not given is the library's default for the family.
THREE_B: dict[str, Any] = {
    "model_type": "qwen2_5_omni_thinker",
    "text_config": {
        "model_type": "qwen2_5_omni_text",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision_config": {
        "model_type": "qwen2_5_omni_vision_encoder",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
    },
    "audio_config": {"model_type": "qwen2_5_omni_audio_encoder", "output_dim": 2048},
}
FRAMES = 500  # 5 s of sound
PRINTABLE = 94  # the byte tokenizer of the tests gives these characters the first ids


def config(small: bool) -> dict[str, Any]:
    if not small:
        return THREE_B
    from recipes.triage.settings import model_config

    return model_config()


def dtype_of(small: bool) -> torch.dtype:
    return torch.float32 if small else torch.bfloat16


def grid_of(small: bool) -> tuple[int, int, int]:
    return (1, 8, 12) if small else (1, 34, 46)  # 640x480 at the family's default budget


def random_tensors(
    values: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Matrices of standard deviation 0.02 and norms near 1, made on the device."""
    with torch.device("meta"):
        model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(thinker.read_config(values))
    generator = torch.Generator(device).manual_seed(0)
    found = {}
    for name, meta in model.state_dict().items():
        if thinker.belongs(name):
            tensor = torch.randn(meta.shape, generator=generator, device=device) * 0.02
            found[name] = (tensor + (meta.dim() == 1 and name.endswith("weight"))).to(dtype)
    return found


def backbone(small: bool, device: torch.device) -> QwenOmniBackbone:
    values, dtype = config(small), dtype_of(small)
    tensors = random_tensors(values, device, dtype)
    model = thinker.load_model(thinker.read_config(values), tensors, device, dtype)
    return QwenOmniBackbone(model, choose_joining(device)[0])


def prepared(
    model: QwenOmniBackbone, rng: np.random.Generator, small: bool, task: Task
) -> Prepared:
    """100 text tokens, a picture and 5 s of sound, in the form that `prepare` returns."""
    geometry, grid = model.geometry, grid_of(small)
    text = rng.integers(20, 600, 100)
    ids = [
        *text[:50],
        *[geometry.image_token] * geometry.image_tokens(grid),
        *[geometry.audio_token] * audio_tokens(FRAMES),
        *text[50:],
    ]
    return Prepared(
        id="0",
        task=task,
        labels=(),
        want_embedding=False,
        max_new_tokens=0,
        input_ids=np.asarray(ids, dtype=np.int64),
        pixel_values=torch.randn(int(np.prod(grid)), geometry.patch_values),
        image_grid=(grid,),
        log_mels=(torch.randn(geometry.mel_bins, FRAMES),),
        features={},
        modalities=("audio", "image", "text"),
        tokens=len(ids),
        decode_ms=0.0,
        preprocess_ms=0.0,
    )


def row_flops(model: QwenOmniBackbone, row: Prepared, small: bool) -> float:
    """2 x weights x positions of each part; attention's own products are left out, so the share of
    the ceiling is a lower bound."""
    text, visual, audio = thinker.parts(model.model)

    def count(part: Any) -> int:
        return sum(p.numel() for p in part.parameters())

    embedding = model.model.get_input_embeddings().weight.numel()
    patches = float(np.prod(grid_of(small)))
    return float(
        2 * (count(text) - embedding) * row.tokens
        + 2 * count(visual) * patches
        + 2 * count(audio) * FRAMES / 2
    )


def step_bytes(model: QwenOmniBackbone) -> int:
    """Bytes of weights that are read for one generated token: the text stack without its
    embeddings, and the head."""
    text, _, _ = thinker.parts(model.model)
    weights = sum(int(p.nbytes) for p in text.parameters())
    embedding = int(model.model.get_input_embeddings().weight.nbytes)
    return weights - embedding + int(model.model.lm_head.weight.nbytes)


def write(out: Path, small: bool, device: torch.device) -> None:
    """A servable bundle of the random model. The most probable token is always a printable
    character, so texts stream and never end early."""
    from tests.support import tinybundle

    values = tinybundle.thinker_config() | {"tie_word_embeddings": False}
    if small:
        values["text_config"] |= {"tie_word_embeddings": False}
    else:
        pad = {"pad_token_id": tinybundle.token_id("<|endoftext|>"), "tie_word_embeddings": False}
        values |= {name: THREE_B[name] for name in ("vision_config", "audio_config")}
        values["text_config"] = THREE_B["text_config"] | pad
    dtype = dtype_of(small)
    made = random_tensors(values, device, dtype)
    tensors = {thinker.canonical(name): tensor for name, tensor in made.items()}
    tensors["lm_head.weight"][PRINTABLE:] = 0
    shards = tuple(_shard(n, dict(list(tensors.items())[n::8]), dtype) for n in range(8))
    checkpoint = Checkpoint(QWEN, values, tinybundle.tokenizer_json(), shards, {})
    labels = {"labels": [{"name": n, "text": n} for n in ("run on", "watch", "stop line")]}
    given = from_checkpoint.BuildOptions(
        name="random-3b", labels=labels | {"temperature": 1.0}, created_at="2026-01-01T00:00:00Z"
    )
    answering = loader(str(device), str(dtype).removeprefix("torch."))
    write_bundle(from_checkpoint.spec(checkpoint, given), out, answering)


def _shard(number: int, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> Shard:
    top = tensor_files.header_bytes([(n, dtype, tuple(t.shape)) for n, t in tensors.items()])

    def chunks() -> Iterator[bytes]:
        yield top
        for tensor in tensors.values():
            yield tensor_files.raw(tensor)

    size = len(top) + sum(tensor.nbytes for tensor in tensors.values())
    return Shard(f"model-{number + 1:05d}-of-00008.safetensors", tuple(tensors), size, chunks)


def main() -> None:
    given = arguments(out="")
    device = torch.device(given.device)
    write(Path(given.out), given.small, device)
    settle(device)
    show(f"built {given.out}")


if __name__ == "__main__":
    main()
