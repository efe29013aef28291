"""Long proofs that do not belong into `make test`:

    python -m benchmarks.soak correct [--requests 10000]   every answer equals its single-row answer
    python -m benchmarks.soak kill [--times 10]            SIGKILL of replicas under 16 callers

Each ends with one line that says what was counted, and exits 1 when it is not zero.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psutil
from tqdm import tqdm

from benchmarks.payloads import mixed_pool
from benchmarks.serve import ROOT, start_ours
from pipelines.tolerance import PROBABILITY, apart
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub

CHANNEL = [("grpc.max_receive_message_length", 64 << 20)]


def single_answers(bundle: str, examples: list[pb.Example]) -> list[dict[str, float]]:
    """The reference: each example alone, in this process, no server and no company."""
    from benchmarks.bound import sample
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(bundle, threads=1, allow_dirty=True)
    answers = []
    for index, example in enumerate(tqdm(examples, desc="single-row answers")):
        (made,) = pipeline.predict([sample(index, example)])
        answers.append({score.label: score.probability for score in made.scores})  # type: ignore[union-attr]
    return answers


def distance(answer: pb.PredictResponse, expected: dict[str, float]) -> float:
    """From the answer that the row alone got, in units in the last place; inf: not comparable."""
    result = answer.results[0]
    if not result.HasField("prediction"):
        return math.inf
    got = {score.label: score.probability for score in result.prediction.scores}
    if got.keys() != expected.keys():
        return math.inf
    return apart([got[label] for label in expected], list(expected.values()))


async def correct(
    target: str, requests: int, expected: list[dict[str, float]]
) -> tuple[int, float]:
    """How many answers are further apart than the bound, and the largest distance."""
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
    children = psutil.Process(front).children()
    return [child for child in children if "server.replica.main" in child.cmdline()]


async def kill(target: str, front: int, times: int) -> tuple[int, int]:
    """16 callers without pause; a replica is killed, its replacement awaited, and so on."""
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

        callers = [asyncio.create_task(caller(i * 3)) for i in range(16)]
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Long proofs: correctness and crashes under load.")
    parser.add_argument("proof", choices=("correct", "kill"))
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    expected = (
        single_answers(arguments.bundle, mixed_pool(350)) if arguments.proof == "correct" else []
    )
    with tempfile.TemporaryDirectory() as data:
        ours = start_ours(arguments.bundle, 2, data, [])
        try:
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
        finally:
            ours.process.terminate()
            ours.process.wait(60)
            log = Path(data) / "server.log"
            if ours.process.returncode != 0:
                print(log.read_text(), file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
