"""Finds the cell of each value of a batch, with one search for all features.

A feature number and a float32 combine to one integer that sorts by feature first and by value
second, so the edges of all features form one sorted array. One search for a batch takes a tenth of
the time of one search for each feature, and numpy releases the interpreter lock while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.profile import FeatureReference, Floats, Ints

FEATURE_BITS = np.uint64(32)


class BinSearch:
    """`starts` holds the place of each feature's first cell in a flat block."""

    def __init__(self, features: Sequence[FeatureReference], starts: Ints) -> None:
        bounds, places = [], [np.zeros(1, dtype=np.int64)]
        for position, (feature, start) in enumerate(zip(features, starts, strict=True)):
            edges, cells = _edges_and_cells(feature)
            # Below every finite value: no two features share a place.
            first = np.array([_key(position)], dtype=np.uint64)
            bounds += [first, _key(position) | _ordered(_rounded_up(edges)).astype(np.uint64)]
            places.append(start + cells)
        self._bounds = np.concatenate(bounds)
        self._places = np.concatenate(places)
        self._keys = _key(np.arange(len(features)))

    def places(self, values: NDArray[np.float32]) -> Ints:
        """The place of each value [rows, features] in a flat block; arbitrary for values that are
        not finite."""
        keys = self._keys | _ordered(values)
        return self._places[np.searchsorted(self._bounds, keys, side="right")]


def _edges_and_cells(feature: FeatureReference) -> tuple[Floats, Ints]:
    """The edges of a feature, and the cell numbers below the first edge, between two edges, and
    above the last."""
    if not feature.categorical:
        return feature.edges, np.arange(len(feature.edges) + 1)
    known = len(feature.counts) - 1  # below 0 and from `known` on: a new category
    return np.arange(known + 1.0), np.concatenate([[known], np.arange(known + 1)])


def _key(position: int | Ints) -> NDArray[np.uint64]:
    return np.asarray(position, dtype=np.uint64) << FEATURE_BITS


def _rounded_up(edges: Floats) -> NDArray[np.float32]:
    """The smallest float32 at or above each edge: comparing a float32 with it gives the same result
    as comparing with the edge."""
    with np.errstate(over="ignore"):
        near = edges.astype(np.float32)
    return np.where(near < edges, np.nextafter(near, np.float32(np.inf)), near)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Integers that sort like the values: all bits of a negative value are inverted, of the others
    only the sign bit; -0 becomes 0."""
    bits = np.ascontiguousarray(values + np.float32(0.0)).view(np.uint32)
    turned = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return bits ^ turned
