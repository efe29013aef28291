"""The cost of monitoring: the server with telemetry on against the same server with it off.

On means telemetry, a Prometheus endpoint and consoles that watch. A third server, off like the
second, is the control: two starts of one server differed by 4 % over twenty rounds, so more rounds
of one start prove nothing. All three therefore start again in every block, and are loaded in turn,
each of them first, second and last equally often. Prints the ratio of each block for both pairs,
and their geometric means with the standard error over blocks; and the CPU a request took in the
front and in its replicas, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import math
import statistics
import threading
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass

import grpc

from benchmarks.serve import LoadClient, Ours, memory, serving
from proto import observe_pb2 as ob
from proto.observe_pb2_grpc import ObserveStub


class Consoles:
    """Streams that are read as a console reads them, with a count of their bytes."""

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


FLAGS = {
    "on": ["--prometheus", "127.0.0.1:0"],
    "off": ["--no-telemetry"],
    "control": ["--no-telemetry"],
}
NAMES = tuple(FLAGS)


@dataclass(slots=True)
class Spent:
    """CPU seconds for `requests` that took `wall_s`."""

    front_s: float = 0.0
    replicas_s: float = 0.0
    requests: float = 0.0
    wall_s: float = 0.0

    @property
    def rps(self) -> float:
        return self.requests / self.wall_s

    def us(self, seconds: float) -> float:
        return seconds / self.requests * 1e6

    def add(self, other: Spent) -> None:
        self.front_s += other.front_s
        self.replicas_s += other.replicas_s
        self.requests += other.requests
        self.wall_s += other.wall_s


def turn(load: LoadClient, ours: Ours, arguments: argparse.Namespace) -> Spent:
    before = ours.cpu_s()
    found = load.measure([ours.target], arguments.callers, arguments.round_seconds)
    after = ours.cpu_s()
    wall_s = found["requests"] / found["rps"]
    return Spent(after[0] - before[0], after[1] - before[1], found["requests"], wall_s)


@dataclass(slots=True)
class Block:
    spent: dict[str, Spent]
    console_bytes_s: float  # of each console, while its server was loaded
    front_mib: dict[str, float]

    def ratio(self, name: str) -> float:
        return self.spent[name].rps / self.spent["off"].rps


def measure(load: LoadClient, number: int, arguments: argparse.Namespace) -> Block:
    """Three new servers, started and loaded in an order that changes with `number`."""
    with ExitStack() as ends:
        servers = {}
        for name in rotated(number):
            servers[name] = ends.enter_context(serving(arguments.bundle, 2, FLAGS[name]))
        consoles = Consoles(servers["on"].target, arguments.consoles)
        ends.callback(consoles.close)
        spent: dict[str, Spent] = defaultdict(Spent)
        sent = 0
        for round_number in range(arguments.rounds):
            for name in rotated(number + round_number):
                before = sum(consoles.bytes)
                spent[name].add(turn(load, servers[name], arguments))
                sent += sum(consoles.bytes) - before if name == "on" else 0
        each = sent / max(arguments.consoles, 1) / spent["on"].wall_s
        rss = {name: memory(ours.process.pid)[0] for name, ours in servers.items()}
    return Block(dict(spent), each, rss)


def rotated(number: int) -> tuple[str, ...]:
    """The order of the three; in six numbers every order occurs once."""
    names = NAMES if number // 3 % 2 == 0 else NAMES[::-1]
    first = number % 3
    return names[first:] + names[:first]


def watched(arguments: argparse.Namespace) -> None:
    blocks = []
    with LoadClient() as load:
        for number in range(arguments.blocks):
            block = measure(load, number, arguments)
            blocks.append(block)
            rates = ", ".join(f"{name} {block.spent[name].rps:.1f}" for name in NAMES)
            print(
                f"block {number + 1}: {rates} requests/s; on / off {block.ratio('on'):.3f}, "
                f"control / off {block.ratio('control'):.3f}",
                flush=True,
            )
    report(blocks, arguments.consoles)


def report(blocks: list[Block], consoles: int) -> None:
    for name in ("on", "control"):
        logs = [math.log(block.ratio(name)) for block in blocks]
        error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        print(
            f"{name} / off: {math.exp(statistics.mean(logs)):.3f} "
            f"+- {error:.3f} (standard error over {len(logs)} blocks)"
        )
    whole = {name: Spent() for name in NAMES}
    for block in blocks:
        for name in NAMES:
            whole[name].add(block.spent[name])
    for name, one in whole.items():
        print(
            f"CPU a request, {name}: front {one.us(one.front_s):.0f} us, "
            f"replicas {one.us(one.replicas_s):.0f} us"
        )
    on, off = whole["on"], whole["off"]
    more = on.us(on.front_s) - off.us(off.front_s)
    share = more / off.us(off.front_s + off.replicas_s)
    print(f"telemetry's own: {more:.0f} us, {share:.1%} of what a request costs without it")
    if consoles:
        each = statistics.mean(block.console_bytes_s for block in blocks)
        print(f"each of {consoles} consoles got {each / 1e3:.1f} kB/s under this load")
    for name in ("on", "off"):
        print(
            f"front RSS, {name}: {max(block.front_mib[name] for block in blocks):.0f} MiB at most"
        )
