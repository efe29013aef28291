"""Our scaled-dot-product attention, registered with transformers under one name.

- encoders: all segments of a packed sequence in one call instead of a Python loop;
- text: the mask is ours and already additive, so transformers builds none.

The results equal transformers' "sdpa" (tests/pipelines/test_backbone.py); only the number of calls
differs.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.batch import Segments

NAME = "trefoil_sdpa"
# On a CPU with AVX-512, torch's flash kernel packs half-precision keys, and raises RuntimeError
# ("pack_vnni2 is only supported when avx512 is supported") where the kernels were limited to less.
_FLASH_RAISES = os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2")


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
    """query [B, heads, queries, D], key and value [B, kv heads, keys, D] -> [B, queries, heads, D].

    `segments` (whole images or chunks, windows) marks a packed encoder sequence with B = 1;
    modules whose `windowed` is true attend within windows.
    """
    if segments is not None:
        chosen = segments[1] if getattr(module, "windowed", False) else segments[0]
        return _within_segments(query, key, value, chosen, scaling), None
    batch, heads, queries, _size = query.shape
    groups = heads // key.shape[1]
    if queries == 1 and groups > 1:
        # One query a row: heads that share a key head become its queries, which copies nothing.
        query = query.reshape(batch, key.shape[1], groups, -1)
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = _product(query, key, value, attention_mask, scaling)
    if queries == 1 and groups > 1:
        return out.reshape(batch, 1, heads, -1), None
    return out.transpose(1, 2), None


def _product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """The scaled-dot-product attention of torch, by a kernel that works with the settings here."""
    if _FLASH_RAISES and query.device.type == "cpu" and query.dtype != torch.float32:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scaling)


def _within_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
) -> torch.Tensor:
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
