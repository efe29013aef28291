"""Positions of media tokens: three-axis rotary positions, patch positions, windows; in numpy.

- the numbers equal those that transformers derives on the device with loops and host syncs;
- everything that depends only on an image grid is computed once per grid and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.models.qwen.patches import Grid

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the collator needs to know about a model. `window` is the number of merged tokens on
    each side, 0 = none.

    `audio_chunk` is in mel frames: the audio encoder attends within chunks of that length.
    """

    image_token: int
    audio_token: int
    pad_token: int
    merge: int
    window: int
    audio_chunk: int
    positions_per_second: int
    patch_values: int
    mel_bins: int
    image_block: bool = True  # an image spans a block of rotary positions; otherwise they count up
    audio_convolutions: int = 1  # 1: each halves the frames, then pairs are averaged; 2: no pairs

    @staticmethod
    def of(config: Any) -> Geometry:
        """Reads a transformers thinker config."""
        vision = config.vision_config
        every_layer_full = len(set(vision.fullatt_block_indexes)) >= vision.depth
        window = vision.window_size // vision.spatial_merge_size // vision.patch_size
        return Geometry(
            image_token=config.image_token_id,
            audio_token=config.audio_token_id,
            pad_token=config.text_config.pad_token_id or 0,
            merge=vision.spatial_merge_size,
            window=0 if every_layer_full else window,
            audio_chunk=2 * config.audio_config.n_window,
            positions_per_second=config.position_id_per_seconds,
            patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            mel_bins=config.audio_config.num_mel_bins,
        )

    def image_tokens(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2] // self.merge**2

    def after_convolution(self, frames: Ints) -> Ints:
        """The positions that remain of mel frames after the audio encoder's stride-2
        convolutions."""
        for _ in range(self.audio_convolutions):
            frames = (frames - 1) // 2 + 1
        return frames

    def audio_tokens(self, frames: Ints) -> Ints:
        left = self.after_convolution(frames)
        return (left - 2) // 2 + 1 if self.audio_convolutions == 1 else left


@lru_cache(maxsize=512)
def patch_positions(grid: Grid, merge: int) -> Ints:
    """[patches, 2] row and column of each patch, merge blocks first, as the vision rotary takes
    them."""
    t, h, w = grid
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    blocks = (h // merge, merge, w // merge, merge)
    pair = [a.reshape(blocks).transpose(0, 2, 1, 3).reshape(-1) for a in (rows, columns)]
    return np.tile(np.stack(pair, axis=1), (t, 1)).astype(np.int64)


@lru_cache(maxsize=512)
def windows(grid: Grid, merge: int, window: int) -> tuple[Ints, Ints]:
    """(order of merged tokens that makes windows contiguous, merged tokens in each window)."""
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    index = np.arange(t * h * w, dtype=np.int64).reshape(t, h, w)
    if not window:
        return index.reshape(-1), np.full(t, h * w, dtype=np.int64)
    tiles = [
        index[frame, top : top + window, left : left + window].reshape(-1)
        for frame in range(t)
        for top in range(0, h, window)
        for left in range(0, w, window)
    ]
    return np.concatenate(tiles), np.array([len(tile) for tile in tiles], dtype=np.int64)


@lru_cache(maxsize=512)
def _image_block(grid: Grid, merge: int, positions_per_second: int) -> Ints:
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    frames = np.arange(t, dtype=np.int64) * positions_per_second
    axes = np.meshgrid(frames, np.arange(h), np.arange(w), indexing="ij")
    return np.stack([axis.reshape(-1) for axis in axes]).astype(np.int64)


def prompt_positions(input_ids: Ints, grids: tuple[Grid, ...], geometry: Geometry) -> Ints:
    """[3, tokens] rotary positions: text and sound count up, an image spans its own block.

    After an image the count continues from the block's largest position (Qwen2-VL, section 2.1).
    Raises ValueError when the image tokens do not match the grids.
    """
    if not grids or not geometry.image_block:
        return np.broadcast_to(np.arange(len(input_ids), dtype=np.int64), (3, len(input_ids)))
    at = np.flatnonzero(input_ids == geometry.image_token)
    counts = [geometry.image_tokens(grid) for grid in grids]
    if sum(counts) != len(at):
        raise ValueError(f"{len(at)} image tokens for grids that need {sum(counts)}")
    out = np.empty((3, len(input_ids)), dtype=np.int64)
    done = following = taken = 0
    for grid, count in zip(grids, counts, strict=True):
        start = int(at[taken])
        taken += count
        out[:, done:start] = np.arange(following, following + start - done)
        following += start - done
        block = _image_block(grid, geometry.merge, geometry.positions_per_second) + following
        out[:, start : start + count] = block
        done, following = start + count, int(block.max()) + 1
    out[:, done:] = np.arange(following, following + len(input_ids) - done)
    return out
