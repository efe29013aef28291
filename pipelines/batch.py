"""One padded batch: exactly what the forward and the heads read.

It contains every index that the encoders would otherwise compute on the device, with a host sync
each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from pipelines.models.geometry import Ints
from pipelines.types import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Segments:
    """Runs of a packed sequence that attend only within themselves.

    Runs of equal length need no indices. Otherwise `pad` [count*longest] gathers them into a padded
    block, `unpad` [sequence] reverses that, and `mask` is bool [count, 1, 1, longest]. `bounds` i32
    [count + 1] has where each begins, and the end of the last, for a kernel that needs no padding.
    """

    count: int
    longest: int
    pad: torch.Tensor | None = None
    unpad: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    bounds: torch.Tensor | None = None

    @staticmethod
    def of(lengths: Ints) -> Segments:
        count, longest = len(lengths), int(lengths.max())
        if (lengths == longest).all():
            return Segments(count, longest)
        starts = np.cumsum(lengths) - lengths
        within = np.arange(longest)
        valid = within < lengths[:, None]
        pad = np.where(valid, starts[:, None] + within, 0)
        return Segments(
            count=count,
            longest=longest,
            pad=torch.from_numpy(pad.reshape(-1)),
            unpad=torch.from_numpy(np.flatnonzero(valid)),
            mask=torch.from_numpy(valid[:, None, None, :]),
            bounds=torch.from_numpy(np.append(starts, lengths.sum()).astype(np.int32)),
        )


@dataclass(frozen=True, slots=True)
class Images:
    """Every image of the batch: `patches` f32 or uint8 [P, values], `grids` i64 [images, 3].

    `positions` i64 [P, 2]; `window_index` i64 [merged tokens]; `target` i64 [merged tokens] is the
    flat index (row * columns + column) of each embedding.
    """

    patches: torch.Tensor
    grids: torch.Tensor
    positions: torch.Tensor
    window_index: torch.Tensor
    full: Segments
    windowed: Segments
    target: torch.Tensor


@dataclass(frozen=True, slots=True)
class Sounds:
    """Every sound of the batch, cut in chunks: `chunks` f32 [chunks, mel bins, frames].

    `frames` i64 [sounds], `chunk_frames` i64 [chunks]; `valid` and `pool` are the encoder's own
    gather indices, `pool` empty where nothing is pooled; `target` i64 as in Images.
    """

    chunks: torch.Tensor
    frames: torch.Tensor
    chunk_frames: torch.Tensor
    valid: torch.Tensor
    pool: torch.Tensor
    full: Segments
    target: torch.Tensor


@dataclass(frozen=True, slots=True)
class LabelTrees:
    """One tree of labels for each row, padded to `columns`: the inputs, and where to read the
    scores.

    tokens i64 [B, columns], positions i64 [3, B, columns], ancestors bool [B, columns, columns].
    `sources` i64 [S] are flat indices of the hidden states whose next-token distribution is read:
    row * (1 + columns) + 0 for the last prompt token, + 1 + column for a label column. Edge e reads
    distribution `edge_source[e]` at token `edge_target[e]`. `paths` i64 [B, K, longest] lists each
    label's edges, padded with the number of edges; `labels` bool [B, K] is false where a row has
    fewer.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    ancestors: torch.Tensor
    sources: torch.Tensor
    edge_source: torch.Tensor
    edge_target: torch.Tensor
    paths: torch.Tensor
    labels: torch.Tensor

    @property
    def columns(self) -> int:
        return self.tokens.shape[1]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows ready for one forward. prompt_ids i64 [B, P], of which the first `lengths` [B] are real.

    positions i64 [3, B, P]. `packed`: the only element of `label_trees` follows the prompts in the
    same forward; otherwise each element is a forward of its own after the cached prompts.
    `following` i64 [B] is the rotary position after the prompt. With several `label_trees`,
    `label_places` i64 [B, K] maps a row's labels to the concatenated scores (-1: none).
    """

    ids: tuple[str, ...]
    tasks: tuple[Task, ...]
    label_counts: tuple[int, ...]
    prompt_lengths: tuple[int, ...]  # `lengths` on the host
    prompt_ids: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor
    following: torch.Tensor
    images: Images | None
    sounds: Sounds | None
    label_trees: tuple[LabelTrees, ...]
    packed: bool
    label_places: torch.Tensor | None

    @property
    def rows(self) -> int:
        return self.prompt_ids.shape[0]

    @property
    def prompt_columns(self) -> int:
        return self.prompt_ids.shape[1]

    @property
    def columns(self) -> int:
        return self.prompt_columns + (self.label_trees[0].columns if self.packed else 0)


def mapped(value: T, change: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """The same nested dataclasses and tuples, with `change` applied to every tensor."""
    result: Any = value
    if isinstance(value, torch.Tensor):
        result = change(value)
    elif isinstance(value, tuple):
        result = tuple(mapped(item, change) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        named = {f.name: mapped(getattr(value, f.name), change) for f in fields(value)}
        result = type(value)(**named)
    kept: T = result
    return kept
