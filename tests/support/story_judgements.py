"""What the servers of the simulated fleet report about their answers: features and their
profiles, drift, quality, worst slices."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from proto import observe_pb2
from tests.support.fleet_story import (
    BINS,
    FEATURES,
    FORMATS,
    LABELS,
    SHIFTS,
    SLICES,
    Character,
    stamp_of,
)


def feature_rows(who: Character) -> Iterator[observe_pb2.WatchEvent]:
    for name, modality, kind, unit, mean, deviation in FEATURES:
        yield observe_pb2.WatchEvent(
            feature=observe_pb2.FeatureRow(
                name=name,
                modality=modality,
                kind=kind,
                unit=unit,
                stamp=stamp_of(who),
                edges=mean + deviation * _normal_edges(),
                reference_counts=[1875] * BINS,
                reference_n=120_000,
                importance=0.5,
            )
        )
    yield observe_pb2.WatchEvent(
        feature=observe_pb2.FeatureRow(
            name="image.format",
            modality="image",
            kind="categorical",
            categories=FORMATS,
            stamp=stamp_of(who),
            reference_counts=[90_000, 30_000, 0, 0],
            reference_n=120_000,
        )
    )


def _normal_edges() -> np.ndarray:
    """Inner edges of 64 equally likely bins of the standard normal, by bisection of its CDF."""
    grid = np.linspace(-4, 4, 20_001)
    cdf = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in grid])
    return np.interp(np.arange(1, BINS) / BINS, cdf, grid)


def profile_rows(
    who: Character, hour_s: int, n: int, rng: np.random.Generator
) -> Iterator[observe_pb2.WatchEvent]:
    for name, _, _, _, mean, deviation in FEATURES:
        for place in SLICES:
            shift = SHIFTS.get((name, place), 0.0) if who.drifts else 0.0
            share = n if not place else n // 3
            values = rng.normal(shift, 1.0 + abs(shift) * 0.1, min(share, 1500))
            counts = np.histogram(values, np.concatenate(([-9], _normal_edges(), [9])))[0]
            real = mean + deviation * values
            yield observe_pb2.WatchEvent(
                profile=observe_pb2.ProfileRow(
                    stamp=stamp_of(who),
                    feature=name,
                    slice=place,
                    hour_unix_s=hour_s,
                    n=len(values),
                    sum=float(real.sum()),
                    sum_squares=float((real**2).sum()),
                    min=float(real.min()),
                    max=float(real.max()),
                    counts=counts.tolist(),
                )
            )


def drift_rows(
    who: Character, tick_s: int, ago_s: float, rng: np.random.Generator
) -> Iterator[observe_pb2.WatchEvent]:
    """Scores that rise over the ten minutes before the story starts; the last day, which is mostly
    of before, hardly moves."""
    grown = 1 / (1 + math.exp((ago_s - 260) / 60))
    for name, *_ in FEATURES:
        for place in SLICES:
            shift = abs(SHIFTS.get((name, place), 0.04)) * (grown if who.drifts else 0.1)
            n = 8400 if not place else 12 if place == "lang=de" and name[:2] == "im" else 2600
            for hours, share in ((1, 1.0), (4, 0.6), (24, 0.1)):
                kl = (shift * share) ** 2 / 2 * float(rng.uniform(0.93, 1.07)) + 0.002
                row = drift_row(name, place, hours, n * hours, kl)
                row.tick_unix_ms, row.stamp = tick_s * 1000, stamp_of(who)
                yield observe_pb2.WatchEvent(drift=row)


def drift_row(name: str, place: str, hours: int, n: int, kl: float) -> observe_pb2.DriftRow:
    level = "insufficient"
    if n * 0.7 > 320:
        level = "critical" if kl > 0.15 else "high" if kl > 0.1 else "ok"
        level = "warning" if 0.03 < kl <= 0.1 else level
    return observe_pb2.DriftRow(
        feature=name,
        slice=place,
        window_s=hours * 3600,
        baseline="bundle",
        n=n,
        n_effective=n * 0.7,
        n_needed=320,
        ks=min(1.0, math.sqrt(2 * kl) * 0.38 + 0.01),
        p=1e-9 if kl > 0.02 else 0.4,
        q=1e-8 if kl > 0.02 else 0.6,
        kl=kl,
        js=min(1.0, kl / 4),
        psi=kl * 2.0,
        chi2_p=1e-9 if kl > 0.02 else 0.5,
        excess_kl=max(0.0, kl - 0.002),
        expected_kl=0.002,
        level=level,
        structural="new format webp: 4.1 % of images"
        if name == "image.sharpness" and place == "site=a"
        else "",
    )


def quality_rows(who: Character, hour_s: int) -> Iterator[observe_pb2.WatchEvent]:
    rng = np.random.default_rng(hour_s)
    for place, drop in (("", 0.03), ("site=a", 0.0), ("site=b", 0.14)):
        accuracy = 0.93 - drop
        row = observe_pb2.QualityRow(
            bucket_unix_s=hour_s,
            width_s=3600,
            stamp=stamp_of(who),
            slice=place,
            predictions=9000,
            labelled=420,
            accuracy=accuracy + float(rng.normal(0, 0.004)),
            estimated_accuracy=accuracy + 0.012,
            estimated_accuracy_labelled=accuracy + 0.01,
            value_per_1000=412 - 900 * drop,
            estimated_value_per_1000=430 - 860 * drop,
            ece=0.021 + drop / 4,
            median_label_delay_s=5400,
            labels=LABELS,
            confusion=[280, 14, 2, 11, 70, 6, 1, 5, 31],
            value_unit="EUR",
        )
        for number in range(10):
            n = int(5 + 14 * number)
            mean = (number + 0.5) / 10
            row.reliability.add(
                n=n, sum_confidence=n * mean, sum_correct=n * max(0.0, mean - drop / 2)
            )
        yield observe_pb2.WatchEvent(quality=row)
    for number, (expression, message, error) in enumerate(
        (
            ("site=b audio.snr_db<11", "sounds quieter than 11 dB SNR from site b", 0.31),
            ("site=b", "everything from site b", 0.17),
            ("mix=audio+image+text text.tokens>80", "long texts with picture and sound", 0.12),
        )
    ):
        yield observe_pb2.WatchEvent(
            slice=observe_pb2.SliceRow(
                expression=expression,
                message=message,
                support=900 - 200 * number,
                share=0.1 - 0.02 * number,
                error=error,
                error_elsewhere=0.06,
                z=9.1 - 2 * number,
                q=1e-6,
                value_per_1000=120 + 90 * number,
                stamp=stamp_of(who),
                at_unix_ms=hour_s * 1000,
            )
        )
