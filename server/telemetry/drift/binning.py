"""Counts rows into cells, all features at once. The writer thread does this with every batch.

A `Block` is one flat array with the counts of every feature of one slice and hour, so a batch costs
one bincount a slice. Blocks add up exactly in any order (see Profile).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.bin_search import BinSearch
from server.telemetry.drift.profile import Floats, Ints, Profile, Reference
from server.telemetry.drift.scores import Kinds, kind_of

EXTRA = 3  # cells after the feature's own ones: missing, nonfinite, absent
STEP_LIMIT = 2.0**20  # values further out are clipped, as in pipelines/build/reference_profile.py

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BinnedRows:
    """The cells of a batch: `flat` [rows, features] indexes the counts of a block. Where there is
    no finite number, `steps` is 0 and `values` is NaN."""

    flat: Ints
    steps: Floats
    values: Floats


class BinLayout:
    """The places of the cells of each feature of one stamp in a flat block."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.sizes = np.array([len(f.counts) for f in reference.features], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes + EXTRA)])
        self.total = int(self.offsets[-1])
        self._cells = BinSearch(reference.features, self.offsets[:-1])
        self._after = self.offsets[:-1] + self.sizes  # missing; then nonfinite, absent
        self._centres = np.array([f.centre for f in reference.features])
        self._steps = np.array([f.step for f in reference.features])
        self._measured = np.array([not f.categorical for f in reference.features])
        self._pad()
        self._contrast()

    def code(self, matrix: NDArray[np.float32], expected: Bools) -> BinnedRows:
        """`matrix` is [rows, features]; NaN means no value. `expected` has the same shape and is
        True where the request has the modality that the feature measures: a NaN there counts as
        missing, a NaN elsewhere as absent."""
        finite, nan = np.isfinite(matrix), np.isnan(matrix)
        none = np.where(nan, np.where(expected, self._after, self._after + 2), self._after + 1)
        flat = np.where(finite, self._cells.places(matrix), none)
        values = np.where(finite, matrix, np.nan).astype(np.float64)
        steps = np.clip((values - self._centres) / self._steps, -STEP_LIMIT, STEP_LIMIT)
        steps = np.where(finite & self._measured, np.rint(steps), 0.0)
        return BinnedRows(flat, steps, values)

    def block(self) -> Block:
        return Block(self.total, len(self.sizes))

    def gather(self, flat: Ints) -> tuple[Ints, Ints]:
        """Converts flat counts [rows, total] to cells [rows, features, cells] and merged groups
        [rows, features, groups], both padded with zeros."""
        padded = np.concatenate([flat, np.zeros((len(flat), 1), dtype=np.int64)], axis=1)
        groups = np.zeros((len(flat), self.kinds.valid.size + 1), dtype=np.int64)
        for row, counts in zip(groups, flat, strict=True):
            row += np.bincount(self._group_of, counts, len(row)).astype(np.int64)
        shape = (len(flat), *self.kinds.valid.shape)
        return padded[:, self._cell_at], groups[:, :-1].reshape(shape)

    def halves(self, flat: Ints) -> Floats:
        """For flat counts [rows, total], the mean of the two contrasts of `halves` under the
        reference distribution of each feature: [2, rows, features], 0 without rows."""
        starts = self.offsets[:-1]
        n = np.add.reduceat(np.where(self._own, flat, 0), starts, axis=1)
        sums = [np.add.reduceat(flat * half, starts, axis=1) for half in self._halves]
        return np.stack(sums) / np.maximum(n, 1)

    def _contrast(self) -> None:
        self._halves = np.zeros((2, self.total))
        self._own = np.zeros(self.total, dtype=bool)
        for position, feature in enumerate(self.reference.features):
            start = self.offsets[position]
            cells = slice(start, start + self.sizes[position])
            self._own[cells] = True
            if feature.n:
                self._halves[:, cells] = halves(feature.counts)

    def _pad(self) -> None:
        features = self.reference.features
        wide = int(max(f.groups.max() for f in features)) + 1
        cells = np.arange(int(self.sizes.max()))
        inside = cells < self.sizes[:, None]
        self._cell_at = np.where(inside, self.offsets[:-1, None] + cells, self.total)
        valid = np.zeros((len(features), wide), dtype=bool)
        self._group_of = np.full(self.total, len(features) * wide, dtype=np.int64)
        for position, feature in enumerate(features):
            valid[position, : int(feature.groups.max()) + 1] = True
            start = self.offsets[position]
            self._group_of[start : start + len(feature.groups)] = position * wide + feature.groups
        kinds = np.array([kind_of(f) for f in features], dtype=bool)
        self.kinds = Kinds(valid, kinds[:, 0], kinds[:, 1])

    def counts(self, block: Block, position: int) -> Ints:
        start = self.offsets[position]
        return block.counts[start : start + self.sizes[position]]

    def extras(self, block: Block, position: int) -> tuple[int, int, int]:
        """missing, nonfinite, absent"""
        start = self.offsets[position] + self.sizes[position]
        missing, nonfinite, absent = block.counts[start : start + EXTRA]
        return int(missing), int(nonfinite), int(absent)

    def profile(self, block: Block, position: int) -> Profile:
        missing, nonfinite, absent = self.extras(block, position)
        total, squares, low, high = block.moments[:, position]
        counts = self.counts(block, position).astype(np.int64)
        return Profile(counts, missing, nonfinite, absent, total, squares, low, high)

    def restore(self, block: Block, position: int, profile: Profile) -> None:
        """Puts a stored profile back into a block."""
        start = self.offsets[position]
        size = self.sizes[position]
        block.counts[start : start + size] = profile.counts
        block.counts[start + size : start + size + EXTRA] = (
            profile.missing,
            profile.nonfinite,
            profile.absent,
        )
        block.moments[:, position] = profile.sum, profile.sum_squares, profile.min, profile.max


class Block:
    """Counts of all features. `moments` holds each feature's sum and sum of squares, in steps, and
    its minimum and maximum."""

    __slots__ = ("counts", "moments", "rows")

    def __init__(self, cells: int, features: int) -> None:
        self.rows = 0
        self.counts: NDArray[np.int64] = np.zeros(cells, dtype=np.int64)
        self.moments: Floats = np.zeros((4, features))
        self.moments[2], self.moments[3] = np.inf, -np.inf

    def add(self, coded: BinnedRows, inside: Bools | Ints | slice) -> Ints:
        """Counts the rows of a batch that `inside` selects; returns the counts it added."""
        flat, steps, values = coded.flat[inside], coded.steps[inside], coded.values[inside]
        added = np.bincount(flat.ravel(), minlength=len(self.counts))
        if not len(flat):
            return added
        self.rows += len(flat)
        self.counts += added
        self.moments[0] += steps.sum(axis=0)
        self.moments[1] += (steps * steps).sum(axis=0)
        np.fmin(self.moments[2], np.fmin.reduce(values, axis=0), out=self.moments[2])
        np.fmax(self.moments[3], np.fmax.reduce(values, axis=0), out=self.moments[3])
        return added

    def merge(self, other: Block) -> None:
        self.rows += other.rows
        self.counts += other.counts
        self.moments[:2] += other.moments[:2]
        np.minimum(self.moments[2], other.moments[2], out=self.moments[2])
        np.maximum(self.moments[3], other.moments[3], out=self.moments[3])


def halves(counts: Ints) -> Floats:
    """Two contrasts of the counted rows [2, cells]: +1 and -1 for the lower and the upper half, and
    for the outer and the inner half, scaled to mean 0 and variance 1 (as in
    pipelines/build/calibration.py). Both are 0 if all rows are in one cell."""
    shares = counts / counts.sum()
    middle = np.cumsum(shares) - shares / 2
    scores = np.sign(np.cos(np.pi * np.outer((1, 2), middle)))
    scores -= (scores * shares).sum(axis=1, keepdims=True)
    spread = np.sqrt((scores**2 * shares).sum(axis=1, keepdims=True))
    return scores / np.where(spread > 1e-9, spread, np.inf)
