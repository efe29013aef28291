"""`pipelines.load`: opens a bundle as a library, ready to answer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.build.restamp import restamp
from pipelines.bundle import golden
from pipelines.errors import ManifestMismatch
from pipelines.pipeline import EMBEDDED, Pipeline

LIBRARIES = "libraries"  # the check whose refusal a restamp can resolve


def load(
    path: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | str = "auto",
    allow_dirty: bool = False,
) -> Pipeline:
    """The bundle at `path` (default: the embedded one), verified, golden answers included.

    With another Python or other libraries than those in the embedded bundle's stamp, a copy of the
    embedded bundle is restamped for them if each golden answer is right, as a server does. The copy
    has another stamp. A bundle given by `path` is refused instead: its stamp may be pinned.

    Raises BundleRefused, and ValueError as `Pipeline.load` does.
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
    golden.require(pipeline)  # for a copy too: its answers may have been checked on another device
    return pipeline
