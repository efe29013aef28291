"""Bundles that differ slightly and only in their weights: same speed, other answers, other
stamps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from proto import inference_pb2 as pb

NAMES = ("as it is", "other", "third")


@dataclass(frozen=True, slots=True)
class Variant:
    """`answers` and `texts` are its results for each example, alone and in a separate process."""

    path: Path
    stamp: str
    answers: tuple[dict[str, float], ...]
    texts: tuple[str, ...]


def variants(
    bundle: Path, folder: Path, examples: Sequence[pb.Example], tokens: int
) -> list[Variant]:
    """The bundle itself, and two copies with noise on their weights."""
    folder.mkdir()
    found = []
    for number, name in enumerate(NAMES):
        path = shutil.copytree(bundle, folder / name.replace(" ", "-"))
        if number:
            disturb(path, 0.03, number)
        found.append(measured(path, examples, tokens))
    return found


def disturb(bundle: Path, noise: float, seed: int) -> None:
    """Adds noise to every weight, `noise` times the spread of its tensor, and records golden
    answers and stamp again: the bundle is consistent with itself, like any other."""
    from safetensors.numpy import load_file, save

    from pipelines.build.build import rewrite
    from pipelines.build.restamp import restamp
    from pipelines.bundle import manifest

    random = np.random.default_rng(seed)
    changes = {}
    for path in sorted((bundle / "weights").glob("*.safetensors")):
        tensors = load_file(path)
        for name, tensor in sorted(tensors.items()):
            if tensor.dtype.kind == "f" and tensor.size > 1:
                spread = noise * float(tensor.std())
                tensors[name] = tensor + random.normal(0, spread, tensor.shape).astype(tensor.dtype)
        changes[path.relative_to(bundle).as_posix()] = save(tensors)
    for path in bundle.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    rewrite(bundle, manifest.read((bundle / manifest.FILE).read_bytes()), changes)
    restamp(bundle, accept_new_golden=True)


def measured(path: Path, examples: Sequence[pb.Example], tokens: int) -> Variant:
    from benchmarks.soak import single_answers
    from benchmarks.support.bound import sample
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(path, threads=1)
    wanted = [sample(index, example) for index, example in enumerate(examples)]
    texts = [
        "".join(pipeline.generate(replace(one, task="generate", max_new_tokens=tokens)))
        for one in wanted[:8]
    ]
    return Variant(
        path, pipeline.stamp.hex, tuple(single_answers(str(path), list(examples))), tuple(texts)
    )
