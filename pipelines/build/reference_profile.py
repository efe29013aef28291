"""Builds reference/profile.json: the distribution of every feature while the model works well.

Pure numpy over a matrix of features in time order; no model, no I/O. The same rows always give the
same file, because the stamp covers it. server/telemetry/drift/profile.py reads the file;
docs/telemetry.md describes its format field by field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.build.calibration import calibrate
from pipelines.build.fourier import FeatureLike, fourier_reference
from pipelines.types import MODALITIES

FORMAT = "trefoil-reference-1"
CELLS = 64  # quantile cells, the two outside the reference range included
GROUPS = 16  # merged cells that KL, JS, PSI and chi-squared are computed on
DISCRETE_VALUES = 16  # a numeric feature with so few values gets a cell for each of them
DISCRETE_ROWS = 50  # ... when it has that many rows per value
RELIABILITY_BINS = 15
SLICE_ROWS = 200  # a slice with fewer reference rows gets no reference
SLICE_LIMIT = 32

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReferenceAnswers:
    """The model's answers to the reference rows, one entry for each row; `truth` "" means that the
    label is not known."""

    confidence: Sequence[float] = ()
    predicted: Sequence[str] = ()
    truth: Sequence[str] = ()
    labels: Sequence[str] = ()


NO_ANSWERS = ReferenceAnswers()


def build(
    matrix: NDArray[Any],
    schema: Sequence[FeatureLike],
    *,
    mixes: Sequence[str] = (),
    slices: Sequence[Mapping[str, str]] = (),
    answers: ReferenceAnswers = NO_ANSWERS,
    importance: Mapping[str, float] | None = None,
    made_from: str = "",
) -> dict[str, Any]:
    """The content of reference/profile.json.

    `matrix` is [rows, features] in time order (the burstiness of the rows is measured from it),
    NaN = absent. `mixes` lists per row which modalities were sent ("audio+text"): a NaN of a
    modality that was sent counts as missing, of one that was not as absent. Raises ValueError on
    shapes that disagree or without rows.
    """
    values = np.asarray(matrix, dtype=np.float32)
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != len(schema):
        raise ValueError(f"features are {values.shape}, wanted [rows > 0, {len(schema)}]")
    for name, column in (("mixes", mixes), ("slices", slices)):
        if len(column) not in (0, len(values)):
            raise ValueError(f"{len(column)} {name} for {len(values)} rows")
    sent: dict[str, NDArray[np.bool_]] = {
        modality: _sent(mixes, modality, len(values)) for modality in MODALITIES
    }
    features, cells = [], []
    for position, spec in enumerate(schema):
        entry, cell = _feature(values[:, position], spec, sent.get(spec.modality))
        entry["importance"] = float((importance or {}).get(spec.name, 1.0))
        features.append(entry)
        cells.append(cell)
    return {
        "format": FORMAT,
        "rows": len(values),
        "made_from": made_from,
        "features": features,
        "slices": _slices(features, cells, slices),
        "embedding": fourier_reference(values, schema),
        "reliability": _reliability(answers),
        "confusion": _confusion(answers),
    }


def _sent(mixes: Sequence[str], modality: str, rows: int) -> NDArray[np.bool_]:
    if not mixes:
        return np.zeros(rows, dtype=bool)  # unknown: every NaN counts as absent
    return np.array([modality in mix.split("+") for mix in mixes], dtype=bool)


def _feature(
    column: NDArray[np.float32], spec: FeatureLike, sent: NDArray[np.bool_] | None
) -> tuple[dict[str, Any], Ints]:
    """The entry of one feature and the cell of each row (-1: no value)."""
    nan = np.isnan(column)
    # A NaN of a modality that was not sent is not information about the feature.
    missing = nan & sent if sent is not None else np.zeros_like(nan)
    finite = column[np.isfinite(column)]
    entry: dict[str, Any] = {
        "name": spec.name,
        "modality": spec.modality,
        "kind": spec.kind,
        "unit": spec.unit,
        "categories": list(spec.categories),
        "n": len(finite),
        "absent": int(nan.sum() - missing.sum()),
        "missing": int(missing.sum()),
        "nonfinite": int(np.isinf(column).sum()),
    }
    cell = np.full(len(column), -1, dtype=np.int64)
    if spec.kind == "categorical":
        known = len(spec.categories)
        index = np.where((finite >= 0) & (finite < known), finite, known).astype(np.int64)
        cell[np.isfinite(column)] = index
        counts = np.bincount(index, minlength=known + 1)
        entry |= {"edges": [], "discrete": False, "groups": list(range(known + 1))}
    else:
        edges, discrete = _edges(finite)
        index = np.searchsorted(edges, finite, side="right").astype(np.int64)
        cell[np.isfinite(column)] = index
        counts = np.bincount(index, minlength=len(edges) + 1)
        groups = _groups(counts, discrete)
        entry |= {"edges": [float(e) for e in edges], "discrete": discrete, "groups": groups}
    entry["counts"] = counts.tolist()
    entry |= _moments(finite) if spec.kind != "categorical" else {}
    present = cell[cell >= 0]
    entry |= calibrate(present, np.asarray(entry["groups"]), len(counts), spec.kind)
    return entry, cell


def _edges(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Inner edges; cell i holds edges[i-1] <= x < edges[i], so the outer two lie outside the range.

    With few distinct values, each gets its own cell, so that values between them ("unseen") stay
    visible. Otherwise the cells have about equal mass and are cut at values that occur.
    """
    if len(values) == 0:
        return np.zeros(0, dtype=np.float32), False
    distinct = np.unique(values)
    after = np.nextafter(distinct, np.float32(np.inf))
    few = len(distinct) <= DISCRETE_VALUES and len(values) >= DISCRETE_ROWS * len(distinct)
    if few:
        return np.unique(np.concatenate([distinct, after])), True
    if len(distinct) <= CELLS - 2:
        return np.concatenate([distinct, after[-1:]]), False
    ordered = np.sort(values)
    ranks = np.arange(1, CELLS - 2) * len(values) // (CELLS - 2)
    return np.unique(np.concatenate([distinct[:1], ordered[ranks], after[-1:]])), False


def _groups(counts: Ints, discrete: bool) -> list[int]:
    """Group of each cell: neighbours joined to about GROUPS equal masses.

    Every value of a discrete feature is its own group, and everything between values is one more
    group, so that an unseen value counts in KL instead of hiding in a neighbour's group.
    """
    if discrete:
        seen = np.flatnonzero(counts)
        groups = np.full(len(counts), len(seen), dtype=np.int64)
        groups[seen] = np.arange(len(seen))
        return [int(g) for g in groups]
    total = max(int(counts.sum()), 1)
    middle = np.cumsum(counts) - counts / 2
    rough = np.minimum((middle * GROUPS / total).astype(np.int64), GROUPS - 1)
    return [int(g) for g in np.unique(rough, return_inverse=True)[1]]


def _moments(values: NDArray[np.float32]) -> dict[str, Any]:
    """Mean and spread as sums of whole steps about a centre: such sums add up exactly.

    `step` is a power of two near sd/256, so a sum over rows, hours or servers is the same double
    whatever the order. Values further away than 2^20 steps (about 4096 sd) count as that far.
    """
    if len(values) == 0:
        return {"centre": 0.0, "step": 1.0, "sum": 0, "sum_squares": 0, "min": None, "max": None}
    wide = values.astype(np.float64)
    centre = float(np.sort(values)[len(values) // 2])
    spread = float(wide.std()) or max(abs(centre), 1.0)
    step = float(2.0 ** (np.floor(np.log2(spread)) - 8))
    steps = np.rint(np.clip((wide - centre) / step, -(2.0**20), 2.0**20))
    return {
        "centre": centre,
        "step": step,
        "sum": int(steps.sum()),
        "sum_squares": int((steps * steps).sum()),
        "min": float(wide.min()),
        "max": float(wide.max()),
    }


def _slices(
    features: Sequence[Mapping[str, Any]],
    cells: Sequence[Ints],
    slices: Sequence[Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Counts of every feature for each slice that has enough rows, the largest first."""
    rows = Counter(f"{key}={value}" for tags in slices for key, value in tags.items())
    wanted = sorted((-n, name) for name, n in rows.items() if n >= SLICE_ROWS)[:SLICE_LIMIT]
    found = []
    for negative, name in wanted:
        key, _, value = name.partition("=")
        inside = np.array([tags.get(key) == value for tags in slices], dtype=bool)
        counts = [
            np.bincount(cell[inside & (cell >= 0)], minlength=len(feature["counts"])).tolist()
            for feature, cell in zip(features, cells, strict=True)
        ]
        found.append({"name": name, "rows": -negative, "counts": counts})
    return found


def _reliability(answers: ReferenceAnswers) -> dict[str, Any] | None:
    """Confidence against correctness in RELIABILITY_BINS bins of about equal mass."""
    confidence = np.asarray(answers.confidence, dtype=np.float64)
    known = np.array([t != "" for t in answers.truth], dtype=bool)
    if not len(confidence) or not known.any():
        return None
    confidence = confidence[known]
    correct = np.array(
        [p == t for p, t in zip(answers.predicted, answers.truth, strict=True) if t != ""],
        dtype=np.float64,
    )
    ranks = np.arange(1, RELIABILITY_BINS) * len(confidence) // RELIABILITY_BINS
    edges = np.unique(np.sort(confidence)[ranks])
    index = np.searchsorted(edges, confidence, side="right")
    size = len(edges) + 1
    return {
        "edges": edges.tolist(),
        "n": np.bincount(index, minlength=size).tolist(),
        "sum_confidence": np.bincount(index, confidence, size).tolist(),
        "sum_correct": np.bincount(index, correct, size).tolist(),
    }


def _confusion(answers: ReferenceAnswers) -> dict[str, Any] | None:
    """Counts true x predicted over `labels`, rows of unknown labels left out."""
    place = {label: i for i, label in enumerate(answers.labels)}
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    for predicted, truth in zip(answers.predicted, answers.truth, strict=True):
        if predicted in place and truth in place:
            counts[place[truth], place[predicted]] += 1
    if not counts.any():
        return None
    return {"labels": list(answers.labels), "counts": counts.tolist()}
