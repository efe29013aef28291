"""Long proofs that are too slow for `make test`:

    python -m benchmarks.soak correct [--requests 10000]   every answer equals its single-row answer
    python -m benchmarks.soak kill [--times 10]            SIGKILL of replicas under 16 callers
    python -m benchmarks.soak kill-server [--times 20]     SIGKILL of the server: telemetry's loss

Each prints its count on the last line, and exits 1 when that is not zero.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from tqdm import tqdm

from benchmarks.serve import ROOT, serving, start_ours
from benchmarks.support.flood import distance
from benchmarks.support.load import CHANNEL
from benchmarks.support.payloads import mixed_pool
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from tests.support.tolerance import PROBABILITY

CALLERS = 16


def single_answers(bundle: str, examples: list[pb.Example]) -> list[dict[str, float]]:
    """The reference: each example alone, in this process, without a server or other rows."""
    from benchmarks.support.bound import sample
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(bundle, threads=1, allow_dirty=True)
    answers = []
    for index, example in enumerate(tqdm(examples, desc="single-row answers")):
        (made,) = pipeline.predict([sample(index, example)])
        answers.append({score.label: score.probability for score in made.scores})  # type: ignore[union-attr]
    return answers


async def correct(
    target: str, requests: int, expected: list[dict[str, float]]
) -> tuple[int, float]:
    """How many answers differ by more than the bound, and the largest distance."""
    examples = mixed_pool(len(expected))
    order = list(range(requests))
    random.Random(1).shuffle(order)
    bar = tqdm(total=requests, desc="requests")
    bad, worst = 0, 0.0
    async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
        stub = InferenceStub(channel)

        async def caller() -> None:
            nonlocal bad, worst
            while order:
                index = order.pop() % len(examples)
                answer = await stub.Predict(pb.PredictRequest(examples=[examples[index]]))
                found = distance(answer, expected[index])
                bad += not found <= PROBABILITY.units
                worst = max(worst, found)
                bar.update()

        await asyncio.gather(*(caller() for _ in range(48)))
    bar.close()
    return bad, worst


def replicas(front: int) -> list[psutil.Process]:
    children = psutil.Process(front).children(recursive=True)
    return [child for child in children if "server.replica.main" in child.cmdline()]


async def kill(target: str, front: int, times: int) -> tuple[int, int]:
    """16 callers without pauses; a replica is killed, its replacement awaited, and so on."""
    examples = mixed_pool(56)
    answered = failed = 0
    stop = asyncio.Event()
    async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
        stub = InferenceStub(channel)

        async def caller(turn: int) -> None:
            nonlocal answered, failed
            while not stop.is_set():
                turn += 1
                request = pb.PredictRequest(examples=[examples[turn % len(examples)]])
                try:
                    result = (await stub.Predict(request)).results[0]
                    failed += not result.HasField("prediction")
                except grpc.aio.AioRpcError as error:
                    tqdm.write(f"failed: {error.code().name} {error.details()}")
                    failed += 1
                answered += 1

        callers = [asyncio.create_task(caller(i * 3)) for i in range(CALLERS)]
        whole = len(replicas(front))
        for _ in tqdm(range(times), desc="kills"):
            await asyncio.sleep(random.uniform(0.5, 2.0))
            victim = random.choice(replicas(front))
            os.kill(victim.pid, signal.SIGKILL)
            await wait_ready(target, whole)
        stop.set()
        await asyncio.gather(*callers)
    return answered, failed


async def wait_ready(target: str, whole: int) -> None:
    from proto import observe_pb2 as ob
    from proto.observe_pb2_grpc import ObserveStub

    began = time.monotonic()
    async with grpc.aio.insecure_channel(target) as channel:
        while time.monotonic() - began < 120:
            await asyncio.sleep(0.5)
            async for event in ObserveStub(channel).Watch(ob.WatchRequest(once=True)):
                if event.snapshot.warm_replicas >= whole:
                    return
    raise SystemExit("the pool did not get warm again within 120 s")


# A row is written FLUSH_S (0.2 s) after it was put; the thread that writes it shares two cores with
# the load.
MOST_LOST_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """`oldest_s`: how long before its kill the oldest answer was given that is missing in the
    store."""

    answered: int
    lost: int
    oldest_s: float
    whole: bool


async def answers_until(target: str, front: int, delay_s: float) -> tuple[dict[str, float], float]:
    """(prediction id -> when its answer came, when the front was killed)."""
    examples, found = mixed_pool(56), {}
    async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
        stub = InferenceStub(channel)

        async def caller(turn: int) -> None:
            while True:
                turn += 1
                example = examples[turn % len(examples)]
                answer = await stub.Predict(pb.PredictRequest(examples=[example]))
                found[answer.results[0].prediction_id] = time.monotonic()

        callers = [asyncio.create_task(caller(i * 3)) for i in range(CALLERS)]
        await asyncio.sleep(delay_s)
        psutil.Process(front).kill()
        killed = time.monotonic()
        await asyncio.gather(*callers, return_exceptions=True)
    return found, killed


def stored(data: str) -> tuple[bool, set[str], int]:
    """(whether the file is intact, ids of the predictions in it, rows in its stored sums)."""
    connection = sqlite3.connect(Path(data) / "telemetry.db")
    whole = connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    ids: set[str] = set()
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'prediction_2%'"
    ).fetchall():
        ids.update(row[0] for row in connection.execute(f"SELECT prediction_id FROM {table}"))
    sums = counted(connection)
    connection.close()
    return whole, ids, sums


def round_(bundle: str, data: str) -> Round:
    ours = start_ours(bundle, 1, data, [])
    replicas = psutil.Process(ours.process.pid).children(recursive=True)
    given, killed = asyncio.run(
        answers_until(ours.target, ours.process.pid, random.uniform(0.5, 3.0))
    )
    ours.process.wait()
    _, alive = psutil.wait_procs(replicas, 30)
    if alive:
        raise SystemExit(f"{len(alive)} replicas outlived their front")
    whole, ids, _ = stored(data)
    lost = {name: at for name, at in given.items() if name not in ids}
    oldest_s = killed - min(lost.values(), default=killed)
    return Round(len(given), len(lost), oldest_s, whole)


def counted(connection: sqlite3.Connection) -> int:
    """Rows in the stored sums of the first feature, all traffic."""
    found = connection.execute(
        "SELECT sum(p.n + p.missing + p.absent + p.nonfinite) FROM profile p"
        " JOIN slice s ON s.id = p.slice_id JOIN feature f ON f.id = p.feature_id"
        " WHERE s.name = '' AND f.position = 0"
    ).fetchone()
    return int(found[0] or 0)


def orderly(bundle: str, data: str) -> None:
    ours = start_ours(bundle, 1, data, [])
    ours.process.terminate()
    try:
        ours.process.wait(60)
    except subprocess.TimeoutExpired:
        ours.process.kill()
        raise SystemExit("the server did not end in 60 s") from None


def kill_servers(arguments: argparse.Namespace) -> bool:
    """Repeats on the same data folder: the server starts, 16 callers predict without pauses, the
    front is killed. True when the database is intact, contains each answer older than a flush, and
    has the right sums after a last, orderly run."""
    with tempfile.TemporaryDirectory() as data:
        rounds = [round_(arguments.bundle, data) for _ in tqdm(range(arguments.times))]
        orderly(arguments.bundle, data)
        whole, ids, sums = stored(data)
    torn = sum(not one.whole for one in rounds) + (not whole)
    oldest_s = max(one.oldest_s for one in rounds)
    agree = f"the sums are those of the {sums} rows" if sums == len(ids) else (
        f"THE SUMS ARE OF {sums} ROWS, {len(ids)} ARE THERE"
    )  # fmt: skip
    print(
        f"{len(rounds)} kills of the server under {CALLERS} callers: {torn} torn databases; "
        f"{sum(one.lost for one in rounds)} of {sum(one.answered for one in rounds)} answers not "
        f"kept, the oldest given {oldest_s * 1e3:.0f} ms before its kill; {agree}"
    )
    return not torn and oldest_s <= MOST_LOST_S and sums == len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description="Long proofs: correctness and crashes under load.")
    parser.add_argument("proof", choices=("correct", "kill", "kill-server"))
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--times", type=int, help="kills: 10 of replicas, 20 of servers")
    arguments = parser.parse_args()
    arguments.times = arguments.times or (20 if arguments.proof == "kill-server" else 10)
    proof = kill_servers if arguments.proof == "kill-server" else under_load
    sys.exit(0 if proof(arguments) else 1)


def under_load(arguments: argparse.Namespace) -> bool:
    expected = (
        single_answers(arguments.bundle, mixed_pool(350)) if arguments.proof == "correct" else []
    )
    with serving(arguments.bundle, 2) as ours:
        if arguments.proof == "correct":
            bad, worst = asyncio.run(correct(ours.target, arguments.requests, expected))
            print(
                f"{arguments.requests} mixed requests, 48 callers: {bad} wrong, probabilities "
                f"at most {worst:.4g} units in the last place from those of the row alone "
                f"(bound {PROBABILITY.units:g})"
            )
        else:
            answered, bad = asyncio.run(kill(ours.target, ours.process.pid, arguments.times))
            print(f"{arguments.times} kills, 16 callers, {answered} requests: {bad} failed")
    return not bad


if __name__ == "__main__":
    main()
