"""The building blocks of the families' text stacks: joined projections, norms, rotary positions.

They run on the weights of the library's own layers, with a third of its kernel launches. The
library's text model is not called; tests compare the results with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
import torch.nn.functional as F

# Projections of the same input, in the order in which they are joined.
JOINED: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
Rotary = tuple[torch.Tensor, torch.Tensor]


def choose_joining(device: torch.device) -> tuple[bool, str]:
    """(whether frozen projections of the same input become one matrix product, reason)."""
    if device.type == "cpu":
        # Measured: the products are equally fast, and a joined copy could not be shared.
        return False, "separate products: a CPU gains nothing, and mapped weights stay shared"
    return True, "one product for queries, keys and values, one for gate and up: fewer launches"


class Projections:
    """Linear layers with the same input. Joined, they are one product, and the layers' weights
    become views of the joined one, so that nothing is stored twice."""

    def __init__(self, layers: Sequence[Any], joined: bool) -> None:
        self._layers = tuple(layers)
        self._sizes = [int(layer.weight.shape[0]) for layer in layers]
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        biased = [layer.bias is not None for layer in layers]
        self.joined = joined and len(layers) > 1 and len(set(biased)) == 1
        if self.joined:
            self._weight = _joined(layers, "weight")
            self._bias = _joined(layers, "bias") if biased[0] else None

    def __call__(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.merged(inputs, [1] * len(self._layers))

    def merged(self, inputs: torch.Tensor, counts: Sequence[int]) -> Sequence[torch.Tensor]:
        """The results of the first `counts[0]` layers side by side, of the next `counts[1]`, ...:
        if the layers are joined, that costs nothing; otherwise only counts of 1 cost nothing."""
        ends = [sum(counts[:n]) for n in range(len(counts) + 1)]
        if self._weight is not None:
            sizes = [sum(self._sizes[a:b]) for a, b in pairwise(ends)]
            return torch.split(F.linear(inputs, self._weight, self._bias), sizes, dim=-1)
        each = [F.linear(inputs, layer.weight, layer.bias) for layer in self._layers]
        found = [each[a:b] for a, b in pairwise(ends)]
        return [some[0] if len(some) == 1 else torch.cat(some, dim=-1) for some in found]


def side_by_side(names: Iterable[str]) -> list[list[str]]:
    """Names of weights, sorted, in groups. The weights of a group are joined, and therefore lie
    side by side in memory, in this order."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in sorted(names):
        group, place = name, 0
        for number, members in enumerate(JOINED):
            for index, member in enumerate(members):
                if f".{member}." in name:
                    group, place = name.replace(f".{member}.", f".joined {number}."), index
        groups.setdefault(group, []).append((place, name))
    return [[name for _, name in sorted(group)] for group in groups.values()]


def _adjacent(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The parts as one tensor over the same memory, if they lie end to end there; else None."""
    first, *others = parts
    end, rows = first.storage_offset() + first.numel(), first.shape[0]
    for part in others:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or part.storage_offset() != end or not part.is_contiguous():
            return None
        end, rows = end + part.numel(), rows + part.shape[0]
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def _joined(layers: Sequence[Any], name: str) -> torch.Tensor:
    parts = [getattr(layer, name).detach() for layer in layers]
    whole = _adjacent(parts)
    if whole is None:
        whole = torch.cat(parts)
    done = 0
    for layer in layers:
        size = getattr(layer, name).shape[0]
        view = torch.nn.Parameter(whole[done : done + size], requires_grad=False)
        setattr(layer, name, view)
        done += size
    return whole


class GatedMlp:
    """down(act(gate(x)) * up(x)), with the library module's layers of these names."""

    def __init__(self, module: Any, joined: bool) -> None:
        self._inner = Projections((module.gate_proj, module.up_proj), joined)
        self._act: Callable[[torch.Tensor], torch.Tensor] = module.act_fn
        self._down = module.down_proj

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        gate, up = self._inner(inputs)
        return F.linear(self._act(gate).mul_(up), self._down.weight)


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), in one kernel where torch has
    one; the mean is taken in float32."""

    def __init__(self, weight: torch.Tensor | None, eps: float, size: int) -> None:
        self._weight = weight
        self._eps = eps
        self._shape = (size,)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(inputs, self._shape, self._weight, self._eps)


def heads(flat: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T, n * size] to [B, T, n, size], without a copy."""
    return flat.view(*flat.shape[:-1], -1, size)


def rotary(angles: torch.Tensor, scaling: float, dtype: torch.dtype) -> Rotary:
    """From angles f32 [B, T, D / 2]: cosines and sines [B, T, 1, D]; the first half of the sines is
    negated, so that `rotated` needs no negation.

    Angles are elementwise products, so a device's short float formats for matrices do not reach
    them.
    """
    cosines, sines = angles.cos(), angles.sin()
    if scaling != 1.0:
        cosines, sines = cosines * scaling, sines * scaling
    whole = torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)
    return whole[0].to(dtype).unsqueeze(2), whole[1].to(dtype).unsqueeze(2)


def rotated(inputs: torch.Tensor, by: Rotary) -> torch.Tensor:
    """[B, T, heads, D]: each half of a head is the other coordinate of its pairs (RoPE, Su et al.
    2021, in the layout of GPT-NeoX)."""
    return (inputs * by[0]).addcmul_(inputs.roll(inputs.shape[-1] // 2, dims=-1), by[1])
