"""Prepared rows to one padded batch, on the CPU, without a Python loop over tokens.

- prompts are padded on the left, so every row's last prompt token is in the same column;
- label branches of a row follow its prompt; which column sees which is `BranchColumns.ancestors`;
- every index the encoders would work out on the device (with a host sync each) is worked out here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from pipelines.audio import audio_tokens
from pipelines.branches import MAX_COLUMNS, Tokens, Tree, groups
from pipelines.geometry import Geometry, Ints, patch_positions, prompt_positions, windows
from pipelines.types import Prepared, Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Segments:
    """Runs of a packed sequence that attend only within themselves.

    Equal runs need no indices. Else `pad` [count*longest] gathers them into a padded block,
    `unpad` [sequence] brings the answers back and `mask` is bool [count, 1, 1, longest].
    """

    count: int
    longest: int
    pad: torch.Tensor | None = None
    unpad: torch.Tensor | None = None
    mask: torch.Tensor | None = None

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
        )


@dataclass(frozen=True, slots=True)
class Images:
    """Every image of the batch: `patches` f32 [P, values], `grids` i64 [images, 3].

    `positions` i64 [P, 2]; `window_index` i64 [merged tokens]; `target` i64 [merged tokens] is the
    flat place (row * columns + column) of each embedding.
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
    gather indices; `target` i64 as in Images.
    """

    chunks: torch.Tensor
    frames: torch.Tensor
    chunk_frames: torch.Tensor
    valid: torch.Tensor
    pool: torch.Tensor
    full: Segments
    target: torch.Tensor


@dataclass(frozen=True, slots=True)
class BranchColumns:
    """One tree of labels a row, padded to `columns`: inputs, and how scores come out of them.

    tokens i64 [B, columns], positions i64 [3, B, columns], ancestors bool [B, columns, columns].
    `sources` i64 [S] are the flat hidden places (row * (1 + columns) + (0 for the last prompt
    token, 1 + column)) whose next-token distribution is wanted; edge e reads `edge_source[e]` of
    those and the token `edge_target[e]`; `paths` i64 [B, K, longest] lists each label's edges,
    padded with the number of edges; `labels` bool [B, K] is false where a row has fewer.
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
    """Rows ready for one forward. prompt_ids i64 [B, P], left padded from column 0 to `starts` [B].

    positions i64 [3, B, P]. `packed`: the only element of `branches` goes behind the prompts in
    the same forward; else each element is a forward of its own behind the cached prompts.
    `following` i64 [B] is the rotary position after the prompt. With several branches
    `label_places` i64 [B, K] finds a row's labels among all scores side by side (-1: none).
    """

    ids: tuple[str, ...]
    tasks: tuple[Task, ...]
    label_counts: tuple[int, ...]
    prompt_ids: torch.Tensor
    starts: torch.Tensor
    positions: torch.Tensor
    following: torch.Tensor
    images: Images | None
    sounds: Sounds | None
    branches: tuple[BranchColumns, ...]
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
        return self.prompt_columns + (self.branches[0].columns if self.packed else 0)


def mapped(value: T, change: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """The same nest of dataclasses and tuples with `change` applied to every tensor."""
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


def collate(
    rows: Sequence[Prepared],
    verbalisers: Callable[[Prepared], Sequence[Tokens]],
    geometry: Geometry,
    max_columns: int = MAX_COLUMNS,
) -> Batch:
    """`verbalisers(row)` gives the token ids of each label to score, () for none.

    Raises ValueError when media tokens and media disagree, or a label set cannot be scored.
    """
    labels = [tuple(verbalisers(row)) for row in rows]
    width = max(len(row.input_ids) for row in rows)
    prompt_ids = np.full((len(rows), width), geometry.pad_token, dtype=np.int64)
    positions = np.zeros((3, len(rows), width), dtype=np.int64)
    starts = np.array([width - len(row.input_ids) for row in rows], dtype=np.int64)
    for number, row in enumerate(rows):
        prompt_ids[number, starts[number] :] = row.input_ids
        found = prompt_positions(row.input_ids, row.image_grid, geometry)
        positions[:, number, starts[number] :] = found
    following = positions.max(axis=(0, 2)) + 1
    branches = _branches(labels, following, max_columns)
    packed = len(branches) == 1
    columns = width + (branches[0].columns if packed else 0)
    return Batch(
        ids=tuple(row.id for row in rows),
        tasks=tuple(row.task for row in rows),
        label_counts=tuple(map(len, labels)),
        prompt_ids=torch.from_numpy(prompt_ids),
        starts=torch.from_numpy(starts),
        positions=torch.from_numpy(positions),
        following=torch.from_numpy(following),
        images=_images(rows, _flat(prompt_ids == geometry.image_token, columns), geometry),
        sounds=_sounds(rows, _flat(prompt_ids == geometry.audio_token, columns), geometry),
        branches=branches,
        packed=packed,
        label_places=_label_places(branches) if len(branches) > 1 else None,
    )


def _flat(places: np.ndarray[Any, np.dtype[np.bool_]], columns: int) -> Ints:
    row, column = np.nonzero(places)
    return row * columns + column


def _images(rows: Sequence[Prepared], target: Ints, geometry: Geometry) -> Images | None:
    grids = [grid for row in rows for grid in row.image_grid]
    patches = [row.pixel_values for row in rows if row.pixel_values is not None]
    _agree("image", len(target), sum(map(geometry.image_tokens, grids)))
    if not grids:
        return None
    merge, offset = geometry.merge, 0
    orders, window_lengths = [], []
    for grid in grids:
        order, lengths = windows(grid, merge, geometry.window)
        orders.append(order + offset)
        window_lengths.append(lengths)
        offset += len(order)
    frames = np.array([h * w for t, h, w in grids for _ in range(t)], dtype=np.int64)
    full = Segments.of(frames)
    tiles = np.concatenate(window_lengths) * merge**2
    return Images(
        patches=patches[0] if len(patches) == 1 else torch.cat(patches),
        grids=torch.tensor(grids, dtype=torch.int64),
        positions=torch.from_numpy(np.concatenate([patch_positions(g, merge) for g in grids])),
        window_index=torch.from_numpy(np.concatenate(orders)),
        full=full,
        windowed=Segments.of(tiles) if geometry.window else full,
        target=torch.from_numpy(target),
    )


def _sounds(rows: Sequence[Prepared], target: Ints, geometry: Geometry) -> Sounds | None:
    mels = [mel for row in rows for mel in row.log_mels]
    frames = np.array([mel.shape[1] for mel in mels], dtype=np.int64)
    _agree("audio", len(target), sum(map(audio_tokens, frames.tolist())))
    if not mels:
        return None
    pieces = [piece for mel in mels for piece in torch.split(mel, geometry.audio_chunk, dim=1)]
    chunk_frames = np.array([piece.shape[1] for piece in pieces], dtype=np.int64)
    longest = int(chunk_frames.max())
    chunks = torch.zeros(len(pieces), mels[0].shape[0], longest)
    for number, piece in enumerate(pieces):
        chunks[number, :, : piece.shape[1]] = piece
    conv = _after_convolution(chunk_frames)
    places = np.arange(conv.max())
    return Sounds(
        chunks=chunks,
        frames=torch.from_numpy(frames),
        chunk_frames=torch.from_numpy(chunk_frames),
        valid=torch.from_numpy(np.flatnonzero(places < conv[:, None])),
        pool=torch.from_numpy(_pool_index(frames)),
        full=Segments.of(conv),
        target=torch.from_numpy(target),
    )


def _after_convolution(frames: Ints) -> Ints:
    """Positions left of mel frames by the encoder's stride-2 convolution."""
    return (frames - 1) // 2 + 1


def _pool_index(frames: Ints) -> Ints:
    """First of each pair the audio encoder averages; pairs run through a sound's chunks."""
    conv = _after_convolution(frames)
    starts = np.cumsum(conv) - conv
    pairs = [2 * np.arange(audio_tokens(n)) for n in frames.tolist()]
    return np.concatenate([start + p for start, p in zip(starts, pairs, strict=True)])


def _agree(kind: str, tokens: int, embeddings: int) -> None:
    if tokens != embeddings:
        raise ValueError(f"{tokens} {kind} tokens in the prompts for {embeddings} embeddings")


def _branches(
    labels: Sequence[tuple[Tokens, ...]], following: Ints, max_columns: int
) -> tuple[BranchColumns, ...]:
    grouped = [groups(row, max_columns) if row else () for row in labels]
    empty = groups((), max_columns)[0]
    forwards = max(map(len, grouped), default=0)
    return tuple(
        _branch_columns([g[n] if n < len(g) else empty for g in grouped], following)
        for n in range(forwards)
    )


def _label_places(branches: Sequence[BranchColumns]) -> torch.Tensor:
    real = torch.cat([found.labels for found in branches], dim=1).numpy()
    counts = real.sum(axis=1)
    places = np.full((len(real), counts.max()), -1, dtype=np.int64)
    # Both sides in row-major order: the n-th real score of a row is its n-th label.
    places[np.arange(counts.max()) < counts[:, None]] = np.nonzero(real)[1]
    return torch.from_numpy(places)


def _branch_columns(trees: Sequence[Tree], following: Ints) -> BranchColumns:
    """Stacks one tree a row; trees are cached, so the work here is a few copies a row."""
    rows, columns = len(trees), max(tree.columns for tree in trees)
    most = max(len(tree.paths) for tree in trees)
    longest = max(tree.paths.shape[1] for tree in trees)
    edges = sum(tree.edges for tree in trees)
    tokens = np.zeros((rows, columns), dtype=np.int64)
    depth = np.zeros((rows, columns), dtype=np.int64)
    ancestors = np.zeros((rows, columns, columns), dtype=np.bool_)
    ancestors[:, np.arange(columns), np.arange(columns)] = True  # padding sees itself: no NaN
    paths = np.full((rows, most, longest), edges, dtype=np.int64)
    labels = np.zeros((rows, most), dtype=np.bool_)
    flat_source = np.empty(edges, dtype=np.int64)
    done = 0
    for row, tree in enumerate(trees):
        n, k = tree.columns, len(tree.paths)
        tokens[row, :n], depth[row, :n] = tree.tokens, tree.depth - 1
        ancestors[row, :n, :n] = tree.ancestors
        end_of_path = tree.paths == tree.edges
        paths[row, :k, : tree.paths.shape[1]] = np.where(end_of_path, edges, tree.paths + done)
        labels[row, :k] = True
        flat_source[done : done + tree.edges] = row * (1 + columns) + 1 + tree.source
        done += tree.edges
    sources, edge_source = np.unique(flat_source, return_inverse=True)
    return BranchColumns(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(
            np.broadcast_to(following[:, None] + depth, (3, rows, columns)).copy()
        ),
        ancestors=torch.from_numpy(ancestors),
        sources=torch.from_numpy(sources),
        edge_source=torch.from_numpy(edge_source),
        edge_target=torch.from_numpy(np.concatenate([tree.target for tree in trees])),
        paths=torch.from_numpy(paths),
        labels=torch.from_numpy(labels),
    )
