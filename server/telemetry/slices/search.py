"""Finds the slices where the model is worst: searches every slice of one or two conditions.

Counts and losses by code of a column (conditions.py), or by pair of codes, give the sums of every
condition and of every pair of conditions as small matrix products. One half of the rows proposes
slices; the other half must confirm them.

- A slice has at least MIN_SUPPORT rows. Its score is a one-sided Welch z against the other rows,
  with Benjamini-Hochberg (1995) over all tests: otherwise ten thousand candidates would give five
  hundred findings.
- A pair must be worse than each of its two conditions, by the same z within that condition.
- A slice is reported only if its rows are still worse without the rows of earlier slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from server.telemetry.drift.scores import benjamini_hochberg
from server.telemetry.slices.conditions import (
    CODES,
    MIN_SUPPORT,
    EncodedColumn,
    SliceColumn,
    encode,
)

MOST_SHARE = 0.5  # a larger share of the traffic is not a slice
MAX_FDR = 0.05
VALIDATION_Z = 1.645  # one-sided 5 % on the other half
PARENT_Z = 3.0  # least z of a pair against its parent
OWN_Z = 3.0  # least z of a slice without the rows of better findings
KEPT = 60  # best proposals that go to the other half

Measure = Literal["error", "value", "confidence"]
NAMES: dict[Measure, str] = {"error": "error", "value": "value lost", "confidence": "confidence"}
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FoundSlice:
    """`mean` and `mean_elsewhere` are the mean loss over all rows; `z` and `q` are of the half that
    proposed the slice."""

    expression: str
    message: str
    support: int
    share: float
    mean: float
    mean_elsewhere: float
    z: float
    q: float
    depth: int


@dataclass(frozen=True, slots=True)
class _Sums:
    """Rows, loss and squared loss."""

    n: Floats
    loss: Floats
    square: Floats


@dataclass(frozen=True, slots=True)
class _Proposal:
    conditions: tuple[tuple[int, int], ...]  # (column, condition)
    z: float
    q: float


def worst_slices(
    columns: Sequence[SliceColumn],
    loss: Floats,
    measure: Measure = "error",
    unit: str = "",
    limit: int = 10,
) -> list[FoundSlice]:
    """The slices with the highest mean loss, most certain first. `loss` is [n], higher is worse:
    0/1 for errors, the value lost against the right decision, or one minus the confidence.

    `unit` is the unit of the value. Raises ValueError if a column and the loss differ in length.
    """
    for column in columns:
        if len(column.values) != len(loss):
            raise ValueError(f"{column.name} has {len(column.values)} rows, the loss {len(loss)}")
    if len(loss) < 2 * MIN_SUPPORT:
        return []
    coded = [item for item in map(encode, columns) if len(item.texts)]
    # Random, not every other row: two clients that alternate would end up in separate halves.
    first = np.random.default_rng(0).random(len(loss)) < 0.5
    proposals = _propose(coded, first, loss)
    agreed = [p for p in proposals if _agrees(p, coded, ~first, loss)]
    distinct = _distinct(agreed, coded, loss, limit)
    return [_described(p, rows, coded, loss, measure, unit) for p, rows in distinct]


def _propose(coded: Sequence[EncodedColumn], rows: Bools, loss: Floats) -> list[_Proposal]:
    half = [item.codes[rows] for item in coded]
    losses = loss[rows]
    whole = _sums_of(losses)
    single = [_by_code(codes, CODES + 1, losses) for codes in half]
    level1 = [_masked(item.masks, sums) for item, sums in zip(coded, single, strict=True)]
    found: list[tuple[tuple[tuple[int, int], ...], float]] = []
    tested = [_z_of_slice(sums, whole) for sums in level1]
    for a, z in enumerate(tested):
        found += [(((a, int(i)),), float(z[i])) for i in np.flatnonzero(np.isfinite(z))]
    pairs, p_values = _pairs(coded, half, losses, level1, whole)
    found += pairs
    alone = [z[np.isfinite(z)] for z in tested]
    all_p = np.concatenate([ndtr(-np.concatenate(alone or [np.empty(0)])), p_values])
    kept = sorted((item for item in found if item[1] > 0), key=lambda item: -item[1])[:KEPT]
    p_sorted = np.sort(all_p)
    rank = np.searchsorted(p_sorted, ndtr([-z for _, z in kept]), side="right")
    q = benjamini_hochberg(p_sorted)[rank - 1]
    return [
        _Proposal(item, z, float(q)) for (item, z), q in zip(kept, q, strict=True) if q <= MAX_FDR
    ]


def _pairs(
    coded: Sequence[EncodedColumn],
    half: Sequence[NDArray[np.uint8]],
    losses: Floats,
    level1: Sequence[_Sums],
    whole: _Sums,
) -> tuple[list[tuple[tuple[tuple[int, int], ...], float]], Floats]:
    """The pairs of conditions that are worse than both parents, and the p values of all tests."""
    width = CODES + 1
    found: list[tuple[tuple[tuple[int, int], ...], float]] = []
    p_values = [np.empty(0)]
    bad = np.flatnonzero(losses)
    sparse = len(bad) < len(losses) // 3
    weights = losses[bad] if sparse else losses
    picked = [codes[bad] for codes in half] if sparse else list(half)
    binary = bool(np.all((losses == 0) | (losses == 1)))
    for a in range(len(coded)):
        for b in range(a + 1, len(coded)):
            cells = half[a] * np.uint8(width) + half[b]
            lossy = cells if not sparse else picked[a] * np.uint8(width) + picked[b]
            sums = _by_code(cells, width * width, losses, lossy, weights, binary)
            table = _Sums(*(s.reshape(width, width) for s in (sums.n, sums.loss, sums.square)))
            joint = _Sums(
                *(
                    coded[a].masks @ cell @ coded[b].masks.T
                    for cell in (table.n, table.loss, table.square)
                )
            )
            z = _z_of_slice(joint, whole)
            tested = np.isfinite(z)
            p_values.append(ndtr(-z[tested]))
            better = tested & (z > 0)
            for parent in (_column(level1[a]), _row(level1[b])):
                better &= _z(joint, parent) >= PARENT_Z
            found += [(((a, int(i)), (b, int(j))), float(z[i, j])) for i, j in np.argwhere(better)]
    return found, np.concatenate(p_values)


def _column(sums: _Sums) -> _Sums:
    return _Sums(sums.n[:, None], sums.loss[:, None], sums.square[:, None])


def _row(sums: _Sums) -> _Sums:
    return _Sums(sums.n[None, :], sums.loss[None, :], sums.square[None, :])


def _by_code(
    cells: NDArray[np.uint8],
    width: int,
    losses: Floats,
    lossy: NDArray[np.uint8] | None = None,
    weights: Floats | None = None,
    binary: bool = False,
) -> _Sums:
    """Sums by code. `lossy` and `weights` skip the rows without a loss."""
    n = np.bincount(cells, minlength=width).astype(np.float64)
    where = cells if lossy is None else lossy
    what = losses if weights is None else weights
    total: Floats = np.bincount(where, what, width).astype(np.float64)
    square = total if binary else np.bincount(where, what * what, width).astype(np.float64)
    return _Sums(n, total, square)


def _masked(masks: Floats, sums: _Sums) -> _Sums:
    return _Sums(masks @ sums.n, masks @ sums.loss, masks @ sums.square)


def _z(part: _Sums, whole: _Sums) -> Floats:
    """Welch's z of the mean of `part` against the rest of `whole`; NaN with too few rows.

    The variance of either side is at least that of one different row, so a slice without any error
    (or with nothing else) is not infinitely certain.
    """
    rest = _Sums(whole.n - part.n, whole.loss - part.loss, whole.square - part.square)
    enough = (part.n >= MIN_SUPPORT / 2) & (rest.n >= MIN_SUPPORT / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = _variance(part) / part.n + _variance(rest) / rest.n
        z = (part.loss / part.n - rest.loss / rest.n) / np.sqrt(variance)
    return np.where(enough, z, np.nan)


def _z_of_slice(part: _Sums, whole: _Sums) -> Floats:
    """Like `_z`, but also NaN for a part with most of the rows."""
    return np.where(part.n <= MOST_SHARE * whole.n, _z(part, whole), np.nan)


def _variance(sums: _Sums) -> Floats:
    mean = sums.loss / sums.n
    spread = np.maximum(sums.square / sums.n - mean * mean, 0.0)
    return np.maximum(spread, 1.0 / np.maximum(sums.n, 1.0))


def _agrees(proposal: _Proposal, coded: Sequence[EncodedColumn], rows: Bools, loss: Floats) -> bool:
    inside = _rows(proposal, coded)[rows]
    return _z_of(inside, loss[rows]) >= VALIDATION_Z


def _z_of(inside: Bools, loss: Floats) -> float:
    """Welch's z of the rows inside against the others; NaN with too few rows."""
    return float(_z(_sums_of(loss[inside]), _sums_of(loss)))


def _sums_of(loss: Floats) -> _Sums:
    squares = np.square(loss).sum()  # not `@`: BLAS would wake threads beside the event loop
    return _Sums(*map(np.asarray, (float(len(loss)), float(loss.sum()), float(squares))))


def _rows(proposal: _Proposal, coded: Sequence[EncodedColumn]) -> Bools:
    inside: Bools = np.ones(len(coded[0].codes), dtype=np.bool_)
    for column, condition in proposal.conditions:
        chosen = coded[column].masks[condition] > 0
        inside &= chosen[coded[column].codes]
    return inside


def _distinct(
    proposals: Sequence[_Proposal], coded: Sequence[EncodedColumn], loss: Floats, limit: int
) -> list[tuple[_Proposal, Bools]]:
    kept: list[tuple[_Proposal, Bools]] = []
    explained: Bools = np.zeros(len(loss), dtype=np.bool_)
    for proposal in proposals:
        rows = _rows(proposal, coded)
        if not kept or _z_of(rows[~explained], loss[~explained]) >= OWN_Z:
            kept.append((proposal, rows))
            explained |= rows
        if len(kept) == limit:
            break
    return kept


def _described(
    proposal: _Proposal,
    rows: Bools,
    coded: Sequence[EncodedColumn],
    loss: Floats,
    measure: Measure,
    unit: str,
) -> FoundSlice:
    texts = [coded[column].texts[condition] for column, condition in proposal.conditions]
    mean, elsewhere = float(loss[rows].mean()), float(loss[~rows].mean())
    share = float(rows.mean())
    description = " and ".join(text for _, text in texts)
    figure, other = _figure(mean, measure, unit), _figure(elsewhere, measure, unit)
    return FoundSlice(
        expression=" ".join(expression for expression, _ in texts),
        message=f"{description}: {NAMES[measure]} {figure} against {other} elsewhere, "
        f"{100 * share:.0f} % of traffic",
        support=int(np.count_nonzero(rows)),
        share=share,
        mean=mean,
        mean_elsewhere=elsewhere,
        z=proposal.z,
        q=proposal.q,
        depth=len(texts),
    )


def _figure(mean_loss: float, measure: Measure, unit: str) -> str:
    if measure == "error":
        return f"{100 * mean_loss:.1f} %"
    if measure == "value":
        return " ".join(filter(None, (f"{1000 * mean_loss:,.0f}", unit, "per 1,000")))
    return f"{1 - mean_loss:.2f}"
