"""Builds a bundle: files, golden answers and manifest, in a folder that appears complete or not at
all. Equal specifications give equal stamps, whenever and wherever they are built.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from pipelines.bundle import golden, golden_file
from pipelines.bundle import manifest as manifests
from pipelines.bundle import stamp as stamps
from pipelines.bundle.bundle import INDEX
from pipelines.bundle.golden import Answering
from pipelines.bundle.manifest import Manifest
from pipelines.bundle.speed import Speed
from pipelines.bundle.stamp import Leaf, Stamp
from pipelines.bundle.tensors import to_bytes
from pipelines.errors import BundleRefused
from pipelines.types import Sample

# The file being written, bytes done, total bytes.
Progress = Callable[[str, int, int], None]
# Loads a bundle without its golden self-test; the second argument is `allow_dirty`.
Loader = Callable[[Path, bool], Answering]
_CHUNK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """One weights file to write: each call of `chunks()` yields all its `size` bytes."""

    name: str  # e.g. model.safetensors
    tensors: tuple[str, ...]
    size: int
    chunks: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Everything a bundle is made of.

    `weights` are tensors by name, or shards to stream. `golden` inputs need ids that are valid file
    names, parts of a stated kind, and real files as media; their answers are recorded by running
    the rest of the bundle. `reference` is reference/profile.json, `reference_files` are further
    files of that folder by name.
    """

    name: str
    weights: Mapping[str, torch.Tensor] | Sequence[Shard]
    config: Mapping[str, Any]
    tokenizer: bytes
    preprocess: Mapping[str, Any]
    template: Mapping[str, Any]
    labels: Mapping[str, Any]
    golden: Sequence[Sample]
    objective: Mapping[str, Any] = field(default_factory=dict)
    speed: Speed = Speed()
    training: Mapping[str, Any] = field(default_factory=dict)
    card: str = "No card was written for this bundle.\n"
    reference: Mapping[str, Any] | None = None
    reference_files: Mapping[str, bytes] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict(golden_file.TOLERANCE))
    created_at: str = ""
    human: Mapping[str, str] = field(default_factory=dict)


def loader(device: str = "cpu", dtype: str = "auto", threads: int | str = "auto") -> Loader:
    """Returns a loader. By default it loads on the CPU, because float32 is exact there."""

    def load(path: Path, allow_dirty: bool) -> Answering:
        # Imported late: reading and comparing bundles needs no model.
        from pipelines.pipeline import Pipeline

        return Pipeline.load(path, device, dtype, threads, allow_dirty)

    return load


def write_bundle(
    spec: BundleSpec,
    out: Path,
    load: Loader | None = None,
    progress: Progress | None = None,
    record_speed: bool = False,
) -> Stamp:
    """Writes the bundle to `out`, which must not exist yet, and returns its stamp.

    `record_speed` times the golden inputs here and adds the medians to speed.json, which makes the
    stamp one of this build and not of the specification alone.

    Raises BundleRefused when the result would be refused or a golden input gets no answer,
    FileExistsError, ValueError for an invalid name or golden input.
    """
    manifests.check_bundle_name(spec.name)
    with new_folder(out) as folder:
        leaves = [_write_shard(folder, shard, progress) for shard in _shards(spec.weights)]
        leaves += [_write(folder, path, content) for path, content in _small_files(spec)]
        manifest = Manifest(
            name=spec.name,
            files=tuple(leaves),
            code=stamps.running_code().modules,
            libraries=stamps.running_libraries(),
            created_at=spec.created_at,
            human=spec.human,
        )
        _write(folder, manifests.FILE, manifest.to_bytes())
        pipeline = (load or loader())(folder, False)
        finished = rewrite(folder, manifest, recordings(pipeline, True, record_speed))
        return finished.stamp()


def recordings(pipeline: Answering, answers: bool, speed: bool) -> dict[str, bytes]:
    """New contents, by path, of the files that record results of running the bundle."""
    changes: dict[str, bytes] = {}
    if answers:
        changes[golden_file.FILE] = encode(golden.record(pipeline))
    if speed:
        device = pipeline.env.get("device", "cpu")
        recorded = Speed.from_dict(pipeline.bundle.speed).recorded(
            device, golden.time_mixes(pipeline)
        )
        changes["speed.json"] = encode(recorded.to_dict())
    return changes


def rewrite(folder: Path, manifest: Manifest, changes: Mapping[str, bytes]) -> Manifest:
    """Writes the changed files into `folder`, then the manifest."""
    leaves = {leaf.path: leaf for leaf in manifest.files}
    leaves |= {path: _write(folder, path, content) for path, content in changes.items()}
    finished = replace(manifest, files=tuple(leaves.values()))
    _write(folder, manifests.FILE, finished.to_bytes())
    return finished


class new_folder:
    """A directory beside `out` that becomes `out` by one rename, and vanishes on any error.

    With `replace`, an existing `out` is replaced; for a moment it is called `out.old`.
    """

    def __init__(self, out: Path, replace: bool = False) -> None:
        self._out, self._replace = out, replace
        self._temporary: Path | None = None

    def __enter__(self) -> Path:
        if self._out.exists() and not self._replace:
            raise FileExistsError(f"{self._out} exists already")
        self._out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self._out.name}.partial-"
        self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self._out.parent))
        self._temporary.chmod(0o755)
        return self._temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._temporary is not None
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        _flush(self._temporary)
        if self._out.exists():
            old = self._out.with_name(f"{self._out.name}.old")
            self._out.rename(old)
            self._temporary.rename(self._out)
            shutil.rmtree(old)
        else:
            self._temporary.rename(self._out)


def _flush(folder: Path) -> None:
    """Flushes the directory entries to disk before the rename that publishes them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode(value: Mapping[str, Any]) -> bytes:
    """JSON in the form bundles use, keys in the order given. Raises ValueError for NaN,
    infinity."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _small_files(spec: BundleSpec) -> Iterator[tuple[str, bytes]]:
    contents, cases = golden_file.files(spec.golden)
    yield "model/config.json", encode(spec.config)
    yield "tokenizer/tokenizer.json", spec.tokenizer
    yield "preprocess.json", encode(spec.preprocess)
    yield "template.json", encode(spec.template)
    yield "labels.json", encode(spec.labels)
    yield "objective.json", encode(spec.objective)
    yield "speed.json", encode(spec.speed.to_dict())
    yield "training.json", encode(spec.training)
    yield "CARD.md", spec.card.encode()
    yield from contents.items()
    yield golden_file.FILE, encode(golden_file.document(cases, spec.tolerance))
    if spec.reference is not None:
        yield "reference/profile.json", encode(spec.reference)
    for name, content in spec.reference_files.items():
        yield f"reference/{name}", content
    if not isinstance(spec.weights, Mapping) and len(spec.weights) > 1:
        yield INDEX, encode(_index(spec.weights))


def _index(shards: Sequence[Shard]) -> dict[str, Any]:
    places = {tensor: shard.name for shard in shards for tensor in shard.tensors}
    return {"metadata": {"total_size": sum(s.size for s in shards)}, "weight_map": places}


def _shards(weights: Mapping[str, torch.Tensor] | Sequence[Shard]) -> Sequence[Shard]:
    if not isinstance(weights, Mapping):
        return weights
    content = to_bytes(weights)
    return [Shard("model.safetensors", tuple(weights), len(content), lambda: [content])]


def _write_shard(folder: Path, shard: Shard, progress: Progress | None) -> Leaf:
    """Writes and hashes a shard in one pass."""
    path = f"weights/{shard.name}"
    digest, done = hashlib.sha256(), 0
    target = folder / path
    target.parent.mkdir(mode=0o755, exist_ok=True)
    with target.open("wb") as file:
        for chunk in shard.chunks():
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(path, done, shard.size)
        file.flush()
        os.fsync(file.fileno())
    target.parent.chmod(0o755)
    target.chmod(0o644)
    if done != shard.size:
        raise BundleRefused("weights", f"{path}: {done} bytes written, {shard.size} expected")
    return Leaf(path, done, digest.hexdigest())


def _write(folder: Path, path: str, content: bytes) -> Leaf:
    target = folder / path
    target.parent.mkdir(mode=0o755, exist_ok=True)
    if target.parent != folder:
        target.parent.chmod(0o755)
    target.write_bytes(content)
    target.chmod(0o644)  # independent of the umask: a server reads it as another user
    return Leaf(path, len(content), hashlib.sha256(content).hexdigest())
