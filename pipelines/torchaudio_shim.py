"""Lets `import torchaudio` succeed with a CPU-only torch.

The published torchaudio wheel links CUDA libraries. Where they are missing, its native extension
cannot be loaded, and every transformers model that imports torchaudio fails to import too. This
project does not use the native parts. `install` adds an import hook that loads the extension where
possible and otherwise marks it absent; it imports nothing itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, cast

_EXTENSION = "torchaudio._extension"


def _absent(function: Any) -> Any:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError(f"{function.__name__} needs torchaudio's native extension")

    return refuse


class _Tolerant:
    """Runs the extension's own loader and tolerates its failure."""

    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._real.exec_module(module)
        except (OSError, ImportError):  # a CUDA shared library is missing
            vars(module).update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False,
                _IS_ALIGN_AVAILABLE=False,
                _check_cuda_version=lambda: None,
                fail_if_no_align=_absent,
            )


class _ExtensionFinder:
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != _EXTENSION:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Loader, _Tolerant(spec.loader))
        return spec


def install() -> None:
    """Call it before the first import of torchaudio or transformers; further calls have no
    effect."""
    if not any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtensionFinder())
