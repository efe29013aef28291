"""Compares the drift watch with Evidently, NannyML and whylogs on the same rows.

    python -m benchmarks.drift_peers [--hours 168] [--shifts 0.3,0.15] [--kinds iid,bursty]

A week without drift, then three of the features shift. The peers, with their defaults, evaluate
each hour and each day, as a scheduled job would; the watch of this server uses its own ticks. An
alert is counted when a feature is flagged that the evaluation before did not flag. NannyML does
not evaluate days: it needs ten reference chunks of the size it evaluates. Each peer gets its own
environment under build/peers, filled with pip at first use (about 2 GB in all).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift import SHIFTED, alerts, schema, shaped, traffic
from benchmarks.serve import ROOT
from server.telemetry.drift.windows import SLOT_S

# What each needs to import at all: pip's own choice of versions does not work.
PEERS = {
    "evidently": ("evidently==0.7.23", "pandas<3"),
    "nannyml": ("nannyml==0.13.1", "statsmodels", "pandas<3"),
    "whylogs": ("whylogs[viz]==1.6.4", "numpy<2", "pandas<3"),
}
LOOKS = {
    "evidently": {"hour": 1, "day": 24},
    "nannyml": {"hour": 1},
    "whylogs": {"hour": 1, "day": 24},
}
Alerts = Iterable[tuple[float, tuple[str, ...]]]
Judged = tuple[int, dict[str, float]]  # false alerts; hours until each shifted feature was flagged
# Without these, two of them would report every run to their makers.
QUIET = {"NML_DISABLE_USAGE_LOGGING": "1", "WHYLOGS_NO_ANALYTICS": "True", "DO_NOT_TRACK": "1"}
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Traffic:
    reference: Rows
    calm: list[Rows]  # by hour
    shifted: dict[float, list[Rows]]  # shift -> by hour


def made(kind: str, args: argparse.Namespace) -> Traffic:
    r = np.random.default_rng([args.seed, 99])
    bursty = kind == "bursty"

    def hours(count: int, shift: float) -> list[Rows]:
        found = []
        for _ in range(count):
            noise = traffic(int(r.poisson(args.rate)), args.features, bursty, r)
            noise[:, :SHIFTED] += shift
            found.append(shaped(noise))
        return found

    reference = shaped(traffic(args.reference, args.features, bursty, r))
    shifts = [float(shift) for shift in args.shifts.split(",")]
    return Traffic(reference, hours(args.hours, 0.0), {s: hours(48, s) for s in shifts})


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is created if it does not exist."""
    folder = ROOT / "build" / "peers" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name]], check=True)
        (folder / "ready").touch()
    return python


def flagged_by(name: str, reference: Rows, windows: list[Rows]) -> list[set[str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traffic.npz"
        ends = np.cumsum([len(rows) for rows in windows])
        np.savez(path, reference=reference, rows=np.concatenate(windows), ends=ends)
        script = ROOT / "benchmarks/support/drift_peer.py"
        command: list[str | Path] = [python_of(name), script, name, path]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | QUIET
        )
    return [set(window) for window in json.loads(done.stdout.splitlines()[-1])]


def judged(found: Alerts, calm_h: int) -> Judged:
    """The result from alerts as they open."""
    drifted = {f"f{i:02d}" for i in range(SHIFTED)}
    false, delays = 0, dict[str, float]()
    for at, features in found:
        false += at <= calm_h
        for feature in drifted.intersection(features) if at > calm_h else ():
            delays.setdefault(feature, at - calm_h)
    return false, delays


def looked(calm: list[set[str]], after: list[set[str]], hours: int) -> Judged:
    """The result from evaluations every `hours`. An alert opens when a feature is flagged that was
    not flagged before. Any evaluation that flags a shifted feature names it, and this is known at
    its end."""
    false = sum(bool(now - before) for before, now in pairwise([set(), *calm]))
    delays = dict[str, float]()
    for number, flagged in enumerate(after, start=1):
        for feature in flagged & {f"f{i:02d}" for i in range(SHIFTED)}:
            delays.setdefault(feature, float(number * hours))
    return false, delays


def days(hours: list[Rows], count: int) -> list[Rows]:
    whole = len(hours) - len(hours) % count
    return [np.concatenate(hours[i : i + count]) for i in range(0, whole, count)]


def line(name: str, kind: str, found: dict[float, Judged], weeks: float) -> str:
    delays = []
    for shift, (_, named) in found.items():
        late = f"{max(named.values()):.0f} h" if len(named) == SHIFTED else f"{len(named)} of 3"
        delays.append(f"{shift} sd: {late}")
    false = next(iter(found.values()))[0]
    return f"{name:16} {kind:8} {false / weeks:10.1f}   {', '.join(delays)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=int, default=168, help="without drift")
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--rate", type=int, default=1000, help="requests an hour")
    parser.add_argument("--reference", type=int, default=50_000, help="rows of the reference")
    parser.add_argument("--kinds", default="iid,bursty")
    parser.add_argument("--shifts", default="0.3,0.15")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    specs = schema(args.features)
    print(f"{'watch':16} {'traffic':8} {'false/week':>10}   all three shifted features named after")
    for kind in args.kinds.split(","):
        seen = made(kind, args)
        found = {
            shift: judged(
                alerts(seen.reference, specs, iter(seen.calm + hours), SLOT_S), len(seen.calm)
            )
            for shift, hours in seen.shifted.items()
        }
        print(line("trefoil", kind, found, args.hours / 168), flush=True)
        for name in args.peers.split(","):
            for look, size in LOOKS[name].items():
                calm = flagged_by(name, seen.reference, days(seen.calm, size))
                found = {}
                for shift, hours in seen.shifted.items():
                    after = flagged_by(name, seen.reference, days(hours, size))
                    found[shift] = looked(calm, after, size)
                print(line(f"{name}, {look}", kind, found, args.hours / 168), flush=True)


if __name__ == "__main__":
    main()
