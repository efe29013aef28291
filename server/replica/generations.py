"""The texts a replica is writing: one token of each at a time, so that batches run in between.

Belongs to the computing thread; only `cancel` may come from another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proto import inference_pb2, replica_pb2
from server.replica.fault_guard import Failed, fault_guard
from server.replica.model import Model, Text
from server.replica.work_queue import WorkRow


@dataclass(slots=True, eq=False)
class LiveGeneration:
    row: WorkRow
    text: Text
    began: float


class Generations:
    def __init__(
        self,
        model: Model,
        send: Callable[[replica_pb2.FromReplica], None],
        forget: Callable[[str], None],
        most: int,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._send = send
        self._forget = forget
        self._most = most
        self._clock = clock
        self._waiting: deque[WorkRow] = deque()
        self._generations: dict[str, LiveGeneration] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._generations)

    def take(self, rows: Sequence[WorkRow]) -> None:
        self._waiting.extend(rows)

    def cancel(self, entry_id: str) -> None:
        generation = self._generations.get(entry_id)
        if generation is not None:
            generation.text.cancel()

    def step(self) -> None:
        """Begin what waits, write one token of each text, send what became readable."""
        self._drop_waiting()
        while self._waiting and len(self._generations) < self._most:
            self._begin(self._waiting.popleft())
        if not self._generations:
            return
        try:
            with fault_guard("GENERATE_FAILED", self._model.broken_by):
                self._model.step()
        except Failed as error:
            for generation in list(self._generations.values()):
                generation.text.cancel()
                self._end(generation, error.fault)
            return
        for generation in list(self._generations.values()):
            self._advance(generation)

    def _begin(self, row: WorkRow) -> None:
        if row.ready is None:
            return
        ids = [row.work.id]
        self._send(replica_pb2.FromReplica(begun=replica_pb2.Begun(ids=ids)))
        began = time.perf_counter()
        try:
            with fault_guard("GENERATE_FAILED", self._model.broken_by):
                (text,) = self._model.start([row.ready.row])
        except Failed as error:
            self._refuse(row, error.fault)
            return
        generation = LiveGeneration(row, text, began)
        self._generations[row.work.id] = generation
        self._advance(generation)

    def _advance(self, generation: LiveGeneration) -> None:
        row = generation.row
        if row.cancelled or self._clock() >= row.expires_at:
            generation.text.cancel()
            self._end(generation, _gone(row))
        elif generation.text.finished:
            self._end(generation, None)
        elif piece := generation.text.take():
            self._send(replica_pb2.FromReplica(token=replica_pb2.Token(id=row.work.id, text=piece)))

    def _end(self, generation: LiveGeneration, fault: inference_pb2.Fault | None) -> None:
        row = generation.row
        del self._generations[row.work.id]
        message = replica_pb2.FromReplica()
        token = message.token
        if row.ready is not None and fault is None:
            token.CopyFrom(self._model.end(row.ready.row, generation.text))
            token.text = generation.text.take()
        if fault is not None:
            token.fault.CopyFrom(fault)
        token.id, token.last = row.work.id, True
        token.timing.forward_ms = (time.perf_counter() - generation.began) * 1e3
        if row.ready is not None:
            token.timing.decode_ms = row.ready.decode_ms
            token.timing.preprocess_ms = row.ready.preprocess_ms
        self._send(message)
        self._forget(row.work.id)

    def _drop_waiting(self) -> None:
        now = self._clock()
        for row in list(self._waiting):
            if row.cancelled or now >= row.expires_at:
                self._waiting.remove(row)
                self._refuse(row, _gone(row))

    def _refuse(self, row: WorkRow, fault: inference_pb2.Fault) -> None:
        token = replica_pb2.Token(id=row.work.id, last=True, fault=fault)
        self._send(replica_pb2.FromReplica(token=token))
        self._forget(row.work.id)


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
