"""Opens and verifies a bundle: files, code and libraries are those the manifest names, and the
weights are exactly the bytes that were hashed.

The checks run in this order, and each failure is a BundleRefused with its own `check` and remedy:
missing, names, kind, manifest, signature, files, format, hash, code, libraries, weights. Once the
model is loaded, config (pipelines/pipeline.py) and golden (pipelines/bundle/golden.py) follow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.bundle import stamp as stamps
from pipelines.bundle.contents import Contents, Progress, changed, no_progress, read_contents
from pipelines.bundle.digests import DigestCache
from pipelines.bundle.files import File
from pipelines.bundle.formats import parse_json
from pipelines.bundle.manifest import Manifest
from pipelines.bundle.stamp import Code, Stamp
from pipelines.errors import BundleRefused, ManifestMismatch

if TYPE_CHECKING:
    import torch

    from pipelines.bundle.signature import TrustedKey

_log = logging.getLogger(__name__)

INDEX: Final = "weights/model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Verified content. `files` maps a path to the opened file; no file is read twice. `signed_by`
    is the id of the trusted key that signed the manifest, "" if no signature was required."""

    path: Path
    manifest: Manifest
    stamp: Stamp
    files: Mapping[str, File]
    weights: Mapping[str, torch.Tensor]
    signed_by: str = ""

    @staticmethod
    def open(
        path: Path | str,
        allow_dirty: bool = False,
        progress: Progress | None = None,
        cache: DigestCache | None = None,
        trusted: Sequence[TrustedKey] = (),
    ) -> Bundle:
        """Verifies everything that can be verified without running the model.

        With `allow_dirty`, code and libraries may differ from the manifest; the stamp is then a
        different one, which no client can have pinned. With `trusted` keys, one of them must have
        signed the manifest. Raises BundleRefused.
        """
        report = progress or no_progress
        contents = read_contents(path, report, cache, trusted)
        bundle = Bundle.of(contents, allow_dirty, report)
        if cache is not None:
            _remember(contents, cache)
        return bundle

    @staticmethod
    def of(
        contents: Contents, allow_dirty: bool = False, progress: Progress = no_progress
    ) -> Bundle:
        """Completes `open` for files that are already open. Raises BundleRefused."""
        progress("code", 0.0)
        stamp = _compare_process(contents.manifest, allow_dirty)
        progress("weights", 0.0)
        weights = _checked_weights(contents)
        _refuse_changed(contents)
        progress("weights", 1.0)
        manifest, files = contents.manifest, contents.files
        return Bundle(contents.path, manifest, stamp, files, weights, contents.signed_by)

    def content(self, path: str) -> bytes:
        """The content of a file. Raises KeyError for a file the bundle does not have."""
        return bytes(self.files[path].content)

    def json(self, path: str) -> dict[str, Any]:
        return parse_json(path, self.files[path].content)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by name, as views over the hashed bytes: do not write to them."""
        return dict(self.weights)

    @property
    def config(self) -> dict[str, Any]:
        """The transformers thinker config."""
        return self.json("model/config.json")

    @property
    def tokenizer(self) -> bytes:
        return self.content("tokenizer/tokenizer.json")

    @property
    def preprocess(self) -> dict[str, Any]:
        """Sections image, audio, text, limits."""
        return self.json("preprocess.json")

    @property
    def template(self) -> dict[str, Any]:
        return self.json("template.json")

    @property
    def labels(self) -> dict[str, Any]:
        return self.json("labels.json")

    @property
    def objective(self) -> dict[str, Any]:
        return self.json("objective.json")

    @property
    def speed(self) -> dict[str, Any]:
        return self.json("speed.json")

    @property
    def training(self) -> dict[str, Any]:
        return self.json("training.json")

    @property
    def card(self) -> str:
        return self.content("CARD.md").decode()

    @property
    def reference(self) -> dict[str, Any] | None:
        """The reference profile; None when the bundle was built without one."""
        path = "reference/profile.json"
        return self.json(path) if path in self.files else None


def _refuse_changed(contents: Contents) -> None:
    """Refuses files that changed after they were hashed. Other processes can write to the pages of
    a mapped file; files that were read into memory cannot change any more."""
    mapped = {path: file for path, file in contents.files.items() if file.mapped}
    for path in changed(contents.path, mapped):
        raise ManifestMismatch("hash", f"{path} was modified while the bundle was being opened")


def _remember(contents: Contents, cache: DigestCache) -> None:
    for file in contents.files.values():
        cache.put(contents.path, file)
    try:
        cache.save()
    except OSError:
        _log.warning(
            "could not save the digests; the next start hashes the files again", exc_info=True
        )


def process_mismatch(manifest: Manifest) -> ManifestMismatch | None:
    """The error for running code or libraries that differ from those in the manifest, or None."""
    return _code_mismatch(manifest, stamps.running_code()) or _library_mismatch(
        manifest, stamps.running_libraries()
    )


def _compare_process(manifest: Manifest, allow_dirty: bool) -> Stamp:
    mismatch, stamp = process_mismatch(manifest), manifest.stamp()
    if mismatch is None:
        return stamp
    if not allow_dirty:
        raise mismatch
    code, libraries = stamps.running_code(), stamps.running_libraries()
    foreign = {name: stamps.source_digest(name.encode()) for name in code.foreign_modules}
    running = stamps.code_tree(dict(code.modules) | foreign)
    dirty = stamps.dirty_digest(stamp.hex, running, stamps.libraries_digest(libraries))
    actual = replace(manifest, code=code.modules, libraries=libraries).stamp()
    name = stamps.display_name(manifest.name, dirty, dirty=True)
    return replace(actual, hex=dirty, name=name, dirty=True)


def _code_mismatch(manifest: Manifest, code: Code) -> ManifestMismatch | None:
    if code.foreign_modules:
        return ManifestMismatch("code", _some(list(code.foreign_modules)))
    names = set(manifest.code) | set(code.modules)
    changed = sorted(n for n in names if manifest.code.get(n) != code.modules.get(n))
    if not changed:
        return None
    return ManifestMismatch(
        "code",
        f"the running code is not the code this bundle was stamped with ({_some(changed)} differ); "
        "install the version it names, or run `pipelines restamp` to test and stamp it for this",
    )


def _library_mismatch(manifest: Manifest, running: Mapping[str, str]) -> ManifestMismatch | None:
    names = sorted(set(manifest.libraries) | set(running))
    changed = [
        f"{n} {manifest.libraries.get(n, 'untracked')} -> {running.get(n, 'untracked')}"
        for n in names
        if manifest.libraries.get(n) != running.get(n)
    ]
    if not changed:
        return None
    return ManifestMismatch(
        "libraries",
        f"the library versions are not those this bundle was stamped with ({_some(changed)}); "
        "install those it names, or run `pipelines restamp` to test and stamp it for these",
    )


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def weight_files(files: Mapping[str, File]) -> list[File]:
    found = [f for path, f in sorted(files.items()) if path.endswith(".safetensors")]
    return [file for file in found if file.path.startswith("weights/")]


def _checked_weights(contents: Contents) -> dict[str, torch.Tensor]:
    # Imported late: reading a manifest needs no torch.
    from pipelines.bundle.tensors import read_tensors, refuse_nonfinite

    files = contents.files
    for path in sorted(files):
        if path.startswith("reference/") and path.endswith(".safetensors"):
            refuse_nonfinite(read_tensors(files[path]))
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(files):
        found = read_tensors(file)
        for name in found.keys() & tensors.keys():
            raise BundleRefused("weights", f"{file.path}: {name} is also in an earlier file")
        if not file.remembered:  # a file with a remembered digest has passed this before
            refuse_nonfinite(found)
        tensors |= found
    if not tensors:
        raise BundleRefused("weights", "weights/ has no tensors")
    if INDEX in files:
        _check_index(parse_json(INDEX, files[INDEX].content), set(tensors))
    return tensors


def _check_index(index: Mapping[str, object], names: set[str]) -> None:
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or set(listed) != names:
        raise BundleRefused("weights", f"{INDEX} does not list exactly the tensors in weights/")
