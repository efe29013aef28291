"""What telemetry costs.

    python -m benchmarks.telemetry [STEP ...] [--seconds 10] [--features 60] [--slices 20] ...

writer      records a second that are counted, written and judged, sustained
tick        milliseconds of one drift tick, and of one flush of all sums
week        bytes of a week of hourly profiles, features x slices
path        CPU microseconds of the event loop and of the replica a request: the features into one
            blob, the call and the record for OpenTelemetry (Prometheus on), the record queued
extraction  milliseconds of CPU that computing the features themselves takes, by what was sent; they
            are computed with telemetry off too
search      seconds of the worst-slice search over 300,000 rows x 30 features
otel        OpenTelemetry on the request path, in the draining thread, and beside the SDK's own
watched     throughput, CPU and memory of a server with telemetry on against the same with it off (a
            quarter of an hour; only when named)
"""

from __future__ import annotations

import argparse

from benchmarks.serve import ROOT
from benchmarks.telemetry.recording import tick, week, writer
from benchmarks.telemetry.request import extraction, otel, path, search
from benchmarks.telemetry.throughput import watched

ALL = (writer, tick, week, path, extraction, search, otel, watched)
STEPS = {step.__name__: step for step in ALL}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.telemetry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writer")
    parser.add_argument("--features", type=int, default=60)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--calls", type=int, default=20_000, help="of otel")
    parser.add_argument(
        "--bundle", default=str(ROOT / "pipelines/triage/bundle"), help="of watched"
    )
    parser.add_argument("--blocks", type=int, default=6, help="fresh starts of all three servers")
    parser.add_argument("--rounds", type=int, default=6, help="of each block; best a multiple of 6")
    parser.add_argument("--round-seconds", type=float, default=3.0)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--consoles", type=int, default=2)
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - STEPS.keys():
        parser.error(f"no step {unknown.pop()!r}; there are {', '.join(STEPS)}")
    for name in arguments.steps or list(STEPS)[:-1]:
        STEPS[name](arguments)


if __name__ == "__main__":
    main()
