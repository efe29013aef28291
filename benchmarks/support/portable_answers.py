"""Writes one process's answers to the requests of benchmarks.portable to a file of arrays.

python -m benchmarks.support.portable_answers --out FILE.npz --requests FILE [--threads N]
    [--how buffers|offsets|beside|alone]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proto import inference_pb2 as pb

BATCH = 7  # one row of each modality mix
RATES = (8_000, 11_025, 22_050, 44_100, 48_000)
OFFSETS = (0, 1, 3, 4, 8, 15, 31)  # offset of a buffer, in float32 values
Answers = dict[str, NDArray[Any]]


def answers(requests: Path, threads: int, how: str) -> Answers:
    """One process's answers to the requests, as float32 arrays.

    An array named MEASURE/ITEM is compared on its own; MEASURE/ITEM@N is a repetition of the item.
    """
    from benchmarks.support.bound import sample
    from pipelines.bundle import golden
    from pipelines.pipeline import EMBEDDED, Pipeline

    pipeline = Pipeline.load(EMBEDDED, "cpu", "float32", threads, allow_dirty=True)
    examples = pb.PredictRequest.FromString(requests.read_bytes()).examples
    samples = [
        replace(sample(number, example), want_embedding=True)
        for number, example in enumerate(examples)
    ]
    ballast = Ballast(how == "buffers")
    with ThreadPoolExecutor(4 if how == "beside" else 1) as pool:
        prepared = list(pool.map(ballast.around(pipeline.prepare), samples))
    found: list[Any] = []
    scored = []
    size = 1 if how == "alone" else BATCH
    for first in range(0, len(prepared), size):
        ballast.move()
        rows = prepared[first : first + size]
        if how == "offsets":
            rows = _moved(pipeline, rows, OFFSETS[first // size % len(OFFSETS)])
        result = pipeline.forward(pipeline.collate(rows))
        arrays = result.fetch()
        scored += list(zip(arrays.log_probs, arrays.embeddings, strict=True))
        found += pipeline.finish(result)
    checked = golden.check(pipeline)
    kinds = [feature.kind == "categorical" for feature in pipeline.features]
    values = np.array([list(one.features.values()) for one in found], np.float32)
    exact = [index for index, yes in enumerate(kinds) if yes and index != _label_index(pipeline)]
    numeric = [index for index, yes in enumerate(kinds) if not yes]
    each = {
        "log-mel with quiet bands": (mel for row in prepared for mel in row.log_mels),
        "patches": (row.pixel_values for row in prepared if row.pixel_values is not None),
        "hidden state": (pooled for _, pooled in scored),
        "log probability": (log_probs for log_probs, _ in scored),
        "probability": (_probabilities(one) for one in found),
        "embedding": (one.embedding for one in found),
    }
    return {
        "golden": np.array(max(result.worst_difference for result in checked)),
        "golden_wrong": np.array([result.reason for result in checked if not result.ok], str),
        "tokens": np.concatenate([row.input_ids for row in prepared]),
        "categories": values[:, exact],
        "label": np.array([one.label for one in found]),
        "margin": np.array([one.margin for one in found]),
        **{f"{kind}/row {i}": np.asarray(x) for kind, xs in each.items() for i, x in enumerate(xs)},
        **{f"feature/{pipeline.features[index].name}": values[:, index] for index in numeric},
        **_clips(OFFSETS if how == "offsets" else (0,)),
        **_states(pipeline, prepared[:BATCH], "hidden state", True),
        **_states(
            Pipeline.load(EMBEDDED, "cpu", "bfloat16", threads, allow_dirty=True),
            prepared[:BATCH],
            "hidden state in bfloat16",
            False,
        ),
    }


def _probabilities(answer: Any) -> list[float]:
    return [score.probability for score in sorted(answer.scores, key=lambda score: score.label)]


def _states(pipeline: Any, rows: Sequence[Any], kind: str, logits: bool) -> Answers:
    """The state of every prompt token, and the logits after the last one."""
    import torch

    with torch.inference_mode():
        batch = pipeline.batch_of(rows)
        hidden = pipeline.backbone.hidden(batch)
        found = {}
        for row, length in enumerate(batch.prompt_lengths):
            prompt = hidden[row, :length]
            found[f"{kind}/prompt {row}"] = prompt.float().numpy()
            if logits:
                found[f"logit/prompt {row}"] = pipeline.backbone.head(prompt[-1:]).float().numpy()
    return found


def _clips(offsets: Sequence[int]) -> Answers:
    """Log-mel of noise at the model's rate, and of clips with bands almost without signal."""
    random = np.random.default_rng(3)

    def noise(count: int) -> NDArray[np.float32]:
        return (0.1 * random.standard_normal(count)).astype(np.float32)

    time_s = np.arange(16_000) / 16_000
    waves = {
        f"log-mel of noise/{n} samples": (noise(n), 16_000)
        for n in (480, 500, 1601, 32_000, 80_001)
    }
    quiet = {"16000 Hz, a pure tone": (np.sin(2000 * np.pi * time_s).astype(np.float32), 16_000)}
    quiet |= {f"{rate} Hz, noise": (noise(rate), rate) for rate in RATES}
    waves |= {f"log-mel with quiet bands/{name}": wave for name, wave in quiet.items()}
    return {
        f"{name}@{offset}": _log_mel(wave, rate, offset)
        for name, (wave, rate) in waves.items()
        for offset in offsets
    }


def _log_mel(wave: NDArray[np.float32], rate: int, offset: int) -> NDArray[np.float32]:
    from pipelines.media.decode import DecodedAudio
    from pipelines.models.qwen.log_mel import DEFAULT, log_mel

    buffer = np.zeros(len(wave) + offset, np.float32)[offset:]
    buffer[:] = wave
    mel: NDArray[np.float32] = log_mel(
        DecodedAudio(buffer[:, None], rate, "WAV", payload_bytes=1), DEFAULT
    ).numpy()
    return mel


def _moved(pipeline: Any, rows: Sequence[Any], offset: int) -> list[Any]:
    """The rows, and the weights in place, copied to an address this many values behind an aligned
    one."""
    import torch

    def moved(tensor: Any) -> Any:
        buffer = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)[offset:]
        return buffer.view(tensor.shape).copy_(tensor.detach())

    for weight in pipeline.backbone.model.parameters():
        weight.data = moved(weight)
    return [
        replace(
            row,
            pixel_values=None if row.pixel_values is None else moved(row.pixel_values),
            log_mels=tuple(moved(mel) for mel in row.log_mels),
        )
        for row in rows
    ]


def _label_index(pipeline: Any) -> int:
    return [feature.name for feature in pipeline.features].index("output.label")


class Ballast:
    """Blocks of random sizes that are allocated and freed, so that buffers get other addresses."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._random = random.Random(5)
        self._held: list[bytearray] = []

    def move(self) -> None:
        if self._on:
            for _ in range(self._random.randrange(20)):
                self._held.append(bytearray(self._random.randrange(1, 90_000)))
            self._random.shuffle(self._held)
            del self._held[400:]

    def around(self, function: Any) -> Any:
        def called(value: Any) -> Any:
            self.move()
            return function(value)

        return called


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--how", default="")
    given = parser.parse_args()
    found: dict[str, Any] = {**answers(given.requests, given.threads, given.how)}
    np.savez(given.out, **found)


if __name__ == "__main__":
    main()
