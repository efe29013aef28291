"""Callers that may send more than a server can answer, each with a deadline.

Runs as its own process and takes one JSON command on each line, like load.py. Closed loop:
`callers` send again as soon as they are answered, and after a refusal they follow `behaviour`. Open
loop (`rate` above 0): requests arrive at random moments, whether or not they are answered, as from
very many users. The same client for every server; used by benchmarks/overload.py.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.support.load import CHANNEL, at
from benchmarks.support.payloads import pool
from proto import inference_pb2 as pb
from tests.support.tolerance import PROBABILITY, apart
from trefoil.errors import error_of

METHOD = "/trefoil.v1.Inference/Predict"

# Seconds to wait after a refusal, given the seconds in the refusal (0: none).
BACK_OFF_S, IMPATIENT_S, SPREAD = 0.5, 0.01, 0.25
BEHAVIOURS: Mapping[str, Callable[[float], float]] = {
    "back-off": lambda _: BACK_OFF_S,
    "impatient": lambda _: IMPATIENT_S,
    "obedient": lambda named_s: (named_s or BACK_OFF_S) * (1 + SPREAD * random.random()),
}
# Refusals that a retry may resolve. Every other status but these and OK is an error.
REFUSALS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
MOST_OPEN = 4000  # requests of an open loop that wait at once; further ones are not sent


@dataclass(frozen=True, slots=True)
class Command:
    targets: list[str]
    seconds: float
    deadline_s: float
    callers: int = 0
    behaviour: str = "back-off"
    rate: float = 0.0  # requests a second; above 0 makes an open loop
    connections: int = 16  # shared by the callers
    warm_s: float = 1.0  # requests that finish earlier are not counted
    pace_s: float = 0.0  # shortest time between two requests of a caller in a closed loop


@dataclass(slots=True)
class Observed:
    """The outcomes of the requests that finished while it counted."""

    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    refusal_s: list[float] = field(default_factory=list)

    def figures(self, seconds: float) -> dict[str, float]:
        counts = self.counts
        return {
            "goodput": counts["good"] / seconds,
            "seconds": seconds,
            **{
                name: float(counts[name])
                for name in ("good", "late", "refused", "timeless", "wrong", "other", "unsent")
            },
            "p50_ms": at(self.good_s, 0.5),
            "p99_ms": at(self.good_s, 0.99),
            "refusal_p50_ms": at(self.refusal_s, 0.5),
            **{f"code {code}": float(count) for code, count in self.codes.items()},
        }


class Flood:
    def __init__(self, examples: list[pb.Example], expected: list[dict[str, float]]) -> None:
        """`expected`: the probabilities of each example alone; if empty, answers are not
        compared."""
        self._requests = [
            pb.PredictRequest(examples=[example]).SerializeToString() for example in examples
        ]
        self._expected = expected
        self._observed = Observed()
        self._turn = 0

    async def run(self, command: Command) -> dict[str, float]:
        channels = [
            grpc.aio.insecure_channel(target, options=CHANNEL)
            for target in command.targets
            for _ in range(max(1, command.connections // len(command.targets)))
        ]
        sends = [channel.unary_unary(METHOD) for channel in channels]
        began = time.perf_counter()
        until = began + command.warm_s + command.seconds
        counting = asyncio.create_task(self._count(command.warm_s, command.seconds))
        if command.rate:
            await self._open_loop(command, sends, until)
        else:
            await asyncio.gather(
                *(
                    self._caller(command, sends[index % len(sends)], index, until)
                    for index in range(command.callers)
                )
            )
        await counting
        for channel in channels:
            await channel.close()
        return self._observed.figures(command.seconds)

    async def _count(self, warm_s: float, seconds: float) -> None:
        await asyncio.sleep(warm_s)
        mark()
        self._observed = Observed()
        await asyncio.sleep(seconds)
        mark()

    async def _caller(self, command: Command, send: Any, index: int, until: float) -> None:
        wait = BEHAVIOURS[command.behaviour]
        # Callers that all begin at the same moment would stay in step.
        await asyncio.sleep(random.random() * (command.pace_s or 0.1))
        while (now := time.perf_counter()) < until:
            named_s = await self._one(send, command.deadline_s, until)
            pause_s = now + command.pace_s - time.perf_counter()
            if named_s is not None:
                pause_s = max(pause_s, wait(named_s))
            left_s = until - time.perf_counter()
            await asyncio.sleep(max(min(pause_s, left_s), 0))

    async def _open_loop(self, command: Command, sends: list[Any], until: float) -> None:
        tasks: set[asyncio.Task[Any]] = set()
        due = time.perf_counter()
        while (now := time.perf_counter()) < until:
            while due <= now:
                due += random.expovariate(command.rate)
                if len(tasks) >= MOST_OPEN:
                    self._observed.counts["unsent"] += 1
                    continue
                one = self._one(random.choice(sends), command.deadline_s, until)
                task = asyncio.create_task(one)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
        await asyncio.gather(*tasks)

    async def _one(
        self, send: Callable[..., Awaitable[bytes]], deadline_s: float, until: float
    ) -> float | None:
        """The wait in the server's refusal in seconds, 0 if it has none; None: answered in time."""
        self._turn += 1
        index = self._turn % len(self._requests)
        began = time.perf_counter()
        named_s, code, response = 0.0, "OK", b""
        try:
            response = await send(self._requests[index], timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            named_s = error_of(error, "").retry_after_s
        ended = time.perf_counter()
        if ended > until:
            return 0.0  # not counted, as the load was no longer complete
        observed = self._observed
        observed.codes[code] += 1
        kind = self._kind(code, named_s, response, index, ended - began > deadline_s)
        observed.counts[kind] += 1
        if kind == "good":
            observed.good_s.append(ended - began)
            return None
        if kind in ("refused", "timeless"):
            observed.refusal_s.append(ended - began)
        return named_s

    def _kind(self, code: str, named_s: float, response: bytes, index: int, late: bool) -> str:
        if code == "OK":
            return "late" if late else self._judge(response, index)
        if code == "DEADLINE_EXCEEDED":
            return "late"
        if code in REFUSALS:
            return "refused" if named_s else "timeless"
        return "other"

    def _judge(self, response: bytes, index: int) -> str:
        answer = pb.PredictResponse.FromString(response)
        if not answer.results[0].HasField("prediction"):
            return "other"
        if not self._expected:
            return "good"
        return "wrong" if distance(answer, self._expected[index]) > PROBABILITY.units else "good"


def distance(answer: pb.PredictResponse, expected: dict[str, float]) -> float:
    """The distance from the answer that the row alone gets, in units in the last place; inf: not
    comparable."""
    result = answer.results[0]
    if not result.HasField("prediction"):
        return math.inf
    got = {score.label: score.probability for score in result.prediction.scores}
    if got.keys() != expected.keys():
        return math.inf
    return apart([got[label] for label in expected], list(expected.values()))


def mark() -> None:
    """Prints a line at both ends of the counted time, for the process that measures its cost."""
    print(json.dumps({}), flush=True)


def main() -> None:
    examples, expected = pool(48), []
    if len(sys.argv) > 1:  # given a bundle, answers are compared with those of each row alone
        from benchmarks.soak import single_answers

        expected = single_answers(sys.argv[1], examples)
    flood = Flood(examples, expected)
    print("ready", flush=True)
    for line in sys.stdin:
        figures = asyncio.run(flood.run(Command(**json.loads(line))))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
