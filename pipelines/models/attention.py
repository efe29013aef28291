"""Scaled-dot-product attention for the text stacks, and for the encoders, which transformers calls.

- text: columns that attend to exactly the columns before them need no mask, and keys are never
  repeated for the heads that share them;
- encoders: all segments of a packed sequence in one call instead of a Python loop, registered with
  transformers under one name.

The results equal transformers' "sdpa" (tests/pipelines/test_backbone.py); only the calls differ.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.batch import Segments

NAME = "trefoil_sdpa"
# On a CPU with AVX-512, torch's flash kernel packs half-precision keys, and raises RuntimeError
# ("pack_vnni2 is only supported when avx512 is supported") where the kernels were limited to less.
_FLASH_RAISES = os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2")

# How query heads that share a key head read it: the kernel supports it ("grouped"), or keys are
# copied.
Sharing = Literal["grouped", "repeated"]
_GROUPED_SINCE: Final = (2, 6)  # before that release only some kernels took grouped heads
# With more masked columns, the mask of all heads is larger than repeated keys.
FOLDED_COLUMNS: Final = 256


def choose_sharing(
    device: torch.device, dtype: torch.dtype, version: str = torch.__version__
) -> tuple[Sharing, str]:
    """(how query heads read shared key heads, reason)."""
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < _GROUPED_SINCE:
        return "repeated", f"torch {version} has no grouped heads in every kernel"
    if device.type == "cuda" and dtype == torch.float32:
        # The flash kernel takes half precision only, and the other kernels would fall back to plain
        # products of whole matrices.
        return "repeated", "no fast CUDA kernel takes grouped heads in float32: keys are repeated"
    where = "the flash kernel" if device.type == "cuda" else "torch's CPU kernel"
    return "grouped", f"{where} reads a key head for all heads that share it"


# How runs of unequal length attend within themselves: by their lengths, or padded and masked.
Segmenting = Literal["varlen", "padded"]
Varlen = Callable[..., torch.Tensor]
_FLASH_SINCE: Final = (8, 0)  # compute capability
_FLASH_DTYPES: Final = (torch.float16, torch.bfloat16)


def torch_varlen() -> Varlen | None:
    """torch.nn.attention.varlen if it takes a scale (since torch 2.11), else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    found: Any = varlen_attn
    return found if "scale" in inspect.signature(found).parameters else None


def choose_segments(
    device: torch.device,
    dtype: torch.dtype,
    capability: tuple[int, int],
    varlen: Varlen | None,
) -> tuple[Segmenting, str]:
    """(how vision windows, images and chunks of sound of unequal length attend, reason)."""
    # Flex attention would do it too, but compiles a kernel for each shape while requests wait.
    if device.type != "cuda":
        return "padded", "padded and masked: torch has varlen attention on CUDA only"
    if dtype not in _FLASH_DTYPES or capability < _FLASH_SINCE:
        kind, (major, minor) = str(dtype).removeprefix("torch."), capability
        where = f"{kind} on compute capability {major}.{minor}"
        return "padded", f"padded and masked: the flash kernel does not take {where}"
    if varlen is None:
        return "padded", f"padded and masked: torch {torch.__version__} has no varlen with a scale"
    return "varlen", "the flash kernel over their lengths: no padding and no mask"


@lru_cache(maxsize=8)
def segments_here(device: torch.device, dtype: torch.dtype) -> tuple[Varlen | None, str]:
    """(the kernel over lengths, or None for padding; the reason)."""
    cuda = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else (0, 0)
    varlen = torch_varlen()
    chosen, why = choose_segments(device, dtype, capability, varlen)
    return varlen if chosen == "varlen" else None, why


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys each column of a forward sees.

    Each of the first `causal` columns sees those before it; `mask_causal` (additive, [B or 1, 1,
    causal, causal]) gives the rule where it is a different one. The columns after them see all keys
    that `mask` admits (additive, [B or 1, 1, columns, keys]); None without such columns.
    """

    causal: int
    mask_causal: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def attend_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visibility: Visibility,
    scale: float,
    sharing: Sharing = "grouped",
) -> torch.Tensor:
    """query [B, heads, T, D], key and value [B, kv heads, keys, D] -> [B, T, heads * D].

    Columns are causal, or masked, or causal ones followed by masked ones.
    """
    if sharing == "repeated":
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    first, found = visibility.causal, []
    if first:
        known = visibility.mask_causal
        front = (query[:, :, :first], key[:, :, :first], value[:, :, :first])
        found.append(_product(*front, known, scale, causal=known is None))
    if visibility.mask is not None:
        found.append(_behind(query[:, :, first:], key, value, visibility.mask, scale))
    out = found[0] if len(found) == 1 else torch.cat(found, dim=2)
    return out.transpose(1, 2).flatten(2)


def _behind(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    batch, heads, columns, size = query.shape
    groups = heads // key.shape[1]
    if groups == 1 or (columns > 1 and query.device.type != "cuda"):
        return _product(query, key, value, mask, scale)
    if columns > FOLDED_COLUMNS:
        # On a GPU no fast kernel takes both a mask and grouped heads.
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return _product(query, key, value, mask, scale)
    return folded(query, key, value, mask, scale)


def folded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Heads that share a key head become further queries of it, which every kernel takes; `mask` [B
    or 1, 1, columns, keys] is the same for all of them."""
    batch, heads, columns, size = query.shape
    shared = key.shape[1]
    rows = query.reshape(batch, shared, -1, size)
    if columns > 1:
        mask = mask.repeat(1, 1, heads // shared, 1)
    return _product(rows, key, value, mask, scale).view(batch, heads, columns, size)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    segments: tuple[Segments, Segments] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for an encoder: [1, heads, queries, D] -> [1, queries, heads, D].

    `segments` (whole images or chunks, windows) marks the packed sequence; modules whose `windowed`
    is true attend within windows. Raises ValueError without segments, because the library's own
    text stack is not used.
    """
    if segments is None or attention_mask is not None:
        raise ValueError(f"{NAME} is for the packed sequences of encoders")
    chosen = segments[1] if getattr(module, "windowed", False) else segments[0]
    varlen = segments_here(query.device, query.dtype)[0]
    return within_segments(query, key, value, chosen, scaling, varlen), None


def _product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    causal: bool = False,
) -> torch.Tensor:
    """torch's scaled-dot-product attention, by a kernel that works with the current settings."""
    grouped = query.shape[1] != key.shape[1]
    if _FLASH_RAISES and query.device.type == "cpu" and query.dtype != torch.float32:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(
                query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped
            )
    return F.scaled_dot_product_attention(
        query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped
    )


def within_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    varlen: Varlen | None = None,
) -> torch.Tensor:
    """[1, queries, heads, D] of [1, heads, queries, D]. Runs of equal length become a batch for any
    kernel; other runs go to `varlen` or are padded."""
    if varlen is not None and segments.bounds is not None:
        packed = (x[0].transpose(0, 1) for x in (query, key, value))
        bounds, longest = segments.bounds, segments.longest
        return varlen(*packed, bounds, bounds, longest, longest, scale=scaling).unsqueeze(0)
    shape = (segments.count, segments.longest, query.shape[1], query.shape[3])

    def block(packed: torch.Tensor) -> torch.Tensor:
        sequence = packed[0].transpose(0, 1)
        if segments.pad is not None:
            sequence = sequence.index_select(0, segments.pad)
        return sequence.reshape(shape).transpose(1, 2)

    out = _product(block(query), block(key), block(value), segments.mask, scaling)
    flat = out.transpose(1, 2).reshape(-1, shape[2], shape[3])
    if segments.unpad is not None:
        flat = flat.index_select(0, segments.unpad)
    return flat.unsqueeze(0)
