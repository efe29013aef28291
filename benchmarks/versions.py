"""Switches bundles under load: nothing fails, nothing mixes, and the cost for callers is measured.

    python -m benchmarks.versions [--swaps 20] [--rollbacks 5] [--requests 10000]

Three bundles that answer differently are loaded, activated and rolled back in turn under 16 callers
and 4 token streams without pause. Every answer is compared with the answer of the bundle it names
in another process, and every text with the text of that bundle. Exits 1 when anything failed or
mixed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.serve import ROOT, serving
from benchmarks.support.flood import distance
from benchmarks.support.load import CHANNEL
from benchmarks.support.payloads import mixed_pool
from benchmarks.variants import Variant, variants
from proto import admin_pb2 as ab
from proto import inference_pb2 as pb
from proto.admin_pb2_grpc import AdminStub
from proto.inference_pb2_grpc import InferenceStub
from tests.support.tolerance import PROBABILITY

CALLERS, STREAMS = 16, 4
EXAMPLES = 56
TOKENS = 48
STEADY_S = 30.0
MIB = 1 << 20


@dataclass(slots=True)
class Observed:
    """Latencies in seconds with the time at which they ended; `wrong` are answers by another bundle
    than the one they name."""

    known: dict[str, Variant]
    ended: list[tuple[float, float]] = field(default_factory=list)
    stamps: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    texts: int = 0
    mixed_texts: int = 0
    wrong_texts: int = 0

    def p(self, share: float, since: float, until: float) -> float:
        """The quantile in milliseconds; NaN without values."""
        found = sorted(took for at, took in self.ended if since <= at < until)
        return 1e3 * found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")


async def call(
    stub: InferenceStub, index: int, examples: Sequence[pb.Example], to: Observed
) -> None:
    began = time.perf_counter()
    try:
        answer = await stub.Predict(pb.PredictRequest(examples=[examples[index]]))
    except grpc.aio.AioRpcError as error:
        to.failed[f"{error.code().name} {error.details()}"] += 1
        return
    now = time.perf_counter()
    to.ended.append((now, now - began))
    result = answer.results[0]
    to.stamps[result.stamp] += 1
    expected = to.known[result.stamp].answers[index]
    to.wrong += answer.stamp.hex != result.stamp or distance(answer, expected) > PROBABILITY.units


async def write(stub: InferenceStub, example: pb.Example, index: int, to: Observed) -> None:
    """One text of a token stream; its first and its last message name the stamp."""
    stamps, pieces = set(), []
    try:
        async for event in stub.Generate(
            pb.GenerateRequest(example=example, max_new_tokens=TOKENS)
        ):
            pieces.append(event.text)
            if event.stamp.hex:
                stamps.add(event.stamp.hex)
    except grpc.aio.AioRpcError as error:
        to.failed[f"stream {error.code().name} {error.details()}"] += 1
        return
    to.texts += 1
    to.mixed_texts += len(stamps) != 1
    to.wrong_texts += "".join(pieces) != to.known[stamps.pop()].texts[index]


@asynccontextmanager
async def load(target: str, examples: Sequence[pb.Example], to: Observed) -> AsyncIterator[None]:
    done = asyncio.Event()
    async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
        stub = InferenceStub(channel)

        async def caller(turn: int) -> None:
            while not done.is_set():
                turn += 1
                await call(stub, turn % len(examples), examples, to)

        async def writer(turn: int) -> None:
            while not done.is_set():
                turn += 1
                index = turn % len(to.known[next(iter(to.known))].texts)
                await write(stub, examples[index], index, to)

        tasks = [asyncio.create_task(caller(i * 3)) for i in range(CALLERS)]
        tasks += [asyncio.create_task(writer(i)) for i in range(STREAMS)]
        try:
            yield
        finally:
            done.set()
            await asyncio.gather(*tasks)


@dataclass(slots=True)
class Switcher:
    """Deploys with the commands' own calls; times in seconds, `switch_us` as the server reports
    it."""

    admin: AdminStub
    load_s: list[float] = field(default_factory=list)
    activate_s: list[float] = field(default_factory=list)
    rollback_s: list[float] = field(default_factory=list)
    switch_us: list[float] = field(default_factory=list)

    async def load(self, variant: Variant) -> None:
        began = time.perf_counter()
        async for _ in self.admin.Load(ab.LoadRequest(path=str(variant.path))):
            pass
        self.load_s.append(time.perf_counter() - began)

    async def activate(self, variant: Variant) -> None:
        await self._switch(
            self.admin.Activate(ab.ActivateRequest(stamp=variant.stamp)), self.activate_s
        )

    async def roll_back(self) -> str:
        done = await self._switch(self.admin.Rollback(ab.RollbackRequest()), self.rollback_s)
        return str(done.stamp.hex)

    async def _switch(self, call: Awaitable[ab.Progress], times: list[float]) -> ab.Progress:
        began = time.perf_counter()
        done = await call
        times.append(time.perf_counter() - began)
        self.switch_us.append(float(done.detail.split()[1]))
        return done


async def under_load(
    target: str,
    found: Sequence[Variant],
    examples: Sequence[pb.Example],
    options: argparse.Namespace,
) -> int:
    """How many requests failed or mixed stamps."""
    to = Observed({variant.stamp: variant for variant in found})
    async with grpc.aio.insecure_channel(target) as channel:
        switcher = Switcher(AdminStub(channel))
        async with load(target, examples, to):
            await asyncio.sleep(3.0)  # the first seconds of every start are not steady
            steady = time.perf_counter()
            await asyncio.sleep(STEADY_S)
            swaps = time.perf_counter()
            await swap_about(switcher, found, options)
            end = time.perf_counter()
            while len(to.ended) < options.requests:  # noqa: ASYNC110 - a count, not an event
                await asyncio.sleep(0.5)
    print(
        f"{len(to.ended)} requests, {to.texts} texts, {len(switcher.activate_s)} swaps, "
        f"{len(switcher.rollback_s)} rollbacks in {end - swaps:.0f} s"
    )
    print(f"failed: {sum(to.failed.values())} {dict(to.failed) or ''}")
    answered = {stamp[:12]: count for stamp, count in to.stamps.items()}
    print(f"answers of another bundle than they name: {to.wrong}; by stamp {answered}")
    print(f"texts with more than one stamp: {to.mixed_texts}, of another bundle: {to.wrong_texts}")
    report(to, switcher, (steady, swaps), (swaps, end))
    return sum(to.failed.values()) + to.wrong + to.mixed_texts + to.wrong_texts


def report(
    to: Observed, switcher: Switcher, steady: tuple[float, float], swapping: tuple[float, float]
) -> None:
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("worst", 1.0)):
        before, during = to.p(share, *steady), to.p(share, *swapping)
        print(f"{name}: steady {before:.1f} ms, swapping {during:.1f} ms: {during / before:.2f}")
    print(f"load: median {statistics.median(switcher.load_s):.1f} s beside the load")
    print(f"switch inside the server: worst {max(switcher.switch_us):.1f} us")
    for name, times in (("activate", switcher.activate_s), ("rollback", switcher.rollback_s)):
        if times:
            worst, middle = 1e3 * max(times), 1e3 * statistics.median(times)
            print(f"{name}, call and links on disk: median {middle:.1f} ms, worst {worst:.1f} ms")


async def swap_about(
    switcher: Switcher, found: Sequence[Variant], options: argparse.Namespace
) -> None:
    """Each swap loads a bundle that is neither served nor warm, so each is a whole deployment."""
    serving, warm = found[0], None
    back_after = max(1, options.swaps // max(options.rollbacks, 1))
    for turn in tqdm(range(options.swaps), desc="swaps"):
        fresh = next(v for v in found if v not in (serving, warm))
        await switcher.load(fresh)
        await switcher.activate(fresh)
        serving, warm = fresh, serving
        await asyncio.sleep(0.5)
        if turn % back_after == back_after - 1 and len(switcher.rollback_s) < options.rollbacks:
            assert await switcher.roll_back() == warm.stamp
            serving, warm = warm, serving
            await asyncio.sleep(0.5)


async def cold(target: str, other: Variant, start_s: float) -> None:
    """A rollback without a standby loads the bundle again; its time is compared with that of a
    start."""
    async with grpc.aio.insecure_channel(target) as channel:
        admin = AdminStub(channel)
        async for _ in admin.Load(ab.LoadRequest(path=str(other.path), activate=True)):
            pass
        await asyncio.sleep(3.0)
        began = time.perf_counter()
        async for _ in admin.Load(ab.LoadRequest(rollback=True)):
            pass
        took_s = time.perf_counter() - began
    print(f"rollback to a cold bundle: {took_s:.1f} s; start to the first answer: {start_s:.1f} s")


def stamping(folder: Path) -> None:
    """Stamping 100 MB in four files: hashed as a bundle is, compared with sha256 of the same
    bytes."""
    from pipelines.bundle.files import open_folder

    for number in range(4):
        (folder / f"shard-{number}.safetensors").write_bytes(os.urandom(25 * MIB))
    plain, ours = [], []
    for _ in range(7):
        began = time.perf_counter()
        for path in sorted(folder.iterdir()):
            hashlib.sha256(path.read_bytes()).hexdigest()
        plain.append(time.perf_counter() - began)
        began = time.perf_counter()
        open_folder(folder)
        ours.append(time.perf_counter() - began)
    a, b = statistics.median(plain), statistics.median(ours)
    print(f"100 MB: sha256 {a:.3f} s, hashed as a bundle {b:.3f} s: {b / a:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Swaps and rollbacks under load.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "pipelines/triage/bundle")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    examples = mixed_pool(EXAMPLES)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        found = variants(options.bundle, folder / "bundles", examples, TOKENS)
        (folder / "stamp").mkdir()
        stamping(folder / "stamp")
        bad = 0
        for name, flags in (("warm", []), ("cold", ["--standby", "0"])):
            with serving(str(found[0].path), options.replicas, flags) as ours:
                if name == "warm":
                    bad = asyncio.run(under_load(ours.target, found, examples, options))
                else:
                    asyncio.run(cold(ours.target, found[1], ours.first_answer_s))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
