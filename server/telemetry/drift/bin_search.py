"""Which cell each value of a batch falls into, all features in one search.

A float32 and its feature make one whole number that orders first by feature, then by value, so that
the edges of all features are one sorted row. One search a batch instead of one a feature: it is a
tenth of the time, and numpy gives the interpreter to the event loop while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.profile import FeatureReference, Floats, Ints

FEATURE_BITS = np.uint64(32)


class BinSearch:
    """`starts` are the places of each feature's first cell in a flat block."""

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
        """Place in a flat block of each of [rows, features]; means nothing where the value is not
        finite."""
        keys = self._keys | _ordered(values)
        return self._places[np.searchsorted(self._bounds, keys, side="right")]


def _edges_and_cells(feature: FeatureReference) -> tuple[Floats, Ints]:
    """Edges of a feature, and the cell of what lies below the first, between two, above the
    last."""
    if not feature.categorical:
        return feature.edges, np.arange(len(feature.edges) + 1)
    known = len(feature.counts) - 1  # below 0 and from `known` on: a new category
    return np.arange(known + 1.0), np.concatenate([[known], np.arange(known + 1)])


def _key(position: int | Ints) -> NDArray[np.uint64]:
    return np.asarray(position, dtype=np.uint64) << FEATURE_BITS


def _rounded_up(edges: Floats) -> NDArray[np.float32]:
    """The smallest float32 not below each: a float32 reaches one when it reaches the other."""
    with np.errstate(over="ignore"):
        near = edges.astype(np.float32)
    return np.where(near < edges, np.nextafter(near, np.float32(np.inf)), near)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Whole numbers in the order of the values: all bits of a negative are turned, of others the
    sign alone; -0 is 0."""
    bits = np.ascontiguousarray(values + np.float32(0.0)).view(np.uint32)
    turned = (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return bits ^ turned
