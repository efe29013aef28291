"""Turns prepared rows into one padded batch, on the CPU, without a Python loop over tokens.

Prompts are padded on the right, so that causal attention needs no mask. The label trees follow the
padded prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import Batch, Images, LabelTrees, Segments, Sounds
from pipelines.models.geometry import Geometry, Ints, patch_positions, prompt_positions, windows
from pipelines.models.label_tree import MAX_COLUMNS, Tokens, Tree, groups
from pipelines.types import Prepared


def collate(
    rows: Sequence[Prepared],
    verbalisers: Callable[[Prepared], Sequence[Tokens]],
    geometry: Geometry,
    max_columns: int = MAX_COLUMNS,
) -> Batch:
    """`verbalisers(row)` returns the token ids of each label to score, () for none.

    Raises ValueError when media tokens and media disagree, or a label set cannot be scored.
    """
    labels = [tuple(verbalisers(row)) for row in rows]
    width = max(len(row.input_ids) for row in rows)
    prompt_ids = np.full((len(rows), width), geometry.pad_token, dtype=np.int64)
    positions = np.zeros((3, len(rows), width), dtype=np.int64)
    lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
    for number, row in enumerate(rows):
        prompt_ids[number, : lengths[number]] = row.input_ids
        found = prompt_positions(row.input_ids, row.image_grid, geometry)
        positions[:, number, : lengths[number]] = found
    following = positions.max(axis=(0, 2)) + 1
    label_trees = _label_trees(labels, following, max_columns)
    packed = len(label_trees) == 1
    columns = width + (label_trees[0].columns if packed else 0)
    return Batch(
        ids=tuple(row.id for row in rows),
        tasks=tuple(row.task for row in rows),
        label_counts=tuple(map(len, labels)),
        prompt_lengths=tuple(lengths.tolist()),
        prompt_ids=torch.from_numpy(prompt_ids),
        lengths=torch.from_numpy(lengths),
        positions=torch.from_numpy(positions),
        following=torch.from_numpy(following),
        images=_images(rows, _flat(prompt_ids == geometry.image_token, columns), geometry),
        sounds=_sounds(rows, _flat(prompt_ids == geometry.audio_token, columns), geometry),
        label_trees=label_trees,
        packed=packed,
        label_places=_label_places(label_trees) if len(label_trees) > 1 else None,
    )


def _flat(places: NDArray[np.bool_], columns: int) -> Ints:
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
    _agree("audio", len(target), int(geometry.audio_tokens(frames).sum()))
    if not mels:
        return None
    pieces = [piece for mel in mels for piece in torch.split(mel, geometry.audio_chunk, dim=1)]
    chunk_frames = np.array([piece.shape[1] for piece in pieces], dtype=np.int64)
    longest = int(chunk_frames.max())
    chunks = torch.zeros(len(pieces), mels[0].shape[0], longest)
    for number, piece in enumerate(pieces):
        chunks[number, :, : piece.shape[1]] = piece
    conv = geometry.after_convolution(chunk_frames)
    places = np.arange(conv.max())
    return Sounds(
        chunks=chunks,
        frames=torch.from_numpy(frames),
        chunk_frames=torch.from_numpy(chunk_frames),
        valid=torch.from_numpy(np.flatnonzero(places < conv[:, None])),
        pool=torch.from_numpy(_pool_index(frames, geometry)),
        full=Segments.of(conv),
        target=torch.from_numpy(target),
    )


def _pool_index(frames: Ints, geometry: Geometry) -> Ints:
    """The first of each pair of frames that the audio encoder averages; a pair may span two
    chunks."""
    if geometry.audio_convolutions > 1:
        return np.zeros(0, dtype=np.int64)  # this encoder averages no pairs
    conv = geometry.after_convolution(frames)
    starts = np.cumsum(conv) - conv
    pairs = [2 * np.arange(n) for n in geometry.audio_tokens(frames).tolist()]
    return np.concatenate([start + p for start, p in zip(starts, pairs, strict=True)])


def _agree(kind: str, tokens: int, embeddings: int) -> None:
    if tokens != embeddings:
        raise ValueError(f"{tokens} {kind} tokens in the prompts for {embeddings} embeddings")


def _label_trees(
    labels: Sequence[tuple[Tokens, ...]], following: Ints, max_columns: int
) -> tuple[LabelTrees, ...]:
    grouped = [groups(row, max_columns) if row else () for row in labels]
    empty = groups((), max_columns)[0]
    forwards = max(map(len, grouped), default=0)
    return tuple(
        _stacked_trees([g[n] if n < len(g) else empty for g in grouped], following)
        for n in range(forwards)
    )


def _label_places(label_trees: Sequence[LabelTrees]) -> torch.Tensor:
    real = torch.cat([found.labels for found in label_trees], dim=1).numpy()
    counts = real.sum(axis=1)
    places = np.full((len(real), counts.max()), -1, dtype=np.int64)
    # Both sides in row-major order: the n-th real score of a row is its n-th label.
    places[np.arange(counts.max()) < counts[:, None]] = np.nonzero(real)[1]
    return torch.from_numpy(places)


def _stacked_trees(trees: Sequence[Tree], following: Ints) -> LabelTrees:
    """Stacks one tree for each row. Trees are cached, so this only copies."""
    rows, columns = len(trees), max(tree.columns for tree in trees)
    most = max(len(tree.paths) for tree in trees)
    longest = max(tree.paths.shape[1] for tree in trees)
    edges = sum(tree.edges for tree in trees)
    tokens = np.zeros((rows, columns), dtype=np.int64)
    depth = np.zeros((rows, columns), dtype=np.int64)
    ancestors = np.zeros((rows, columns, columns), dtype=np.bool_)
    ancestors[:, np.arange(columns), np.arange(columns)] = (
        True  # padding attends to itself, which avoids NaN
    )
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
    return LabelTrees(
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
