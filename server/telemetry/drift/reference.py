"""Reads and checks reference/profile.json, which pipelines/build/reference_profile.py writes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from server.telemetry.drift.profile import (
    EmbeddingReference,
    FeatureReference,
    Floats,
    Ints,
    Reference,
    Reliability,
)
from server.telemetry.errors import ReferenceRefused
from server.telemetry.record import FeatureSpec

FORMAT = "trefoil-reference-1"
FILE = "reference/profile.json"
REMEDY = "rebuild the bundle: `pipelines build` computes its reference"
LEARNT = "learnt from"  # the start of `made_from` in a reference learned from live traffic
MAX_COUNT = 10**12  # rows that a sum of counts may stand for, far below the range of int64
MAX_WINDOWS = 64
MAX_CELLS = 4096  # a feature with more categories is free text


def parse(data: bytes, schema: Sequence[FeatureSpec]) -> Reference:
    """Reads reference/profile.json for a model that sends `schema`.

    Raises ReferenceRefused if the file is damaged or its features are not exactly those of the
    schema, in the same order: a score against the wrong reference is worse than none.
    """
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ReferenceRefused(
                f"{FILE} has the format {content['format']!r}, wanted is {FORMAT!r}; {REMEDY}"
            )
        reference = _reference(content)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as fault:
        what = f"it has no {fault}" if isinstance(fault, KeyError) else str(fault)[:200]
        raise ReferenceRefused(f"{FILE} cannot be used: {what}; {REMEDY}") from fault
    if reference.schema != tuple(schema):
        raise ReferenceRefused(_difference(reference.schema, tuple(schema)))
    return reference


def _difference(has: tuple[FeatureSpec, ...], wanted: tuple[FeatureSpec, ...]) -> str:
    for at, (a, b) in enumerate(zip(has, wanted, strict=False)):
        if a != b:
            return (
                f"feature {at} is {_described(a)} in {FILE}, but the model sends {_described(b)};"
                f" {REMEDY}"
            )
    return f"{FILE} has {len(has)} features, the model sends {len(wanted)}; {REMEDY}"


def _described(spec: FeatureSpec) -> str:
    parts = (spec.modality, spec.kind, spec.unit, *spec.categories)
    return f"{spec.name} ({' '.join(part for part in parts if part)})"


def _reference(content: Mapping[str, Any]) -> Reference:
    features = tuple(_feature(entry) for entry in content["features"])
    slices = {}
    for entry in content["slices"]:
        counts = tuple(_counts(c) for c in entry["counts"])
        if [len(c) for c in counts] != [len(f.counts) for f in features]:
            raise ValueError(f"slice {entry['name']} has other cells than the features")
        slices[str(entry["name"])] = counts
    confusion = content["confusion"]
    return Reference(
        rows=_whole("rows", content["rows"]),
        features=features,
        slices=slices,
        embedding=_embedding(content["embedding"]),
        reliability=_reliability(content["reliability"]),
        confusion_labels=tuple(confusion["labels"]) if confusion else (),
        learnt=str(content["made_from"]).startswith(LEARNT),
        confusion=_integers(confusion["counts"]) if confusion else np.zeros((0, 0), np.int64),
    )


def _feature(entry: Mapping[str, Any]) -> FeatureReference:
    spec = FeatureSpec(
        entry["name"], entry["modality"], entry["kind"], entry["unit"], tuple(entry["categories"])
    )
    counts = _counts(entry["counts"])
    edges = np.array(entry["edges"], dtype=np.float64)
    cells = len(spec.categories) + 1 if spec.kind == "categorical" else len(edges) + 1
    groups = _integers(entry["groups"])
    if len(counts) != cells or len(groups) != cells or cells > MAX_CELLS:
        raise ValueError(f"{spec.name}: {len(counts)} counts, {len(groups)} groups, {cells} cells")
    if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"{spec.name}: edges do not grow")
    if sorted(set(groups.tolist())) != list(range(int(groups.max()) + 1)):
        raise ValueError(f"{spec.name}: groups are not numbered from 0 without gaps")
    deff, step = float(entry["deff"]), float(entry.get("step", 1.0))
    if not (1.0 <= deff < math.inf and 0.0 < step < math.inf):
        raise ValueError(f"{spec.name}: deff {deff}, step {step}")
    return FeatureReference(
        spec=spec,
        edges=edges,
        counts=counts,
        groups=groups,
        missing=_whole(f"{spec.name}: missing", entry["missing"]),
        nonfinite=_whole(f"{spec.name}: nonfinite", entry["nonfinite"]),
        discrete=bool(entry["discrete"]),
        centre=_finite(f"{spec.name}: centre", entry.get("centre", 0.0)),
        step=step,
        deff=deff,
        importance=_finite(f"{spec.name}: importance", entry["importance"]),
        windows=_windows(spec.name, entry["windows"]),
    )


def _counts(values: Sequence[int]) -> Ints:
    counts = _integers(values)
    if counts.ndim != 1 or not len(counts) or (counts < 0).any() or (counts > MAX_COUNT).any():
        raise ValueError(f"counts must be a row of whole numbers, 0 to {MAX_COUNT:,}")
    return counts


def _integers(values: Any) -> Ints:
    """The values as integers. Raises ValueError for anything else: a float would be rounded
    silently."""
    found = np.array(values)
    if found.dtype.kind not in "iu":
        raise ValueError("a count or a group that is not a whole number below 2^63")
    return found.astype(np.int64)


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name} is {str(value)[:40]}; allowed is 0 to {MAX_COUNT:,}")
    return value


def _finite(name: str, value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{name} is {found}, not a finite number")
    return found


def _windows(name: str, values: Any) -> Mapping[str, Mapping[str, Any]]:
    """Sizes in rows, and the values measured in windows of each size."""
    if not isinstance(values, dict) or len(values) > MAX_WINDOWS:
        raise ValueError(f"{name}: windows is not an object of at most {MAX_WINDOWS} sizes")
    for size, window in values.items():
        if not size.isascii() or not size.isdigit() or not 1 <= len(size) <= 12 or not int(size):
            raise ValueError(f"{name}: windows has the size {size[:40]!r}")
        if not isinstance(window, dict):
            raise ValueError(f"{name}: windows.{size} is not an object")
        for key, value in window.items():
            for number in value if isinstance(value, list) else [value]:
                _finite(f"{name}: windows.{size}.{key[:40]}", number)
    return values


def _embedding(entry: Mapping[str, Any] | None) -> EmbeddingReference | None:
    if entry is None:
        return None
    features = tuple(entry["features"])
    phases = _unpacked(entry["phases"])
    return EmbeddingReference(
        features=features,
        mean=_floats("mean", entry["mean"]),
        deviation=_floats("deviation", entry["deviation"]),
        frequencies=_unpacked(entry["frequencies"]).reshape(len(features), len(phases)),
        phases=phases,
        n=_whole("embedding.n", entry["n"]),
        sums=_floats("sum", entry["sum"]),
        variance=_finite("embedding.variance", entry["variance"]),
        windows=_windows("embedding", entry["windows"]),
    )


def _unpacked(text: str) -> Floats:
    found = np.frombuffer(base64.b64decode(text), dtype="<f4")
    if not np.isfinite(found).all():
        raise ValueError("embedding: a frequency or a phase that is not finite")
    return found.astype(np.float64)


def _floats(name: str, values: Any) -> Floats:
    found = np.array(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"embedding.{name} holds a number that is not finite")
    return found


def _reliability(entry: Mapping[str, Any] | None) -> Reliability | None:
    if entry is None:
        return None
    found = Reliability(
        *(np.array(entry[k], np.float64) for k in ("edges", "n", "sum_confidence", "sum_correct"))
    )
    if not len(found.edges) + 1 == len(found.n) == len(found.sum_confidence):
        raise ValueError("reliability bins and edges disagree")
    return found
