"""What being watched costs: the server with telemetry on against the same with it off.

    python -m benchmarks.watched [--seconds 5] [--rounds 6] [--callers 64]

Both servers run at the same time and are loaded in turn, so that what else the machine does falls
on both; the order changes every round. Prints the ratio of each round and its median.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from benchmarks.serve import ROOT, Worker, memory, start_ours


def main() -> None:
    parser = argparse.ArgumentParser(description="The price of telemetry in throughput.")
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--callers", type=int, default=64)
    arguments = parser.parse_args()
    load = Worker("benchmarks.load")
    load.wait_ready()
    with tempfile.TemporaryDirectory() as data_on, tempfile.TemporaryDirectory() as data_off:
        servers = {
            "on": start_ours(arguments.bundle, 2, data_on, ["--prometheus", "127.0.0.1:0"]),
            "off": start_ours(arguments.bundle, 2, data_off, ["--no-telemetry"]),
        }
        ratios = []
        for turn in range(arguments.rounds):
            rps = {}
            for name in ("on", "off") if turn % 2 == 0 else ("off", "on"):
                load.send(
                    targets=[servers[name].target],
                    callers=arguments.callers,
                    seconds=arguments.seconds,
                    mode="stream",
                )
                rps[name] = load.answer()["rps"]
            ratios.append(rps["on"] / rps["off"])
            print(f"round {turn + 1}: on {rps['on']:.1f}, off {rps['off']:.1f}, {ratios[-1]:.3f}")
        print(f"telemetry on / off, median of {len(ratios)}: {statistics.median(ratios):.3f}")
        for name, ours in servers.items():
            print(f"front RSS, telemetry {name}: {memory(ours.process.pid)[0]:.0f} MiB")
            ours.process.terminate()
            ours.process.wait(60)
    load.close()


if __name__ == "__main__":
    main()
