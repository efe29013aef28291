"""A reference learned from live traffic, where the bundle has none: the first three days of a
stamp, and of a slice that the bundle's reference does not contain. Until then its state is
"learning".

The result is written as the file that a bundle would contain, so that a restart reads it back;
`made_from` records that it was learned, and drift rows name it as their baseline.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.telemetry.drift.detector import Baseline, bundle_baseline
from server.telemetry.drift.profile import Floats, Ints
from server.telemetry.drift.reference import FORMAT, LEARNT
from server.telemetry.drift.windows import HOUR_S
from server.telemetry.record import FeatureSpec
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.stamp_state import StampState
from server.telemetry.store.store import Store

LEARN_S = 3 * 86400
MIN_ROWS = 2000
MOST_ROWS = 50_000
CELLS, GROUPS = 64, 16  # as in pipelines/build/reference_profile.py


def learn(state: StampState, store: Store, now: float) -> bytes | None:
    """reference/profile.json from the rows of a stamp, once there are three days of them."""
    rows: list[bytes] = []
    first = now
    for day in store.days():
        found = store.connection.execute(
            f"SELECT p.features, p.at FROM prediction_{day} p JOIN stamp s ON s.id = p.stamp_id"
            " WHERE s.hex = ? AND length(p.features) = ? ORDER BY p.id LIMIT ?",
            (state.bundle.stamp, 4 * len(state.bundle.schema), MOST_ROWS - len(rows)),
        ).fetchall()
        if found:
            first = min(first, found[0][1])
        rows += [row[0] for row in found if row[1] < first + LEARN_S]
    if now - first < LEARN_S or len(rows) < MIN_ROWS:
        return None
    matrix = np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), -1)
    content = {
        "format": FORMAT,
        "rows": len(rows),
        "made_from": f"{LEARNT} {len(rows)} rows of live traffic",
        "features": [_feature(matrix[:, i], spec) for i, spec in enumerate(state.bundle.schema)],
        "slices": [],
        "embedding": None,
        "reliability": None,
        "confusion": None,
    }
    return json.dumps(content).encode()


def learn_slices(
    state: StampState, store: Store, counting: Counting, now: float
) -> Baseline | None:
    """The baseline with the slices learned since; None if there are no new ones."""
    known = state.learnt or bundle_baseline(state.layout)
    if state.reference.learning:
        return None
    fresh = {}
    for name in state.windows.slices():
        if name and name not in known.counts:
            first = store.sums.first_hour(state.bundle.stamp, name)
            if first and now - first >= LEARN_S:
                counts = _first_days(state, counting, name, first)
                if counts.sum() >= MIN_ROWS * len(state.reference.features) / 2:
                    fresh[name] = counts
    return Baseline(known.name, {**known.counts, **fresh}) if fresh else None


def _first_days(state: StampState, counting: Counting, name: str, first: int) -> Ints:
    total = np.zeros(state.layout.total, dtype=np.int64)
    for hour in range(first // HOUR_S, (first + LEARN_S) // HOUR_S):
        found = counting.past(state.bundle.stamp, state.layout, hour).get(name)
        if found is not None:
            total += found
    return total


def _feature(column: NDArray[np.float32], spec: FeatureSpec) -> dict[str, Any]:
    finite = np.sort(column[np.isfinite(column)])
    if spec.kind == "categorical":
        known = len(spec.categories)
        index = np.where((finite >= 0) & (finite < known), finite, known).astype(np.int64)
        edges: list[float] = []
        counts = np.bincount(index, minlength=known + 1)
        groups = np.arange(known + 1)
    else:
        cut = _edges(finite)
        edges = [float(e) for e in cut]
        index = np.searchsorted(cut, finite, side="right")
        counts = np.bincount(index, minlength=len(edges) + 1)
        middle = np.cumsum(counts) - counts / 2
        rough = np.minimum(middle * GROUPS // max(int(counts.sum()), 1), GROUPS - 1)
        groups = np.unique(rough, return_inverse=True)[1]
    return {
        "name": spec.name,
        "modality": spec.modality,
        "kind": spec.kind,
        "unit": spec.unit,
        "categories": list(spec.categories),
        "edges": edges,
        "counts": counts.tolist(),
        "groups": groups.tolist(),
        "discrete": False,
        "n": len(finite),
        # Without the mixes an absent value cannot be distinguished from a missing one.
        "missing": 0,
        "nonfinite": int(np.isinf(column).sum()),
        "deff": 1.0,  # live traffic measures its own (drift/design_effect.py)
        "importance": 1.0,
        "windows": {},
        **_scale(finite.astype(np.float64)),
    }


def _edges(ordered: NDArray[np.float32]) -> NDArray[np.float32]:
    if not len(ordered):
        return ordered
    distinct = np.unique(ordered)
    end = np.nextafter(distinct[-1:], np.float32(np.inf))
    if len(distinct) <= CELLS - 2:
        return np.concatenate([distinct, end])
    ranks = np.arange(1, CELLS - 2) * len(ordered) // (CELLS - 2)
    return np.unique(np.concatenate([distinct[:1], ordered[ranks], end]))


def _scale(finite: Floats) -> dict[str, float]:
    if not len(finite):
        return {"centre": 0.0, "step": 1.0}
    centre = float(finite[len(finite) // 2])
    spread = float(finite.std()) or max(abs(centre), 1.0)
    return {"centre": centre, "step": float(2.0 ** (np.floor(np.log2(spread)) - 8))}
