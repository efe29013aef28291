"""Canaries on traffic with known labels: the verdict on each candidate, its reason, and how soon it
comes.

    python -m benchmarks.canary [--repeat 1] [--share 0.2] [--only same,worse]

Clients with sessions send samples of the triage data generator to a server with telemetry, and
report the true labels a few seconds later. Each candidate of benchmarks/candidates.py is loaded and
started as a canary: `same` must be promoted, every other one must be rolled back by its own
measure. Exits 1 when a verdict is wrong or comes for another reason.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.candidates import candidates
from benchmarks.serve import ROOT, serving
from examples.plant import Item, draw
from proto import admin_pb2 as ab
from proto import inference_pb2 as pb
from proto import observe_pb2 as ob
from proto.admin_pb2_grpc import AdminStub
from proto.inference_pb2_grpc import InferenceStub
from proto.observe_pb2_grpc import ObserveStub

CLIENTS = 8
SESSION = (1, 3)  # least and most requests of one session
PAUSE_S = 0.05  # a client's own work between two requests
LABEL_SHARE, LABEL_DELAY_S = 0.6, 2.0
ENOUGH = 3200  # rows of a candidate (1,600 sessions) that must suffice to show that it is fine
MOST_MINUTES = 8.0
BACK, PROMOTED = "canary-rolled-back", "canary-promoted"
# The verdict on it, and the measures that may cause it.
EXPECTED = {
    "same": (PROMOTED, ("errors", "latency")),
    "worse": (BACK, ("confidence", "estimated value", "accuracy", "realised value")),
    "overbold": (BACK, ("accuracy", "realised value")),
    "slow": (BACK, ("latency",)),
    "failing": (BACK, ("errors",)),
}


@dataclass(slots=True)
class Traffic:
    """`answers` counts answers by stamp."""

    items: Sequence[Item]
    feedback: bool = True
    answers: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    reported: list[tuple[float, str, str]] = field(default_factory=list)

    async def client(self, stub: InferenceStub, number: int, done: asyncio.Event) -> None:
        draw, turn = random.Random(number), 0
        while not done.is_set():
            turn += 1
            for _ in range(draw.randint(*SESSION)):
                await self._ask(stub, draw.choice(self.items), f"{number}-{turn}", draw)
                await asyncio.sleep(draw.expovariate(1 / PAUSE_S))

    async def _ask(
        self, stub: InferenceStub, item: Item, session: str, draw: random.Random
    ) -> None:
        request = pb.PredictRequest(session_id=session)
        request.examples.add().ParseFromString(item.example)
        try:
            answer = await stub.Predict(request)
        except grpc.aio.AioRpcError:
            self.failed += 1
            return
        result = answer.results[0]
        self.answers[result.stamp] += 1
        if self.feedback and draw.random() < LABEL_SHARE:
            self.reported.append(
                (time.monotonic() + LABEL_DELAY_S, result.prediction_id, item.label)
            )

    async def report(self, stub: InferenceStub, done: asyncio.Event) -> None:
        while not done.is_set():
            await asyncio.sleep(0.25)
            now = time.monotonic()
            due = [one for one in self.reported if one[0] <= now]
            self.reported = [one for one in self.reported if one[0] > now]
            if due:
                request = pb.FeedbackRequest()
                for _, prediction, label in due:
                    request.items.add(prediction_id=prediction, label=label, source="inspection")
                await stub.Feedback(request)


@asynccontextmanager
async def flowing(channel: grpc.aio.Channel, traffic: Traffic) -> AsyncIterator[None]:
    stub, done = InferenceStub(channel), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(traffic.client(stub, number, done))
        group.create_task(traffic.report(stub, done))
        try:
            yield
        finally:
            done.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    action: str
    detail: str
    answers: int
    seconds: float

    @property
    def why(self) -> str:
        """The measures that caused the verdict."""
        return ", ".join(part.split(":")[0] for part in self.detail.split("; ") if ":" in part)

    @property
    def right(self) -> bool:
        action, measures = EXPECTED[self.name]
        return self.action == action and any(measure in self.why for measure in measures)


async def trial(
    channel: grpc.aio.Channel, name: str, path: Path, traffic: Traffic, options: argparse.Namespace
) -> Outcome:
    admin = AdminStub(channel)
    async for progress in admin.Load(ab.LoadRequest(path=str(path))):
        stamp = progress.stamp.hex
    minutes = await _minutes(traffic, options.share)
    before, began, began_ms = traffic.answers[stamp], time.monotonic(), int(time.time() * 1000)
    await admin.Activate(
        ab.ActivateRequest(stamp=stamp, canary_share=options.share, canary_minutes=minutes)
    )
    row = await decision(channel, began_ms, began + 60 * minutes + 30)
    seconds, answers = time.monotonic() - began, traffic.answers[stamp] - before
    if row.action in (PROMOTED, "canary-held"):
        await admin.Rollback(ab.RollbackRequest(reason="the next candidate"))
    return Outcome(name, row.action, row.detail, answers, seconds)


async def _minutes(traffic: Traffic, share: float) -> float:
    """Minutes for ENOUGH rows at the current rate."""
    before, began = traffic.answers.total(), time.monotonic()
    await asyncio.sleep(4.0)
    pace = (traffic.answers.total() - before) / (time.monotonic() - began)
    return min(MOST_MINUTES, ENOUGH / max(share * pace, 0.1) / 60)


async def decision(channel: grpc.aio.Channel, since_ms: int, until: float) -> ob.DeployRow:
    """The row of the journal that ends the canary or holds it."""
    observe = ObserveStub(channel)
    while time.monotonic() < until:
        request = ob.HistoryRequest(from_unix_ms=since_ms, to_unix_ms=since_ms + 3_600_000)
        request.kinds.append("deploy")
        async for event in observe.History(request):
            found: ob.DeployRow = event.deploy
            if found.action in (BACK, PROMOTED, "canary-held"):
                return found
        await asyncio.sleep(0.5)
    return ob.DeployRow(action="no decision")


async def run(target: str, found: dict[str, Path], options: argparse.Namespace) -> list[Outcome]:
    items = [item for seed in range(4) for item in draw((seed, False))]
    outcomes = []
    async with grpc.aio.insecure_channel(target) as channel:
        traffic = Traffic(items)
        async with flowing(channel, traffic):
            await asyncio.sleep(3.0)
            for turn in range(options.repeat):
                for name in options.only:
                    outcome = await trial(channel, name, found[name], traffic, options)
                    reported(outcome, turn)
                    outcomes.append(outcome)
        print(f"{traffic.answers.total()} answers, {traffic.failed} refused or failed")
    return outcomes


def reported(outcome: Outcome, turn: int) -> None:
    verdict = "right" if outcome.right else "WRONG"
    print(
        f"| {turn + 1} | {outcome.name} | {outcome.action} | {outcome.answers} | "
        f"{outcome.seconds:.0f} | {verdict} | {outcome.detail} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Canaries of good and bad bundles.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "pipelines/triage/bundle")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[*EXPECTED], metavar="NAMES"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = candidates(options.bundle, Path(work), options.only)
        with serving(str(options.bundle), 1, ["--standby", "60"]) as ours:
            print("| turn | candidate | what became of it | its answers | s | verdict | evidence |")
            print("|---|---|---|---|---|---|---|")
            outcomes = asyncio.run(run(ours.target, found, options))
    wrong = sum(not outcome.right for outcome in outcomes)
    print(f"{len(outcomes)} canaries, {wrong} wrong verdicts")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
