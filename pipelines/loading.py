"""`pipelines.load`: a bundle as a library, ready to answer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.build.restamp import restamp
from pipelines.bundle import golden
from pipelines.errors import ManifestMismatch
from pipelines.pipeline import EMBEDDED, Pipeline

LIBRARIES = "libraries"  # the check of a refusal that restamping may answer


def load(
    path: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | str = "auto",
    allow_dirty: bool = False,
) -> Pipeline:
    """The bundle at `path` (default: the embedded one), verified, golden answers included.

    Under another Python or other libraries than the embedded bundle was stamped with, a copy of it
    is stamped for these if each golden answer is right, as a server does; it then has another
    stamp. A bundle that is named is refused: its stamp may be pinned.

    Raises BundleRefused, ValueError as `Pipeline.load`.
    """
    try:
        pipeline = Pipeline.load(path or EMBEDDED, device, dtype, threads, allow_dirty)
    except ManifestMismatch as refusal:
        if path is not None or refusal.check != LIBRARIES:
            raise
        with TemporaryDirectory(prefix="trefoil-") as folder:
            copy = Path(folder) / "bundle"
            restamp(EMBEDDED, copy)
            pipeline = Pipeline.load(copy, device, dtype, threads)
    golden.require(pipeline)  # a copy too: it was answered on another device perhaps
    return pipeline
