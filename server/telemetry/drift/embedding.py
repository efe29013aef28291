"""Drift of the whole embedding: compares its random Fourier mean with that of the reference.

Each projection is a feature that shows one direction. The mean of 256 cosines moves with any change
of location or mixture (Rahimi and Recht, 2007; Gretton et al., 2012). It is one additive vector, so
hours and servers add up exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.telemetry.drift.binning import BinnedRows
from server.telemetry.drift.confirmation import UNKNOWN, Confirmation, Levels, limits
from server.telemetry.drift.profile import EmbeddingReference, Ints
from server.telemetry.drift.scores import MIN_EFFECTIVE
from server.telemetry.drift.windows import HOUR_S, WINDOWS, TrailingWindows
from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import DriftRow

NAME = "embedding.mmd"
STEPS = 2.0**20  # as in pipelines/build/fourier.py
# Distance at which a significant shift counts. Moving every one of 16 directions by .1, .2 or .4 sd
# (or one of them by .4, .8, 1.4) gives about these.
EFFECTS = (0.07, 0.14, 0.25)  # warning, high, critical
CALM = 0.8


@dataclass(frozen=True, slots=True)
class Distance:
    """`effect` is the distance above the one expected by chance, divided by the spread of the
    embedding: 0 for the same distribution, near 1 for one without overlap."""

    n: float
    n_effective: float
    effect: float
    p: float


class EmbeddingSums:
    """Converts coded rows to the additive vector [1 + dimensions]: the row count, then sums of
    cosines in whole steps."""

    def __init__(self, reference: EmbeddingReference, schema: Sequence[FeatureSpec]) -> None:
        places = {spec.name: i for i, spec in enumerate(schema)}
        self._columns = np.array([places[name] for name in reference.features], dtype=np.int64)
        self._reference = reference
        self.size = 1 + len(reference.phases)

    def of(self, coded: BinnedRows, inside: Ints) -> Ints:
        values = coded.values[np.ix_(inside, self._columns)]
        values = values[np.isfinite(values).all(axis=1)]
        scaled = (values - self._reference.mean) / self._reference.deviation
        # Not `@`: from some hundred rows on BLAS wakes threads that spin beside the event loop. The
        # cosine of a float32 costs a tenth, and is off by less than a step of the sums.
        turns = np.einsum("ij,jk->ik", scaled, self._reference.frequencies)
        waves = np.cos((turns + self._reference.phases).astype(np.float32))
        sums = np.rint(waves * STEPS).sum(axis=0, dtype=np.float64)
        return np.concatenate([[len(values)], sums]).astype(np.int64)


def distance(reference: EmbeddingReference, sums: Ints, deff: float) -> Distance:
    """The distance between live sums and the reference.

    Without drift the mean of the squared distance is (1/n + 1/m) x variance x design effect. Its
    law is a scaled chi-squared; the windows of the reference give its mean and variance
    (Satterthwaite, 1946).
    """
    from scipy.special import chdtrc

    n = float(sums[0])
    if n < 1:
        return Distance(0.0, 0.0, 0.0, 1.0)
    apart = sums[1:] / n / STEPS - reference.sums / reference.n / STEPS
    squared = float((apart**2).sum())
    chance = (1 / n + 1 / reference.n) * reference.variance
    mean, variance = _null(reference, n)
    mean, variance = max(mean, deff), variance * (max(mean, deff) / mean) ** 2
    p = float(chdtrc(2 * mean**2 / variance, 2 * mean * squared / chance / variance))
    excess = max(squared - mean * chance, 0.0) / reference.variance
    return Distance(n, n / mean, math.sqrt(excess), p)


def _null(reference: EmbeddingReference, n: float) -> tuple[float, float]:
    """Mean and variance of squared / chance without drift, from the window size nearest to n."""
    known = [(abs(math.log(n / int(size))), w) for size, w in reference.windows.items()]
    if not known:
        return 1.0, 0.2  # ten effective dimensions
    window = min(known, key=lambda pair: pair[0])[1]
    return max(window["mean"], 1.0), max(window["var"], 1e-3)


class EmbeddingDetector:
    """The state of one stamp between ticks, for all traffic only."""

    def __init__(
        self, stamp: str, reference: EmbeddingReference, windows: TrailingWindows, tick_s: float
    ) -> None:
        self._stamp = stamp
        self._reference = reference
        self.windows = windows
        self._confirmation = Confirmation(1, WINDOWS, tick_s)

    def tick(self, now: float, deff: float) -> tuple[list[DriftRow], Finding]:
        """`deff` is the design effect of live traffic, 1 if unknown."""
        self._confirmation.move_to(now)
        self.windows.advance(now)
        found = [distance(self._reference, self.windows.window("", now, w), deff) for w in WINDOWS]
        pairs = list(zip(WINDOWS, found, strict=True))
        level = np.array([[_level(d, limits(w)[0], 1.0) for w, d in pairs]], dtype=np.int8)
        calm = np.array([[_level(d, limits(w)[1], CALM) == 0 for w, d in pairs]])
        self._confirmation.note("", level, calm)
        rows = [self._row(now, w, d) for w, d in pairs if d.n]
        return rows, self._finding(found, level)

    def _row(self, now: float, window_s: int, found: Distance) -> DriftRow:
        level = _level(found, limits(window_s)[0], 1.0)
        return DriftRow(
            tick_unix_ms=int(now * 1000),
            stamp=self._stamp,
            feature=NAME,
            slice="",
            window_s=window_s,
            baseline="bundle",
            n=found.n,
            n_effective=found.n_effective,
            n_needed=MIN_EFFECTIVE * found.n / max(found.n_effective, 1e-9),
            ks=found.effect,
            p=found.p,
            q=found.p,
            level="insufficient" if level == UNKNOWN else SEVERITIES[level] or "ok",
        )

    def _finding(self, found: list[Distance], level: Levels) -> Finding:
        key = f"drift/{self._stamp[:12]}/{NAME}"
        confirmed = self._confirmation.confirmed("")[0]
        is_open = self._confirmation.open("")[0]
        seen = np.maximum(np.maximum(confirmed, is_open), level[0])
        worst = int(seen.argmax())
        if seen[worst] <= 0:
            return Finding(key, "drift", "", "", self._stamp)
        d = found[worst]
        summary = (
            f"the embedding moved: distance {d.effect:.2f} of 1 over "
            f"{WINDOWS[worst] // HOUR_S} h, {int(d.n):,} rows"
        )
        severity = SEVERITIES[int(seen[worst])]
        opened = bool(is_open.any())
        return Finding(key, "drift", severity, summary, self._stamp, opened, (NAME,))


def _level(found: Distance, limit: float, scale: float) -> int:
    if found.n_effective < MIN_EFFECTIVE:
        return UNKNOWN
    if found.p >= limit:
        return 0
    return sum(found.effect >= effect * scale for effect in EFFECTS)


def packed(sums: Ints) -> bytes:
    return sums.astype("<i8").tobytes()


def unpacked(blob: bytes | None, size: int) -> Ints:
    """Zeros if there is no blob, or one of another size."""
    if blob is None or len(blob) != 8 * size:
        return np.zeros(size, dtype=np.int64)
    return np.frombuffer(blob, dtype="<i8").copy()
