"""Compares the files of a bundle with its manifest: all present, no others, every byte as listed.

pipelines/bundle/bundle.py checks this process and the weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.bundle import manifest as manifests
from pipelines.bundle.digests import DigestCache
from pipelines.bundle.files import File, FileIdentity, Opening, open_folder
from pipelines.bundle.formats import check_format, parse_json
from pipelines.bundle.manifest import Manifest
from pipelines.errors import BundleRefused, ManifestMismatch

if TYPE_CHECKING:
    from pipelines.bundle.signature import TrustedKey

# A step (files, hash, code, weights) and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]

REQUIRED: Final = (
    "model/config.json",
    "tokenizer/tokenizer.json",
    "preprocess.json",
    "template.json",
    "labels.json",
    "objective.json",
    "speed.json",
    "training.json",
    "CARD.md",
    "golden/golden.json",
)


@dataclass(frozen=True, slots=True)
class Contents:
    """Files that match their manifest. This process and the weights are not checked yet.

    `files` maps a path to the opened file, without the manifest and its signatures. `signed_by` is
    the id of the trusted key that signed it, "" if no signature was required. `openssf` is
    model.sig, not parsed.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, File]
    signed_by: str = ""
    openssf: File | None = None

    def json(self, path: str) -> dict[str, Any]:
        """The parsed file. Raises KeyError for a file the bundle does not have."""
        return parse_json(path, self.files[path].content)

    def content(self, path: str) -> bytes:
        """The content of a file. Raises KeyError for a file the bundle does not have."""
        return bytes(self.files[path].content)


def read_contents(
    path: Path | str,
    progress: Progress | None = None,
    cache: DigestCache | None = None,
    trusted: Sequence[TrustedKey] = (),
) -> Contents:
    """Opens every file and compares it with the manifest. With `trusted` keys, one of them must
    have signed the manifest. Raises BundleRefused."""
    report, root = progress or no_progress, Path(path)
    report("files", 0.0)
    opened = open_folder(root, _opening(root, report, cache))
    files = {file.path: file for file in opened}
    found = files.pop(manifests.FILE, None)
    if found is None:
        raise BundleRefused("manifest", f"{root} has no {manifests.FILE}; is it a bundle?")
    # Signatures cover the manifest, so the manifest cannot list them.
    signature, openssf = files.pop(manifests.SIGNATURE, None), files.pop(manifests.OPENSSF, None)
    manifest = manifests.read(found.content)
    signed_by = _signed_by(found, signature, trusted)
    _check_listing(manifest, files)
    for file in files.values():
        check_format(file)
    _compare_digests(manifest, files)
    return Contents(root, manifest, files, signed_by, openssf)


def _signed_by(manifest: File, signature: File | None, trusted: Sequence[TrustedKey]) -> str:
    if not trusted:
        return ""
    # Imported late: the library is needed only where a signature is required.
    from pipelines.bundle.signature import check

    return check(manifest.content, None if signature is None else signature.content, trusted)


def _opening(root: Path, report: Progress, cache: DigestCache | None) -> Opening:
    def hashed(done: int, total: int) -> None:
        report("hash", done / max(1, total))

    if cache is None:
        return Opening(progress=hashed)
    return Opening(known=lambda path, found: cache.get(root, path, found), progress=hashed)


def _check_listing(manifest: Manifest, files: Mapping[str, File]) -> None:
    """Every listed file is present, every required one is listed, and there are no others."""
    listed = {leaf.path for leaf in manifest.files}
    for path in sorted(set(files) - listed):
        check_format(files[path])  # a wrong format is the more severe problem: report it first
        raise ManifestMismatch("files", f"{path} is not in the manifest; remove it")
    for path in sorted(listed - set(files)):
        raise ManifestMismatch("files", f"{path} is missing; copy the bundle again")
    for path in sorted(set(REQUIRED) - listed):
        raise BundleRefused("files", f"a bundle needs {path}, and this one was built without it")


def _compare_digests(manifest: Manifest, files: Mapping[str, File]) -> None:
    for leaf in manifest.files:
        size, sha256 = files[leaf.path].size, files[leaf.path].sha256
        if (size, sha256) != (leaf.size, leaf.sha256):
            raise ManifestMismatch(
                "hash",
                f"{leaf.path} is not the file in the manifest ({size} bytes, sha256 "
                f"{sha256[:12]}…; expected {leaf.size} bytes, {leaf.sha256[:12]}…); copy the "
                "bundle again",
            )


def changed(root: Path, files: Mapping[str, File]) -> list[str]:
    """The paths of `files` that no longer lead to the file that was opened."""
    different = []
    for path, file in files.items():
        try:
            found = os.stat(root / path, follow_symlinks=False)
        except OSError:
            different.append(path)
            continue
        if FileIdentity.of(found) != file.identity:
            different.append(path)
    return different


def no_progress(step: str, fraction: float) -> None:
    pass
