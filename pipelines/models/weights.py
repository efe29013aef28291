"""Assigns the tensors of a checkpoint to a model, after checking that they are exactly those it
needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from pipelines.errors import BundleRefused

HEAD: Final = "lm_head.weight"


def assign(
    model: Any,
    wanted: dict[str, str],
    given: dict[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """`wanted` maps the names a checkpoint uses to the model's own; a tied head needs no tensor.

    Raises BundleRefused("weights") naming what is missing, unknown or of another shape.
    """
    tied = model.config.tie_word_embeddings
    if tied:
        given.pop(HEAD, None)
        wanted.pop(HEAD, None)
    _compare(wanted, given, model)
    state = {wanted[name]: tensor.to(device, dtype) for name, tensor in given.items()}
    model.load_state_dict(state, strict=False, assign=True)
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight


def _compare(wanted: Mapping[str, str], given: Mapping[str, torch.Tensor], model: Any) -> None:
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
