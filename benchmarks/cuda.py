"""CUDA beside the CPU, one command, prints tables:

    python -m benchmarks.cuda [--device cuda] [--seconds 5] [--skip-server]

parity on the golden inputs and on mixed requests, throughput of the embedded bundle, a warm pool of
1 and 2 on one GPU, and a random-weight thinker of the real 3B dimensions in bf16 beside the
measured matmul ceiling. Without a CUDA device it says so and exits 2; `--device cpu --small` runs
the same code on the CPU with a small model, to keep the script itself tested.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.bound import sample
from benchmarks.payloads import mixed_pool, pool
from benchmarks.serve import ROOT, Worker, memory, start_ours
from pipelines.batch import mapped
from pipelines.bundle import golden
from pipelines.collate import collate
from pipelines.models import heads
from pipelines.models.qwen import thinker
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.models.qwen.log_mel import audio_tokens
from pipelines.pipeline import Pipeline
from pipelines.types import Prediction, Prepared

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
LABELS = 6


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Milliseconds of each run, after three to warm up."""
    for _ in range(3):
        work()
    settle(device)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times) < 5:
        start = time.perf_counter()
        work()
        settle(device)
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)


def parity(bundle: str, device: str) -> None:
    print("\n## Parity, CPU against", device)
    cpu = Pipeline.load(bundle, device="cpu", allow_dirty=True)
    other = Pipeline.load(bundle, device=device, allow_dirty=True)
    print("| golden mix | worst difference | tolerance | right |\n|---|---|---|---|")
    for result in golden.check(other):
        print(
            f"| {result.mix} | {result.worst_difference:.2e} | {result.tolerance:g} | {result.ok} |"
        )
    samples = [sample(i, example) for i, example in enumerate(mixed_pool(210))]
    worst, flips = 0.0, 0
    for a, b in zip(cpu.predict(samples), other.predict(samples), strict=True):
        assert isinstance(a, Prediction) and isinstance(b, Prediction)
        flips += a.label != b.label
        theirs = {score.label: score.probability for score in b.scores}
        worst = max(worst, *(abs(s.probability - theirs[s.label]) for s in a.scores))
    print(f"\n210 mixed requests: {flips} other labels, largest probability difference {worst:.2e}")


def direct(bundle: str, device: torch.device, seconds: float) -> None:
    print("\n## Embedded bundle, collate + forward + finish of prepared rows")
    pipeline = Pipeline.load(bundle, device=str(device), allow_dirty=True)
    rows = [pipeline.prepare(sample(i, example)) for i, example in enumerate(pool(128))]
    print("| batch | p50 ms | p99 ms | rows/s |\n|---|---|---|---|")
    for size in (1, 8, 32, 128):
        batch = rows[:size]
        times = timed(
            lambda batch=batch: pipeline.finish(pipeline.forward(pipeline.collate(batch))),  # type: ignore[misc]
            device,
            seconds / 2,
        )
        p50 = statistics.median(times)
        print(
            f"| {size} | {p50:.2f} | {times[int(0.99 * len(times))]:.2f} | {size / p50 * 1e3:.0f} |"
        )


def served(bundle: str, device: str, seconds: float) -> None:
    print("\n## Served, 64 callers, 640x480 JPEG + 2 s WAV + 40 words")
    print("| warm pool | requests/s | p50 ms | p99 ms | failed | first answer s | replica MiB |")
    print("|---|---|---|---|---|---|---|")
    load = Worker("benchmarks.load")
    load.wait_ready()
    for replicas in (1, 2):
        with tempfile.TemporaryDirectory() as data:
            ours = start_ours(bundle, replicas, data, ["--device", device])
            for measured in (False, True):
                load.send(
                    targets=[ours.target],
                    callers=64,
                    seconds=seconds if measured else 1.0,
                    mode="stream",
                )
                figures = load.answer()
            sizes = "+".join(f"{mib:.0f}" for mib in memory(ours.process.pid)[1])
            print(
                f"| {replicas} | {figures['rps']:.0f} | {figures['p50_ms']:.1f} | "
                f"{figures['p99_ms']:.1f} | {figures['failed']:.0f} | "
                f"{ours.first_answer_s:.1f} | {sizes} |"
            )
            ours.process.terminate()
            ours.process.wait(60)
    load.close()


def ceiling(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """TFLOP/s of a square matrix product: what this device gives at best here."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    times = timed(lambda: a @ b, device, 1.0)
    return 2 * size**3 / (times[0] / 1000) / 1e12


def random_backbone(
    config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> QwenOmniBackbone:
    """The family at these sizes with random weights made on the device."""
    parsed = thinker.read_config(config)
    with torch.device("meta"):
        shapes = transformers.Qwen2_5OmniThinkerForConditionalGeneration(parsed).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    tensors = {
        name: torch.randn(meta.shape, generator=generator, device=device, dtype=dtype) * 0.02
        for name, meta in shapes.items()
        if thinker.belongs(name)
    }
    return QwenOmniBackbone(thinker.load_model(parsed, tensors, device, dtype))


def row(
    backbone: QwenOmniBackbone, rng: np.random.Generator, grid: tuple[int, int, int]
) -> Prepared:
    """100 text tokens, one image of `grid` patches and 5 s of sound, as prepared."""
    geometry = backbone.geometry
    frames = 500
    text = rng.integers(1000 if geometry.image_token > 5000 else 20, 1500, 100) % 600 + 20
    ids = [
        *text[:50],
        *[geometry.image_token] * geometry.image_tokens(grid),
        *[geometry.audio_token] * audio_tokens(frames),
        *text[50:],
    ]
    patches = int(np.prod(grid))
    return Prepared(
        id="0",
        task="classify",
        labels=(),
        want_embedding=False,
        max_new_tokens=0,
        input_ids=np.asarray(ids, dtype=np.int64),
        pixel_values=torch.randn(patches, geometry.patch_values),
        image_grid=(grid,),
        log_mels=(torch.randn(geometry.mel_bins, frames),),
        features={},
        modalities=("audio", "image", "text"),
        tokens=len(ids),
        decode_ms=0.0,
        preprocess_ms=0.0,
    )


def large(device: torch.device, seconds: float, small: bool) -> None:
    from recipes.triage.settings import model_config

    dtype = torch.float32 if small else torch.bfloat16
    config = model_config() if small else THREE_B
    print("\n## Random-weight thinker,", "embedded sizes" if small else "3B dimensions", dtype)
    backbone = random_backbone(config, device, dtype)
    weights = sum(p.numel() for p in backbone.model.parameters())
    rng = np.random.default_rng(0)
    grid = (1, 8, 12) if small else (1, 34, 46)  # 640x480 at the family's default budget
    prepared = [row(backbone, rng, grid) for _ in range(2 if small else 16)]
    labels = [tuple(int(t) for t in rng.integers(20, 600, 4)) for _ in range(LABELS)]
    top = ceiling(device, dtype, 512 if small else 8192)
    print(f"{weights / 1e9:.2f} G parameters; matmul ceiling {top:.1f} TFLOP/s")
    print("| batch | tokens/row | p50 ms | p99 ms | rows/s | TFLOP/s | of ceiling |")
    print("|---|---|---|---|---|---|---|")
    for size in (1, 2) if small else (1, 2, 4, 8, 16):
        batch = collate(prepared[:size], lambda _: labels, backbone.geometry)
        there = mapped(batch, lambda tensor: tensor.to(device))

        def forward(there: Any = there) -> object:
            with torch.inference_mode():
                return heads.run(backbone, there)

        times = timed(forward, device, seconds)
        p50 = statistics.median(times)
        flops = size * row_flops(backbone, prepared[0], grid)
        rate = flops / (p50 / 1000) / 1e12
        print(
            f"| {size} | {prepared[0].tokens} | {p50:.1f} | {times[int(0.99 * len(times))]:.1f} | "
            f"{size / p50 * 1000:.1f} | {rate:.1f} | {rate / top:.2f} |"
        )


def row_flops(backbone: QwenOmniBackbone, prepared: Prepared, grid: Sequence[int]) -> float:
    """2 x weights x positions of each part; attention's own products are left out, so the share of
    the ceiling is a lower bound."""
    text, visual, audio = thinker.parts(backbone.model)

    def count(part: Any) -> int:
        return sum(p.numel() for p in part.parameters())

    embedding = backbone.model.get_input_embeddings().weight.numel()
    patches = float(np.prod(grid))
    frames = sum(mel.shape[1] for mel in prepared.log_mels) / 2
    flops = 2 * (
        (count(text) - embedding) * prepared.tokens
        + count(visual) * patches
        + count(audio) * frames
    )
    return float(flops)


def main() -> None:
    parser = argparse.ArgumentParser(description="CUDA beside the CPU: parity, throughput, memory.")
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--small", action="store_true", help="small model instead of 3B dimensions")
    parser.add_argument("--skip-server", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "not run: torch sees no CUDA device here\n")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}"
    )
    parity(arguments.bundle, arguments.device)
    direct(arguments.bundle, device, arguments.seconds)
    if not arguments.skip_server:
        served(arguments.bundle, arguments.device, arguments.seconds)
    large(device, arguments.seconds, arguments.small)


if __name__ == "__main__":
    main()
