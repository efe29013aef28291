"""Counts what torch dispatches: on a GPU each of these is at least one launch, or a wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# These read a number of the device on the host, and so wait for it.
_WAITS = frozenset(
    "_local_scalar_dense nonzero is_nonzero masked_select unique_dim _unique2 equal".split()
)


class OpCount(TorchDispatchMode):
    """`launches`, `waits`, and `copies` that do not block, by name of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.waits = 0
        self.copies = 0

    @property
    def launches(self) -> int:
        return self.launched.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        if _in_place(name) or not _is_view(result, args):
            self.launched[name] += 1
            self.waits += name in _WAITS
            self.copies += name == "copy_" and len(args) > 2 and bool(args[2])
        return result


class TouchedMemory(TorchDispatchMode):
    """`given`: addresses of the memory that was there before, and not made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[int] = set()
        self._made: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.given |= _memories((args, kwargs)) - self._made
        result = func(*args, **(kwargs or {}))
        self._made |= _memories(result) - self.given
        return result


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _is_view(result: Any, args: tuple[Any, ...]) -> bool:
    """Of the memory of an argument, so that nothing was computed."""
    made = _memories(result)
    return bool(made) and made <= _memories(args)


def _memories(values: Any) -> set[int]:
    tensors = (t for t in pytree.tree_leaves(values) if isinstance(t, torch.Tensor))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
