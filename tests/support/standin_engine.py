"""An engine without replicas for tests of the listener: it keeps the Engine's interface and
answers by rules the tests can read in the example's own text."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

from proto import inference_pb2 as pb
from server.telemetry.outputs import Timing
from server.types import (
    Answer,
    Counters,
    EngineSnapshot,
    Evidence,
    Facts,
    Fault,
    GenerationEnd,
    LabelScore,
    Outcome,
    ReplicaStatus,
    Token,
    Work,
)
from tests.support.running import until

STAMP = "ab" * 32
LABELS = ("ok", "look", "stop")
TIMING = Timing(1.0, 2.0, 3.0, 4.0, 0.5, 10.5)
FACTS = Facts(
    stamp=STAMP,
    stamp_name="triage-2026.11.23+abababababab",
    dirty=False,
    stamp_parts={"weights": "11" * 32, "code": "22" * 32},
    stamp_detail={"name": "triage-2026.11.23", "libraries/torch": "2.13.0"},
    labels=LABELS,
    features=(),
    embedding_dimensions=4,
    card="# Card",
    env={"device": "cpu"},
    reasons={"device": "no accelerator was found"},
    limits=(("image_pixels", 1e6, "pixels"),),
    bundle_path="/bundle",
)
EVIDENCE = Evidence("text", True, "", 2.0, 3.0, 9.0, 5, 1e-6, 1e-4, 1_700_000_000.0, "probe")
REPLICA = ReplicaStatus(0, "ready", "", "cpu", STAMP, 4711, 0, 0, 7, 1 << 20, (EVIDENCE,), 1.5, 1.0)


class StandInEngine:
    """A text part `CODE REASON` (e.g. `INTERNAL DIED`) is answered with that fault; `wait` blocks
    until `release` is set; anything else is answered with the first label."""

    def __init__(self) -> None:
        self.facts: Facts | None = FACTS
        self.state = "READY"
        self.reason = ""
        self.release = asyncio.Event()
        self.received: list[Work] = []
        self.cancelled: list[str] = []
        self.drained_with: float | None = None
        self.verified = 0
        self.at_work = 0
        self.most_at_work = 0
        self._moved = asyncio.Event()
        self.full: Fault | None = None  # why a usual row is refused now
        self.unread: list[Fault] = []  # of requests that were refused before they were read

    def count_refused(self, fault: Fault) -> None:
        self.unread.append(fault)

    def refusal_now(self, _remaining_s: float | None) -> Fault | None:
        return self.full

    def learnt(self, _items: object, _results: object) -> None:
        return

    def admit(self, work: Work) -> Fault | None:
        return None

    async def predict(self, work: Work) -> Outcome:
        self.received.append(work)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            fault = await self._look_at(work)
        except asyncio.CancelledError:
            self.cancelled.append(work.id)
            raise
        finally:
            self.at_work -= 1
        if fault is not None:
            return Outcome(work.id, None, fault, TIMING, 0, STAMP, 0)
        return Outcome(work.id, answer_to(work), None, TIMING, 2, STAMP, 0)

    async def generate(self, work: Work) -> AsyncIterator[Token | GenerationEnd]:
        self.received.append(work)
        fault = await self._look_at(work)
        try:
            if fault is None:
                for piece in ("smoke ", "near ", "the drive"):
                    yield Token(piece)
                    await asyncio.sleep(0)
                if work.max_new_tokens == 1:  # never ends by itself: for cancellation
                    await asyncio.Event().wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(work.id)
            raise
        outcome = Outcome(work.id, None if fault else answer_to(work), fault, TIMING, 1, STAMP, 0)
        yield GenerationEnd(outcome, "" if fault else "stop", 3, 1.5)

    def snapshot(self) -> EngineSnapshot:
        return EngineSnapshot(
            state=self.state,
            reason=self.reason,
            started=1_700_000_000.0,
            facts=self.facts,
            warm_replicas=1,
            wanted_replicas=1,
            replicas=(REPLICA,),
            queued=0,
            queue_limit=256,
            in_flight=self.at_work,
            counters=Counters(requests=len(self.received)),
            pins=(("someone", "cd" * 32, 3, 1_700_000_000.0),),
            queue_seconds=0.25,
        )

    def become(self, state: str, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self._moved.set()
        self._moved = asyncio.Event()

    async def changed(self, seen: str) -> str:
        while self.state == seen:
            await self._moved.wait()
        return self.state

    async def verify(self) -> None:
        self.verified += 1

    async def drain(self, grace_s: float) -> None:
        self.drained_with = grace_s
        self.become("DRAINING", "asked to")
        await until(lambda: not self.at_work, grace_s)

    async def _look_at(self, work: Work) -> Fault | None:
        if work.expected_stamps and STAMP not in work.expected_stamps:
            return Fault("FAILED_PRECONDITION", "", "STAMP_MISMATCH", f"serving {STAMP}")
        for index, part in enumerate(pb.Example.FromString(work.example).parts):
            if part.text == "wait":
                await self.release.wait()
            code, _, reason = part.text.partition(" ")
            if code.isupper() and reason:
                field = f"parts[{index}].text" if code == "INVALID_ARGUMENT" else ""
                retry_s = 0.2 if code == "RESOURCE_EXHAUSTED" else 0.0
                return Fault(code, field, reason, "as the text asks", retry_s)
        return None


def answer_to(work: Work) -> Answer:
    labels = work.labels or LABELS
    shares = [0.7] + [0.3 / (len(labels) - 1)] * (len(labels) - 1) if len(labels) > 1 else [1.0]
    pairs = zip(labels, shares, strict=True)
    scores = tuple(LabelScore(label, share, share - 1) for label, share in pairs)
    embedding = struct.pack("<4f", 0.5, 0.5, 0.5, 0.5) if work.want_embedding else b""
    return Answer(
        labels[0],
        scores,
        embedding,
        b"",
        confidence=shares[0],
        margin=0.5,
        entropy=0.8,
        closed_set_mass=0.9,
    )


def without_facts() -> StandInEngine:
    engine = StandInEngine()
    engine.facts = None
    engine.become("STARTING", "loading")
    return engine


def with_stamp(stamp: str) -> Facts:
    return replace(FACTS, stamp=stamp)
