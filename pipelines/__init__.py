"""The stamped unit: all code that can change a number is here, and no other code."""

from pipelines import torchaudio_shim

torchaudio_shim.install()  # before anything can import transformers

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

if TYPE_CHECKING:
    from pipelines.loading import load
    from pipelines.pipeline import Pipeline
    from pipelines.types import Part, Prediction, Sample

__all__ = ["Part", "Pipeline", "Prediction", "Sample", "load"]

_HOME = {
    "Part": "pipelines.types",
    "Prediction": "pipelines.types",
    "Sample": "pipelines.types",
    "Pipeline": "pipelines.pipeline",
    "load": "pipelines.loading",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that `import pipelines.bundle.stamp` does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
