"""What being watched costs: the server with telemetry on against the same with it off.

    python -m benchmarks.watched [--seconds 5] [--rounds 6] [--callers 64] [--consoles 2]

On means telemetry, a Prometheus endpoint and consoles that watch. Both servers run at the same time
and are loaded in turn, so that what else the machine does falls on both; the order changes every
round. Prints the ratio of each round and its median; and the CPU a request took in the front and in
its replicas, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass

import grpc
import psutil

from benchmarks.serve import ROOT, Ours, Worker, memory, start_ours
from proto import observe_pb2 as ob
from proto.observe_pb2_grpc import ObserveStub


class Consoles:
    """Streams that are read as a console reads them; counts their bytes."""

    def __init__(self, target: str, count: int) -> None:
        self.bytes = [0] * count
        self._channel = grpc.insecure_channel(target)
        self._threads = [
            threading.Thread(target=self._read, args=(index,), daemon=True)
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, index: int) -> None:
        try:
            for event in ObserveStub(self._channel).Watch(ob.WatchRequest()):
                self.bytes[index] += event.ByteSize()
        except grpc.RpcError:
            return  # the server has ended

    def close(self) -> None:
        self._channel.close()
        for thread in self._threads:
            thread.join(10)


@dataclass(slots=True)
class Spent:
    """CPU seconds over `requests`."""

    front_s: float = 0.0
    replicas_s: float = 0.0
    requests: float = 0.0

    def us(self, seconds: float) -> float:
        return seconds / self.requests * 1e6


def cpu_s(ours: Ours) -> tuple[float, float]:
    front = psutil.Process(ours.process.pid)
    return sum(front.cpu_times()[:2]), sum(sum(c.cpu_times()[:2]) for c in front.children())


def turn(load: Worker, ours: Ours, spent: Spent, arguments: argparse.Namespace) -> float:
    before = cpu_s(ours)
    load.send(
        targets=[ours.target], callers=arguments.callers, seconds=arguments.seconds, mode="stream"
    )
    found = load.answer()
    after = cpu_s(ours)
    spent.front_s += after[0] - before[0]
    spent.replicas_s += after[1] - before[1]
    spent.requests += found["requests"]
    return found["rps"]


def main() -> None:
    parser = argparse.ArgumentParser(description="The price of telemetry in throughput.")
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--consoles", type=int, default=2)
    arguments = parser.parse_args()
    load = Worker("benchmarks.load")
    load.wait_ready()
    with tempfile.TemporaryDirectory() as data_on, tempfile.TemporaryDirectory() as data_off:
        servers = {
            "on": start_ours(arguments.bundle, 2, data_on, ["--prometheus", "127.0.0.1:0"]),
            "off": start_ours(arguments.bundle, 2, data_off, ["--no-telemetry"]),
        }
        consoles = Consoles(servers["on"].target, arguments.consoles)
        spent: dict[str, Spent] = defaultdict(Spent)
        ratios, sent = [], 0
        for number in range(arguments.rounds):
            rps = {}
            for name in ("on", "off") if number % 2 == 0 else ("off", "on"):
                before = sum(consoles.bytes)
                rps[name] = turn(load, servers[name], spent[name], arguments)
                sent += (sum(consoles.bytes) - before) if name == "on" else 0
            ratios.append(rps["on"] / rps["off"])
            print(f"round {number + 1}: on {rps['on']:.1f}, off {rps['off']:.1f}, {ratios[-1]:.3f}")
        print(f"telemetry on / off, median of {len(ratios)}: {statistics.median(ratios):.3f}")
        report(spent)
        if arguments.consoles:
            each = sent / arguments.consoles / arguments.rounds / arguments.seconds
            print(
                f"each of {arguments.consoles} consoles got {each / 1e3:.1f} kB/s under this load"
            )
        consoles.close()
        for name, ours in servers.items():
            print(f"front RSS, telemetry {name}: {memory(ours.process.pid)[0]:.0f} MiB")
            ours.process.terminate()
            ours.process.wait(60)
    load.close()


def report(spent: dict[str, Spent]) -> None:
    for name, one in spent.items():
        print(
            f"CPU a request, telemetry {name}: front {one.us(one.front_s):.0f} us, "
            f"replicas {one.us(one.replicas_s):.0f} us"
        )
    on, off = spent["on"], spent["off"]
    more = on.us(on.front_s) - off.us(off.front_s)
    whole = off.us(off.front_s + off.replicas_s)
    print(f"telemetry's own: {more:.0f} us, {more / whole:.1%} of what a request costs without it")


if __name__ == "__main__":
    main()
