"""Compares the reference distribution of one feature in one slice with the live one, from the
cache's hourly profiles. Works when every server is gone."""

from __future__ import annotations

import math
import sqlite3

import numpy as np

from console.cache.drift import Features, hours_of, reference_of
from console.cache.interned import InternedTexts
from console.state.dashboard import Floats, ReferenceComparison
from server.telemetry.drift.profile import FeatureReference

# The scores are made of these measures; this package imports nothing else of the server's drift
# code.
from server.telemetry.drift.scores import (  # type: ignore[attr-defined]
    js,
    kl,
    ks_statistic,
    linf,
    merged,
    psi,
    smoothed,
)
from server.telemetry.rows import FeatureRow


def comparison(
    db: sqlite3.Connection,
    names: InternedTexts,
    known: Features,
    key: tuple[str, str],
    span: tuple[float, float],
    stamp: str,
) -> ReferenceComparison | None:
    """Reference against live for one feature and slice, of the stamp asked for, or else of the
    busiest stamp with profiles in these hours."""
    begin, end = hours_of(*span)
    rows = db.execute(
        "SELECT stamp, n, missing, min, max, counts FROM profile WHERE hour_s >= ? AND hour_s < ?"
        " AND feature = ? AND slice = ?",
        (begin, end, names.find(key[0]), names.find(key[1])),
    ).fetchall()
    busiest: dict[str, int] = {}
    for row in rows:
        text = names.text(row[0])
        busiest[text] = busiest.get(text, 0) + row[1]
    chosen = stamp if stamp in busiest else max(busiest, key=lambda s: busiest[s], default=stamp)
    feature = known.get((chosen, key[0]))
    reference = reference_of(feature) if feature is not None else None
    if feature is None or reference is None:
        return None
    live = np.zeros(len(reference.counts), np.int64)
    low, high, missing = math.inf, -math.inf, 0
    for number, _, absent, least, most, blob in rows:
        counts = np.frombuffer(blob, "<u8").astype(np.int64)
        if names.text(number) != chosen or len(counts) != len(live):
            continue
        live += counts
        missing += absent
        low, high = _widen(low, high, least, most)
    edges, categories = _outer(feature, low, high)
    drawn, here, there = edges, live, reference.counts
    if feature.kind != "categorical":
        drawn, here, there = _wide_cells(edges, live, reference.counts)
    widths = np.diff(drawn) if feature.kind != "categorical" else np.ones(len(live))
    widths = np.where(widths > 0, widths, np.inf)
    return ReferenceComparison(
        feature=feature,
        slice=key[1],
        edges=drawn,
        reference=there / max(reference.n, 1) / widths,
        live=here / max(int(live.sum()), 1) / widths,
        n_reference=float(reference.n),
        n_live=int(live.sum()),
        missing=missing,
        from_s=begin,
        to_s=end,
        scores=_effects(reference, live),
        labels=categories,
    )


def _wide_cells(
    edges: Floats, live: np.ndarray, reference: np.ndarray, most: int = 40
) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Join neighbouring inner cells until each is at least a fortieth of the range. Cells of equal
    mass are very narrow where the mass is, and their densities are mostly noise. Only the picture
    uses this."""
    least = (edges[-1] - edges[0]) / most
    starts = [0]
    for index in range(1, len(edges) - 1):
        if edges[index] - edges[starts[-1]] >= least or index == 1:
            starts.append(index)
    if len(starts) > 1 and edges[-1] - edges[starts[-1]] < least:
        # The open last cell stays on its own.
        starts[-1] = max(starts[-1], len(edges) - 2)
    places = np.array(starts)
    joined = np.concatenate((edges[places], edges[-1:]))
    return joined, np.add.reduceat(live, places), np.add.reduceat(reference, places)


def _effects(reference: FeatureReference, live: np.ndarray) -> dict[str, float]:
    """The effect sizes only: p values would import scipy for a picture."""
    if not live.sum():
        return {}
    a = smoothed(merged(live, reference.groups))
    b = smoothed(merged(reference.counts, reference.groups))
    pair = (live[None, :], reference.counts[None, :])
    gap = linf(*pair) if reference.categorical else ks_statistic(*pair)
    found = {"ks": gap, "kl": kl(a, b), "js": js(a, b), "psi": psi(a, b)}
    return {name: float(value[0]) for name, value in found.items()}


def _widen(low: float, high: float, least: object, most: object) -> tuple[float, float]:
    """Widen the extremes, by finite numbers only."""
    if isinstance(least, float) and math.isfinite(least):
        low = min(low, least)
    if isinstance(most, float) and math.isfinite(most):
        high = max(high, most)
    return low, high


def _outer(feature: FeatureRow, low: float, high: float) -> tuple[Floats, tuple[str, ...]]:
    """Edges with both ends. The outer cells are open. They are drawn to the extremes seen, but no
    further than a quarter of the inner range, or one outlier would squeeze everything else flat."""
    if feature.kind == "categorical":
        labels = (*feature.categories, "new")
        return np.arange(len(labels) + 1, dtype=np.float64), labels
    inner = np.asarray(feature.edges, np.float64)
    if not len(inner):
        return np.array([0.0, 1.0]), ()
    reach = max((inner[-1] - inner[0]) / 4, abs(inner[0]) * 1e-6, 1e-9)
    first = max(low, inner[0] - reach) if math.isfinite(low) else inner[0] - reach / 2
    last = min(high, inner[-1] + reach) if math.isfinite(high) else inner[-1] + reach / 2
    first = min(first, inner[0] - reach * 1e-3)
    last = max(last, inner[-1] + reach * 1e-3)
    return np.concatenate(([first], inner, [last])), ()
