"""Two simulated weeks through the real drift watch: false alerts without drift, delay with it.

python -m benchmarks.drift [--weeks 2] [--seeds 3] [--features 40] [--rate 1000]

"iid": independent requests. "bursty": clients send runs of similar requests (design effect about
three) and the reference has such runs too. "surprise": the same traffic against a reference made of
independent examples, as a bundle built on a laptop has. From the start of the second week on, three
features are shifted by .3 or .15 sd.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.build import reference_profile as builder
from server.telemetry.drift.binning import BinLayout
from server.telemetry.drift.detector import DriftDetector, bundle_baseline
from server.telemetry.drift.messages import drift_findings, structural_findings
from server.telemetry.drift.reference import parse
from server.telemetry.drift.windows import HOUR_S, SLOT_S, WINDOWS, TrailingWindows
from server.telemetry.record import FeatureSpec

SHIFTED = 3
# Mean run length; share of the variance that the rows of a run have in common.
BURST, SHARED = 8.0, 0.14
START_S = 1_790_000_000 // 86400 * 86400


def traffic(rows: int, features: int, bursty: bool, r: np.random.Generator) -> NDArray[np.float64]:
    """[rows, features]: normal, lognormal, count and categorical features in turn."""
    noise = r.normal(size=(rows, features))
    if bursty:
        runs = np.repeat(np.arange(rows), r.geometric(1 / BURST, rows))[:rows]
        noise = SHARED**0.5 * r.normal(size=(rows, features))[runs] + (1 - SHARED) ** 0.5 * noise
    return noise


def shaped(noise: NDArray[np.float64]) -> NDArray[np.float32]:
    values = noise.copy()
    values[:, 1::4] = np.exp(values[:, 1::4])
    values[:, 2::4] = np.rint(20 + 4 * values[:, 2::4])
    edges = (-1.2, -0.2, 0.5, 1.4)
    values[:, 3::4] = np.searchsorted(edges, values[:, 3::4])
    return values.astype(np.float32)


def schema(features: int) -> tuple[FeatureSpec, ...]:
    modalities = ("text", "image", "audio", "request", "output")
    return tuple(FeatureSpec(f"f{i:02d}", modalities[i % 5], *_kind(i)) for i in range(features))


def _kind(i: int) -> tuple[str, str, tuple[str, ...]]:
    return ("categorical", "", tuple("abcde")) if i % 4 == 3 else ("numeric", "1", ())


def openings(
    watch: DriftDetector,
    windows: TrailingWindows,
    layout: BinLayout,
    hours: Iterator[NDArray[np.float32]],
    tick_s: int,
) -> Iterator[tuple[float, tuple[str, ...]]]:
    """(time, features) for each time an alert opens or adds a feature."""
    baselines = dict.fromkeys(WINDOWS, bundle_baseline(layout))
    known: dict[str, set[str]] = {}
    for hour, rows in enumerate(hours):
        at = START_S + hour * HOUR_S + (np.arange(len(rows)) + 0.5) * HOUR_S / len(rows)
        coded = layout.code(rows, np.ones(rows.shape, dtype=bool))
        for end in range(tick_s, HOUR_S + 1, tick_s):
            now = START_S + hour * HOUR_S + end - 1
            windows.advance(now)
            for slot in range((end - tick_s) // SLOT_S, end // SLOT_S):
                first = START_S + hour * HOUR_S + slot * SLOT_S
                inside = (at >= first) & (at < first + SLOT_S)
                windows.add("", first, layout.block().add(coded, inside))
            tick = watch.tick(now, baselines)
            for finding in drift_findings(watch, tick) + structural_findings(watch, tick):
                if finding.severity and finding.confirmed:
                    fresh = set(finding.features) - known.get(finding.key, set())
                    if fresh:
                        print(f"    {finding.kind}: {finding.summary}", file=sys.stderr)
                        yield (now - START_S) / HOUR_S, tuple(sorted(fresh))
                    known[finding.key] = set(finding.features)
                else:
                    known.pop(finding.key, None)


def alerts(
    reference: NDArray[np.float32],
    specs: tuple[FeatureSpec, ...],
    hours: Iterable[NDArray[np.float32]],
    tick_s: int,
) -> Iterator[tuple[float, tuple[str, ...]]]:
    """(hours since the first row, features) for each time the watch opens an alert or adds a
    feature."""
    layout = BinLayout(parse(json.dumps(builder.build(reference, specs)).encode(), specs))
    past: dict[int, dict[str, NDArray[np.int64]]] = {}
    windows = TrailingWindows(layout.total, lambda hour: past.get(hour, {}))
    watch = DriftDetector("0" * 64, layout, windows, tick_s)

    def kept() -> Iterator[NDArray[np.float32]]:
        for hour, rows in enumerate(hours):
            block = layout.block()
            past[START_S // HOUR_S + hour] = {
                "": block.add(layout.code(rows, np.ones(rows.shape, dtype=bool)), slice(None))
            }
            past.pop(START_S // HOUR_S + hour - 30, None)
            yield rows

    return openings(watch, windows, layout, kept(), tick_s)


def run(kind: str, shift: float, seed: int, args: argparse.Namespace) -> tuple[float, float | None]:
    """(false alerts a week, hours until every shifted feature had an alert; None: never)."""
    r = np.random.default_rng([seed, 77])
    bursty = kind != "iid"
    specs = schema(args.features)
    reference = shaped(traffic(args.reference, args.features, kind == "bursty", r))
    strikes = args.weeks * 7 * 24 // 2

    def hours() -> Iterator[NDArray[np.float32]]:
        for hour in range(args.weeks * 7 * 24 if not shift else strikes + 72):
            noise = traffic(int(r.poisson(args.rate)), args.features, bursty, r)
            if shift and hour >= strikes:
                noise[:, :SHIFTED] += shift
            yield shaped(noise)

    drifted = {f"f{i:02d}" for i in range(SHIFTED)} if shift else set()
    false, found = 0, dict[str, float]()
    for at, features in alerts(reference, specs, hours(), args.tick):
        real = [f for f in features if f in drifted and at >= strikes]
        false += not real
        for feature in real:
            found.setdefault(feature, at - strikes)
    weeks = (strikes if shift else args.weeks * 168) / 168
    delay = max(found.values()) if len(found) == SHIFTED else None
    print(f"  {kind} shift {shift} seed {seed}: {false} false, delays {found}", file=sys.stderr)
    return false / weeks, delay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--rate", type=int, default=1000, help="requests an hour")
    parser.add_argument("--tick", type=int, default=SLOT_S, help="seconds between ticks")
    parser.add_argument("--reference", type=int, default=50_000, help="rows of the reference")
    parser.add_argument("--kinds", default="iid,bursty,surprise")
    parser.add_argument("--shifts", default="0,0.3,0.15")
    args = parser.parse_args()
    print(f"{'traffic':10} {'shift':>6} {'false/week':>11} {'slowest h':>10}")
    for kind in args.kinds.split(","):
        for shift in map(float, args.shifts.split(",")):
            outcomes = [run(kind, shift, seed, args) for seed in range(args.seeds)]
            rates, delays = zip(*outcomes, strict=True)
            known = [delay for delay in delays if delay is not None]
            late = "never" if len(known) < len(delays) else f"{max(known):.1f}"
            slowest = late if shift else "-"
            print(f"{kind:10} {shift:6.2f} {max(rates):11.2f} {slowest:>10}", flush=True)


if __name__ == "__main__":
    main()
