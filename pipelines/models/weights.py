"""Compares a checkpoint's tensors with those a model needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.errors import BundleRefused


def compare(wanted: Mapping[str, str], given: Mapping[str, torch.Tensor], model: Any) -> None:
    """`wanted` maps the names a checkpoint uses to the model's own.

    Raises BundleRefused("weights") naming what is missing, unknown or of another shape.
    """
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or unknown:
        raise BundleRefused("weights", f"missing {missing[:5]}, unknown {unknown[:5]}")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, tensor in given.items():
        if tuple(tensor.shape) != shapes[wanted[name]]:
            expected = shapes[wanted[name]]
            raise BundleRefused("weights", f"{name} is {tuple(tensor.shape)}, not {expected}")


def refuse_empty(model: Any) -> None:
    """Raises BundleRefused("weights") for parameters and buffers without values."""
    left = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if left:
        raise BundleRefused("weights", f"no values for {left[:5]}")
