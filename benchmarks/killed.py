"""SIGKILL of the whole server under load: what its telemetry loses.

    python -m benchmarks.killed [--times 20]

Again and again on the same data: the server starts, 16 callers predict without pause through its
port, at a random moment the front is killed. Then the database must be whole, and every answer that
was given longer ago than a flush must be in it. After a last, orderly run the stored sums must be
those of the rows. Exits 1 when any of this is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
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

from benchmarks.payloads import mixed_pool
from benchmarks.serve import ROOT, start_ours
from benchmarks.soak import CHANNEL
from benchmarks.telemetry import counted
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub

CALLERS = 16
# A row is written FLUSH_S (.2 s) after it was put; the thread that writes it shares two cores with
# the load.
MOST_LOST_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """`oldest_s`: how long before its kill the oldest answer was given that is not kept."""

    answered: int
    lost: int
    oldest_s: float
    whole: bool


async def answers_until(target: str, front: int, delay_s: float) -> tuple[dict[str, float], float]:
    """(prediction id -> when its answer came, when the front was killed)"""
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
    """(whether the file is whole, ids of the predictions in it, rows in its stored sums)"""
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
    replicas = psutil.Process(ours.process.pid).children()
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


def orderly(bundle: str, data: str) -> None:
    ours = start_ours(bundle, 1, data, [])
    ours.process.terminate()
    try:
        ours.process.wait(60)
    except subprocess.TimeoutExpired:
        ours.process.kill()
        raise SystemExit("the server did not end in 60 s") from None


def main() -> None:
    parser = argparse.ArgumentParser(description="SIGKILL of the server: what telemetry loses.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    arguments = parser.parse_args()
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
    sys.exit(1 if torn or oldest_s > MOST_LOST_S or sums != len(ids) else 0)


if __name__ == "__main__":
    main()
