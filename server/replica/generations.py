"""The texts that a replica generates: one token of each at a time, so that batches run in between.

Belongs to the computing thread; only `cancel` may be called from another one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from proto import inference_pb2, replica_pb2
from server.replica.batching import Budget, compose
from server.replica.fault_guard import Failed, fault_guard
from server.replica.model import Model, Text
from server.replica.work_queue import WorkRow, begun


@dataclass(slots=True, eq=False)
class LiveGeneration:
    row: WorkRow
    text: Text
    began: float


@dataclass(eq=False)
class Generations:
    """At most `most` texts are generated at once; `budget` limits the prompts that are read
    together."""

    model: Model
    send: Callable[[replica_pb2.FromReplica], None]
    forget: Callable[[str], None]
    most: int
    clock: Callable[[], float]
    budget: Budget

    def __post_init__(self) -> None:
        self._waiting: deque[WorkRow] = deque()
        self._alone = 0  # this many of the first waiting texts begin one at a time
        self._generations: dict[str, LiveGeneration] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._generations)

    @property
    def counts(self) -> tuple[int, int]:
        """(texts being generated, texts that wait for one of them to end)."""
        return len(self._generations), len(self._waiting)

    def take(self, rows: Sequence[WorkRow]) -> None:
        self._waiting.extend(row for row in rows if row.ready is not None)

    def cancel(self, entry_id: str) -> None:
        generation = self._generations.get(entry_id)
        if generation is not None:
            generation.text.cancel()

    def step(self) -> None:
        """Begin waiting texts, write one token of each text, and send the text that became
        readable."""
        self._drop_waiting()
        while group := self._next_group():
            self._begin(group)
        if not self._generations:
            return
        try:
            with fault_guard("GENERATE_FAILED", self.model.broken_by):
                self.model.step()
        except Failed as error:
            for generation in list(self._generations.values()):
                generation.text.cancel()
                self._end(generation, error.fault)
            return
        for generation in list(self._generations.values()):
            self._advance(generation)

    def _next_group(self) -> list[WorkRow]:
        """The texts to begin now, in order of arrival: whatever fits beside those being generated.
        Empty if the first in line has to wait."""
        places = self.most - len(self._generations)
        if self._alone:
            places = min(places, 1)
        rows = list(islice(self._waiting, max(0, places)))
        count = compose([row.ready.tokens for row in rows if row.ready], self.budget)
        if count:
            count = self.model.startable([row.ready.row for row in rows[:count] if row.ready])
        self._alone = max(0, self._alone - count)
        return [self._waiting.popleft() for _ in range(count)]

    def _begin(self, rows: Sequence[WorkRow]) -> None:
        self.send(begun(rows))
        began = time.perf_counter()
        try:
            with fault_guard("GENERATE_FAILED", self.model.broken_by):
                texts = self.model.start([row.ready.row for row in rows if row.ready])
        except Failed as error:
            self._failed_start(rows, error.fault)
            return
        for row, text in zip(rows, texts, strict=True):
            generation = LiveGeneration(row, text, began)
            self._generations[row.work.id] = generation
            self._advance(generation)

    def _failed_start(self, rows: Sequence[WorkRow], fault: inference_pb2.Fault) -> None:
        """One of these texts caused the error: each is tried alone, next in line."""
        if len(rows) == 1:
            self._refuse(rows[0], fault)
            return
        self._waiting.extendleft(reversed(rows))
        self._alone = len(rows)

    def _advance(self, generation: LiveGeneration) -> None:
        row = generation.row
        if row.cancelled or self.clock() >= row.expires_at:
            generation.text.cancel()
            self._end(generation, _gone(row))
        elif generation.text.finished:
            self._end(generation, None)
        elif piece := generation.text.take():
            self.send(replica_pb2.FromReplica(token=replica_pb2.Token(id=row.work.id, text=piece)))

    def _end(self, generation: LiveGeneration, fault: inference_pb2.Fault | None) -> None:
        row = generation.row
        del self._generations[row.work.id]
        message = replica_pb2.FromReplica()
        token = message.token
        if row.ready is not None and fault is None:
            token.CopyFrom(self.model.end(row.ready.row, generation.text))
            token.text = generation.text.take()
        if fault is not None:
            token.fault.CopyFrom(fault)
        token.id, token.last = row.work.id, True
        token.timing.forward_ms = (time.perf_counter() - generation.began) * 1e3
        if row.ready is not None:
            token.timing.decode_ms = row.ready.decode_ms
            token.timing.preprocess_ms = row.ready.preprocess_ms
        self.send(message)
        self.forget(row.work.id)

    def _drop_waiting(self) -> None:
        now = self.clock()
        for row in list(self._waiting):
            if row.cancelled or now >= row.expires_at:
                self._waiting.remove(row)
                self._refuse(row, _gone(row))

    def _refuse(self, row: WorkRow, fault: inference_pb2.Fault) -> None:
        token = replica_pb2.Token(id=row.work.id, last=True, fault=fault)
        self.send(replica_pb2.FromReplica(token=token))
        self.forget(row.work.id)


def _gone(row: WorkRow) -> inference_pb2.Fault:
    if row.cancelled:
        return inference_pb2.Fault(
            code="CANCELLED", reason="CANCELLED", message="the caller went away"
        )
    return inference_pb2.Fault(
        code="DEADLINE_EXCEEDED",
        reason="EXPIRED_IN_REPLICA",
        message="the deadline passed before the text was finished",
    )
