"""Stamps the same weights again for the current code and libraries, if they still give the golden
answers. A wrong answer keeps the old stamp, unless the caller accepts new answers explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.build.build import Loader, loader, new_folder, recordings, rewrite
from pipelines.bundle import golden, golden_file
from pipelines.bundle import manifest as manifests
from pipelines.bundle import stamp as stamps
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.files import put_file
from pipelines.bundle.golden import GoldenResult
from pipelines.bundle.manifest import Manifest
from pipelines.bundle.stamp import Stamp
from pipelines.errors import BundleRefused


@dataclass(frozen=True, slots=True)
class Restamped:
    """`results` compare with the old answers; with `new_golden`, the current answers replaced
    them."""

    before: str
    stamp: Stamp
    results: tuple[GoldenResult, ...]
    new_golden: bool


def restamp(
    path: Path,
    out: Path | None = None,
    accept_new_golden: bool = False,
    record_speed: bool = False,
    load: Loader | None = None,
) -> Restamped:
    """Writes the restamped bundle to `out`, or in place of the old one when that is None.

    Raises BundleRefused("golden") when an answer differs and `accept_new_golden` is not set; then
    nothing is written. FileExistsError when `out` exists.
    """
    pipeline = (load or loader())(path, True)
    bundle = pipeline.bundle
    results = tuple(golden.check(pipeline))
    wrong = [result for result in results if not result.ok]
    if wrong and not accept_new_golden:
        raise BundleRefused("golden", _complaint(wrong, len(results)))
    changes = recordings(pipeline, accept_new_golden, record_speed)
    manifest = replace(
        bundle.manifest,
        code=stamps.running_code().modules,
        libraries=stamps.running_libraries(),
        human={**bundle.manifest.human, "restamped_from": bundle.manifest.stamp_hex},
    )
    finished = _write(bundle, manifest, changes, out)
    return Restamped(
        bundle.manifest.stamp_hex, finished.stamp(), results, golden_file.FILE in changes
    )


def _complaint(wrong: list[GoldenResult], count: int) -> str:
    first = wrong[0]
    return (
        f"{len(wrong)} of {count} golden answers have changed; {first.case} "
        f"{first.reason}. Find the cause (`pipelines diff BUNDLE`). If the new answers are the "
        "right ones, restamp with --accept-new-golden"
    )


def _write(
    bundle: Bundle, manifest: Manifest, changes: Mapping[str, bytes], out: Path | None
) -> Manifest:
    if out is None and not changes:
        put_file(bundle.path, manifests.FILE, manifest.to_bytes())
        for name in (manifests.SIGNATURE, manifests.OPENSSF):  # they cover the old manifest
            (bundle.path / name).unlink(missing_ok=True)
        return manifest
    with new_folder(out or bundle.path, replace=out is None) as folder:
        for path, file in bundle.files.items():
            if path not in changes:
                target = folder / path
                target.parent.mkdir(mode=0o755, exist_ok=True)
                target.write_bytes(file.content)
                target.chmod(0o644)
        return rewrite(folder, manifest, changes)
