"""The conditions of a slice: the values of a column as at most eight codes, separated by round
thresholds, and the conditions (=, <, >=) over these codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.telemetry.filters import equals

MIN_SUPPORT = 300  # rows; a search over smaller slices overfits
CODES = 8
ABSENT = CODES  # the code of NaN: no condition includes it
OCTILE_ROWS = 20_000  # enough, because thresholds are rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SliceColumn:
    """A column to slice by. `values` is [n]; NaN means absent. With `categories`, a value is an
    index into them; values beyond the last category are ignored."""

    name: str
    values: NDArray[np.float32]
    unit: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedColumn:
    """The codes of a column, 0..CODES (uint8 [n]), and its conditions as masks
    [conditions, CODES + 1]."""

    column: SliceColumn
    codes: NDArray[np.uint8]
    masks: Floats
    texts: tuple[tuple[str, str], ...]  # (expression, description) of each condition


def encode(column: SliceColumn) -> EncodedColumn:
    return _categorical(column) if column.categories else _numeric(column)


def _categorical(column: SliceColumn) -> EncodedColumn:
    """One condition for each of the most common categories; the others get the code of NaN."""
    values = np.where(np.isfinite(column.values), column.values, -1).astype(np.int64)
    known = (values >= 0) & (values < len(column.categories))
    counts = np.bincount(values[known], minlength=len(column.categories))
    common = np.flatnonzero(counts >= MIN_SUPPORT)
    common = common[np.argsort(-counts[common], kind="stable")][:CODES]
    place = np.full(len(column.categories) + 1, ABSENT, dtype=np.uint8)
    place[common] = np.arange(len(common), dtype=np.uint8)
    codes = place[np.where(known, values, len(column.categories))]
    names = [column.categories[i] for i in common]
    texts = tuple((equals(column.name, name), f"{column.name} {name}") for name in names)
    # A category that all rows have is not a slice.
    useful = texts if len(texts) > 1 or (codes == ABSENT).any() else ()
    masks = np.eye(len(useful), CODES + 1)
    return EncodedColumn(column, codes, masks, useful)


def _numeric(column: SliceColumn) -> EncodedColumn:
    """Up to seven round thresholds near the octiles, with a condition below and one from each."""
    finite = column.values[np.isfinite(column.values)]
    few = finite[:: max(1, len(finite) // OCTILE_ROWS)].astype(np.float64)
    edges = list(_thresholds(few)) if len(finite) >= MIN_SUPPORT else []
    codes = np.zeros(len(column.values), dtype=np.uint8)
    for edge in edges:  # seven comparisons are a third of a search
        codes += column.values >= edge
    codes[~np.isfinite(column.values)] = ABSENT
    masks, texts = [], []
    unit = f" {column.unit}" if column.unit and column.unit != "1" else ""
    for place, edge in enumerate(edges, start=1):
        below = np.zeros(CODES + 1)
        below[:place] = 1
        above = np.zeros(CODES + 1)
        above[place:CODES] = 1
        masks += [below, above]
        texts += [
            (f"{column.name}<{edge:g}", f"{column.name} < {edge:g}{unit}"),
            (f"{column.name}>={edge:g}", f"{column.name} ≥ {edge:g}{unit}"),
        ]
    stacked = np.asarray(masks) if masks else np.empty((0, CODES + 1))
    return EncodedColumn(column, codes, stacked, tuple(texts))


def _thresholds(values: Floats) -> Iterator[float]:
    """Octiles, each moved to the roundest number that keeps most rows on their side."""
    if values.min() == values.max():
        return
    octiles = np.unique(np.quantile(values, np.arange(1, CODES) / CODES))
    bounds = np.concatenate([[values.min()], octiles, [values.max()]])
    last = -math.inf
    for place, edge in enumerate(octiles, start=1):
        gap = float(min(edge - bounds[place - 1], bounds[place + 1] - edge))
        snapped = round_number(float(edge), gap / 3)
        if last < snapped <= values.max() and snapped > values.min():
            last = snapped
            yield snapped


def round_number(value: float, slack: float) -> float:
    """The multiple of the largest 1, 2 or 5 times a power of ten within `slack` of `value`."""
    if slack <= 0 or not math.isfinite(slack):
        return value
    exponent = math.floor(math.log10(slack)) + 1
    for power in range(exponent, exponent - 4, -1):
        for step in (5.0, 2.0, 1.0):
            unit = step * 10.0**power
            near = round(value / unit) * unit
            if abs(near - value) <= slack:
                return float(f"{near:.12g}")
    return value
