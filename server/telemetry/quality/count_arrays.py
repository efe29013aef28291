"""Quality counts of many rows at once, and their form as bytes for the store."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.profile import Floats, Ints
from server.telemetry.quality.estimates import QualityCounts, Yardstick

_ARRAYS = ("n", "confidence", "labelled", "labelled_confidence", "correct", "predicted")


def add_answers(
    counts: QualityCounts,
    places: Ints,
    confidence: Floats,
    predicted: Ints,
) -> None:
    """Adds rows, given by reliability bin, confidence and index of the predicted label."""
    bins = counts.bins
    counts.n += np.bincount(places, minlength=bins)
    counts.confidence += np.bincount(places, confidence, bins)
    cells = np.bincount(predicted * bins + places, minlength=(counts.size + 1) * bins)
    counts.predicted += cells.reshape(counts.size + 1, bins)


def packed(counts: QualityCounts) -> bytes:
    """All sums and the kept delays, compressed."""
    parts: list[NDArray[np.float64]] = [
        *(np.asarray(getattr(counts, name), dtype="<f8").ravel() for name in _ARRAYS),
        counts.confusion.astype("<f8").ravel(),
        np.array([counts.value, counts.valued, *counts.delays], dtype="<f8"),
    ]
    return zlib.compress(np.concatenate(parts).tobytes(), 1)


def unpacked(blob: bytes, stick: Yardstick) -> QualityCounts:
    """The counts. Raises ValueError when the bytes do not fit this yardstick."""
    counts = QualityCounts.of(stick)
    try:
        values = np.frombuffer(zlib.decompress(blob), dtype="<f8")
    except zlib.error as fault:
        raise ValueError(str(fault)) from fault
    at = 0
    for name in _ARRAYS:
        array = getattr(counts, name)
        array[...] = values[at : at + array.size].reshape(array.shape)
        at += array.size
    size = counts.confusion.size
    counts.confusion[...] = values[at : at + size].reshape(counts.confusion.shape)
    counts.value, counts.valued = float(values[at + size]), int(values[at + size + 1])
    counts.delays = values[at + size + 2 :].tolist()
    return counts
