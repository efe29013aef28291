"""Honest callers with hostile ones.

    python -m benchmarks.hostile [--minutes 5] [--round 15] [--only KIND] [-- FLAGS]

FLAGS are of `server`, for example `-- --max-streams 256`.

One server of one replica. Four honest callers from 127.0.0.1 send a request each, wait for the
answer and pause. In every second round, a process at ::1 carries out all attacks of
support/hostile_mix.py. Rounds with and without it alternate, so that both meet the same machine;
at the start of a round all attacks begin at once.
Prints a table; exits 1 when goodput falls below 0.9 of that without attacks, the 99th percentile
rises above twice that without attacks, the front uses more than 400 MiB, calls and descriptors are
left over at the end, or a kind of attack was never carried out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil

from benchmarks.serve import ROOT, cpu_s, free_port
from benchmarks.support.load import CHANNEL
from benchmarks.support.payloads import mixed_pool
from benchmarks.support.sampler import Sampler
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub

CALLERS = 4
PAUSE_S = 0.25  # of a caller between an answer and its next request
DEADLINE_S = 10.0
LEAVE_S = 30.0  # time for the remains of hostile callers to be closed
GOODPUT, P99, RSS_MIB, DESCRIPTORS = 0.9, 2.0, 400.0, 4


@dataclass(slots=True)
class Side:
    """Honest requests of all rounds of one kind."""

    seconds: float = 0.0
    front_s: float = 0.0  # CPU seconds of the front
    times: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def at_ms(self, share: float) -> float:
        return float(np.quantile(self.times, share)) * 1e3


async def honest(target: str, examples: list[pb.Example], seconds: float, side: Side) -> None:
    end = time.perf_counter() + seconds
    side.seconds += seconds

    async def caller(stub: InferenceStub, number: int) -> None:
        turn = number * 7
        while time.perf_counter() < end:
            request = pb.PredictRequest(examples=[examples[turn % len(examples)]])
            turn += 1
            began = time.perf_counter()
            try:
                answer = await stub.Predict(request, timeout=DEADLINE_S)
                if answer.results[0].HasField("prediction"):
                    side.times.append(time.perf_counter() - began)
                else:
                    side.failed[answer.results[0].fault.reason] += 1
            except grpc.aio.AioRpcError as error:
                side.failed[f"{error.code().name} {(error.details() or '')[:60]}"] += 1
            await asyncio.sleep(PAUSE_S)

    async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
        stub = InferenceStub(channel)
        await asyncio.gather(*(caller(stub, number) for number in range(CALLERS)))


@contextmanager
def server(data: str, port: int, scrape: str, flags: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "server.main", "--warm-pool", "1", "--insecure"]
    command += ["--listen", f":{port}", "--data", data, "--prometheus", scrape, *flags]
    with open(Path(data) / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_ready(process: subprocess.Popen[str], data: str) -> None:
    while "ready on" not in (log := (Path(data) / "server.log").read_text()):
        if process.poll() is not None:
            raise SystemExit(log)
        time.sleep(0.2)


@contextmanager
def attackers(port: int, scrape: str, only: str, done: Counter[str]) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.support.hostile_mix", f"[::1]:{port}", scrape]
    command.append(only)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for kind in json.loads(process.stdout.readline()):  # the attacks have begun
            done[kind] += 0
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            out, _ = process.communicate(timeout=60)
            done.update(json.loads(out.strip().splitlines()[-1]))
        except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError):
            process.kill()
            process.wait()


def open_calls(scrape: str) -> int:
    with urllib.request.urlopen(f"http://{scrape}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return int(sum(map(float, re.findall(r"^trefoil_calls_open\{.*\} (\S+)$", text, re.M))))


def left_over(front: psutil.Process, scrape: str, before: int) -> tuple[int, int]:
    """Calls and descriptors beyond `before`, after some time for them to close."""
    end = time.monotonic() + LEAVE_S
    while True:
        left = open_calls(scrape), front.num_fds() - before
        if (left[0] == 0 and left[1] <= DESCRIPTORS) or time.monotonic() > end:
            return left
        time.sleep(1)


def measure(minutes: float, round_s: float, only: str, flags: list[str]) -> int:
    examples = mixed_pool(48)
    alone, beside = Side(), Side()
    done: Counter[str] = Counter()
    port, scrape = free_port(), f"127.0.0.1:{free_port()}"
    target = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as data, server(data, port, scrape, flags) as process:
        wait_ready(process, data)
        asyncio.run(honest(target, examples, 5, Side()))
        front = psutil.Process(process.pid)

        def size() -> tuple[float, int]:
            return front.memory_info().rss / 2**20, front.num_fds()

        with Sampler(size, 0.1) as sizes:
            for _ in range(max(1, round(minutes * 60 / round_s / 2))):
                began_s = cpu_s(front)
                asyncio.run(honest(target, examples, round_s, alone))
                between_s = cpu_s(front)
                with attackers(port, scrape, only, done):
                    asyncio.run(honest(target, examples, round_s, beside))
                alone.front_s += between_s - began_s
                beside.front_s += cpu_s(front) - between_s
            first_rss, before = sizes.seen[0]
            calls, descriptors = left_over(front, scrape, before)
        last_rss = size()[0]
        most_rss, most_descriptors = map(max, zip(*sizes.seen, strict=True))
        log = (Path(data) / "server.log").read_text()
    goodput = beside.goodput / alone.goodput
    p99 = beside.at_ms(0.99) / alone.at_ms(0.99)
    print("done by hostile callers:", ", ".join(f"{n} x {kind}" for kind, n in done.items()))
    print("| honest callers | alone | beside hostile ones | ratio | bound |")
    print("|---|---|---|---|---|")
    print(
        f"| answers a second | {alone.goodput:.1f} | {beside.goodput:.1f} | {goodput:.2f} | "
        f">= {GOODPUT} |"
    )
    for share, bound in ((0.5, ""), (0.99, f"<= {P99:g}")):
        times = alone.at_ms(share), beside.at_ms(share)
        ratio = times[1] / times[0]
        name = f"p{100 * share:.0f}, ms"
        print(f"| {name} | {times[0]:.0f} | {times[1]:.0f} | {ratio:.2f} | {bound} |")
    busy = 100 * alone.front_s / alone.seconds, 100 * beside.front_s / beside.seconds
    print(f"| front, % of a core | {busy[0]:.0f} | {busy[1]:.0f} | {busy[1] / busy[0]:.2f} | |")
    print(f"| failed | {sum(alone.failed.values())} | {sum(beside.failed.values())} | | |")
    print(
        f"front: {most_rss:.0f} MiB at most (bound {RSS_MIB:.0f}), {first_rss:.0f} before, "
        f"{last_rss:.0f} after; {most_descriptors} descriptors at most, "
        f"{descriptors:+d} after; {calls} calls left open"
    )
    for text, count in (alone.failed + beside.failed).most_common(5):
        print(f"  {count} x {text}")
    undone = [kind for kind, times in done.items() if not times]
    if undone:
        print(f"not measured, for hostile callers had too little time: {', '.join(undone)}")
    faults = [line for line in log.splitlines() if re.search("CRITICAL|Traceback|a bug", line)]
    for line in faults[:5]:
        print(f"  log: {line}")
    good = goodput >= GOODPUT and p99 <= P99 and most_rss <= RSS_MIB
    left = calls or descriptors > DESCRIPTORS
    return 0 if good and not left and not faults and not undone else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--round", type=float, default=15.0, metavar="SECONDS", help="default: 15")
    parser.add_argument("--only", default="", metavar="KIND", help="attacks whose name has this")
    parser.add_argument("flags", nargs="*", help="flags of the server, after --")
    arguments = parser.parse_args()
    return measure(arguments.minutes, arguments.round, arguments.only, arguments.flags)


if __name__ == "__main__":
    sys.exit(main())
