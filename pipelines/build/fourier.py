"""The random Fourier mean of the embedding: an additive vector that shifts with the embedding.

Rahimi and Recht (2007): the squared distance of two such means estimates the kernel distance (MMD)
of Gretton et al. (2012) between two samples. Unlike a permutation test, it adds up over hours.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 256
SEED = 1847
STEPS = 2.0**20  # cosines are rounded to whole steps of this size, so that sums are exact
MIN_ROWS = 500
WINDOW_ROWS = (250, 1000, 4000)


class FeatureLike(Protocol):
    """The fields of `pipelines.features.Feature`, which imports more than this needs."""

    @property
    def name(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def categories(self) -> tuple[str, ...]: ...


def fourier_reference(
    values: NDArray[np.float32], schema: Sequence[FeatureLike]
) -> dict[str, Any] | None:
    """The `embedding` entry, over all numeric features of modality "embedding"; None without such
    features.

    Each feature is first centred and scaled by its own mean and sd; the kernel is Gaussian with
    bandwidth sqrt(d). `windows` holds mean and variance of the distance between a window of
    consecutive rows and all the others, in units of the value for independent rows.
    """
    columns = [i for i, s in enumerate(schema) if s.modality == "embedding" and s.kind == "numeric"]
    rows = values[:, columns].astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not columns or len(rows) < MIN_ROWS:
        return None
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation[deviation == 0] = 1.0
    source = np.random.default_rng(SEED)
    scale = np.sqrt(len(columns))
    frequencies = (source.standard_normal((len(columns), DIMENSIONS)) / scale).astype(np.float32)
    phases = (source.random(DIMENSIONS) * 2 * np.pi).astype(np.float32)
    waves = np.cos(((rows - mean) / deviation) @ frequencies.astype(np.float64) + phases)
    steps = np.rint(waves * STEPS)
    return {
        "features": [schema[i].name for i in columns],
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "frequencies": _packed(frequencies),
        "phases": _packed(phases),
        "n": len(rows),
        "sum": [int(s) for s in steps.sum(axis=0)],
        "variance": float(steps.var(axis=0).sum() / STEPS**2),
        "windows": _windows(steps / STEPS),
    }


def _packed(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _windows(waves: NDArray[np.float64]) -> dict[str, Any]:
    total, variance = waves.sum(axis=0), float(waves.var(axis=0).sum())
    found = {}
    for rows in WINDOW_ROWS:
        n = len(waves) // rows
        if n < 2:
            continue
        live = waves[: n * rows].reshape(n, rows, -1).sum(axis=1)
        rest = len(waves) - rows
        squared = ((live / rows - (total - live) / rest) ** 2).sum(axis=1)
        ratio = squared / ((1 / rows + 1 / rest) * variance)
        found[str(rows)] = {"windows": n, "mean": float(ratio.mean()), "var": float(ratio.var())}
    return found
