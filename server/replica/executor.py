"""The work of a replica: decode in a few threads (each uses a decoder process), compute in one
thread, and encode answers in another, so that the next batch is decoded while this one is computed.

A batch is whatever is decoded when the computing thread is free, up to the budget; no row waits for
one that may come. Texts are generated one token at a time between batches. Cancelled and expired
rows are dropped before each stage. When a batch fails, its rows run alone to find the one that
breaks it. On shared cores a separate thread for encoding would only cost a context switch, so the
computing thread encodes there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proto import inference_pb2, replica_pb2
from server.replica.batching import Budget, compose
from server.replica.fault_guard import Failed, fault_guard, run_thread
from server.replica.generations import Generations
from server.replica.model import Model
from server.replica.work_queue import Crew, WorkQueue, WorkRow, begun

Send = Callable[[replica_pb2.FromReplica], None]
# Rows, the model's result, the time when their forward began.
Computed = tuple[list[WorkRow], Any, float]
ROW_WEIGHT = 0.1  # weight of the newest forward in the mean
# One computing and one encoding; more would only fix the order of rows too early.
BATCHES_UNDER_WAY = 2


@dataclass(eq=False)
class Executor:
    """`decoding` holds the ids of the rows whose parts are being decoded."""

    model: Model
    send: Send
    budget: Budget
    crew: Crew
    generations: int
    clock: Callable[[], float] = time.monotonic
    decoding: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rows: dict[
            str, WorkRow
        ] = {}  # Invariant: has every row from submit until its last message
        self._work_queue = WorkQueue(self.crew, self.budget.rows)
        self._generations = Generations(
            self.model, self.send, self._forget, self.generations, self.clock, self.budget
        )
        self._row_s = 0.0  # roughly what a row adds to a forward
        self._under_way = threading.Semaphore(BATCHES_UNDER_WAY)
        self._computed: queue.SimpleQueue[Computed] = queue.SimpleQueue()

    def start(self) -> None:
        loops = [self._decode_loop] * self.crew.decoders + [self._compute_loop]
        if not self.crew.shared_cores:
            loops.append(self._encode_loop)
        for loop in loops:
            threading.Thread(target=self._run, args=(loop,), daemon=True).start()

    def _run(self, loop: Callable[[], None]) -> None:
        self.model.enter_thread()
        run_thread(loop)

    # ---- from the reading thread -------------------------------------------------------------

    def submit(self, batch: replica_pb2.WorkBatch, examples: Sequence[bytes]) -> None:
        now = self.clock()
        rows = [
            WorkRow(
                work,
                example,
                now + work.expires_in_s if work.expires_in_s else float("inf"),
                self.model.lane(example),
            )
            for work, example in zip(batch.items, examples, strict=True)
        ]
        self._rows.update((row.work.id, row) for row in rows)
        self._work_queue.put(rows)

    def cancel(self, ids: Sequence[str]) -> None:
        for entry_id in ids:
            row = self._rows.get(entry_id)
            if row is not None:
                row.cancelled = True
                self._generations.cancel(entry_id)

    def probe(self, probe: replica_pb2.Probe) -> None:
        self._work_queue.put_probe(probe)

    def load(self) -> dict[str, Any]:
        """The fields of Load about the texts being generated. May be called from any thread."""
        writing, waiting = self._generations.counts
        used, most = self.model.text_bytes()
        return {
            "texts_writing": writing,
            "texts_waiting": waiting,
            "text_bytes": used,
            "text_bytes_most": most,
        }

    # ---- the three loops ---------------------------------------------------------------------

    def _decode_loop(self) -> None:
        row = self._work_queue.take_undecoded()
        self._decode(row)
        self._work_queue.decoded(row)

    def _decode(self, row: WorkRow) -> None:
        if self._dropped(row, self._row_s):
            return
        self.decoding.add(row.work.id)
        try:
            with fault_guard("PREPARE_FAILED", self.model.broken_by):
                row.ready = self.model.prepare(row.work, row.example)
        except Failed as error:
            self._fail(row, error.fault)
        finally:
            self.decoding.discard(row.work.id)

    def _compute_loop(self) -> None:
        what, which = self._work_queue.next(writing=bool(self._generations))
        if what == "probe":
            self._run_probe(which)
        elif what == "decode":
            self._decode(which)
            if which.ready is not None:
                self._work_queue.keep(which)
        elif what == "compute":
            self._under_way.acquire()
            self._compute(self._next_batch())  # chosen late, as more rows may be decoded by now
        self._generations.step()

    def _next_batch(self) -> list[WorkRow]:
        ready = self._work_queue.take_ready()
        need_s = self._row_s * min(len(ready), self.budget.rows)
        alive = [row for row in ready if not self._dropped(row, need_s)]
        self._generations.take([row for row in alive if row.work.task == "generate"])
        scored = [row for row in alive if row.work.task != "generate"]
        tokens = [row.ready.tokens for row in scored if row.ready is not None]
        count = compose(tokens, self.budget)
        self._work_queue.put_back(scored[count:])
        return scored[:count]

    def _compute(self, rows: list[WorkRow]) -> None:
        """Called with a permit of `_under_way`, which the encoding returns."""
        if not rows:
            self._under_way.release()
            return
        self.send(begun(rows))
        began = time.perf_counter()
        try:
            with fault_guard("FORWARD_FAILED", self.model.broken_by):
                found = self.model.forward([row.ready.row for row in rows if row.ready])
        except Failed as error:
            self._under_way.release()
            self._failed_forward(rows, error.fault)
            return
        if self.crew.shared_cores:
            self._encode(rows, found, began)
        else:
            self._computed.put((rows, found, began))

    def _failed_forward(self, rows: list[WorkRow], fault: inference_pb2.Fault) -> None:
        if len(rows) == 1:
            self._fail(rows[0], fault)
            return
        for row in rows:
            self._under_way.acquire()
            self._compute([row])

    def _encode_loop(self) -> None:
        self._encode(*self._computed.get())

    def _encode(self, rows: list[WorkRow], found: Any, began: float) -> None:
        try:
            with fault_guard("FINISH_FAILED", self.model.broken_by):
                self.model.wait(found)
                computed = time.perf_counter()
                dones = self.model.finish(found)
        except Failed as error:
            for row in rows:
                self._fail(row, error.fault)
            return
        finally:
            self._under_way.release()
        forward_ms, post_ms = (computed - began) * 1e3, (time.perf_counter() - computed) * 1e3
        self._row_s += ROW_WEIGHT * (forward_ms / 1e3 / len(rows) - self._row_s)
        message = replica_pb2.FromReplica()
        for row, done in zip(rows, dones, strict=True):
            _complete(done, row, len(rows), forward_ms, post_ms)
            message.done_batch.items.append(done)
        for row in rows:  # first, as the answer may bring the next row before this thread continues
            self._forget(row.work.id)
        self.send(message)

    def _run_probe(self, probe: replica_pb2.Probe) -> None:
        answer = replica_pb2.FromReplica()
        answer.probed.id = probe.id
        for mix in self.model.probe(list(probe.mixes)):
            answer.probed.mixes.append(mix)
            self.send(_progress(f"probe of {mix.mix}"))
        answer.probed.ok = all(mix.ok for mix in answer.probed.mixes)
        self.send(answer)

    # ---- rows that end here ------------------------------------------------------------------

    def _dropped(self, row: WorkRow, need_s: float) -> bool:
        """`need_s`: the least time that the rest of its work takes."""
        left_s = row.expires_at - self.clock()
        if row.cancelled:
            self._fail(row, _fault("CANCELLED", "CANCELLED", "the caller went away"))
        elif left_s <= 0:
            message = "the deadline passed before the row was computed"
            self._fail(row, _fault("DEADLINE_EXCEEDED", "EXPIRED_IN_REPLICA", message))
        elif left_s < need_s and row.work.task != "generate":
            message = "too little time is left to compute the row"
            self._fail(row, _fault("RESOURCE_EXHAUSTED", "DEADLINE_UNREACHABLE", message))
        else:
            return False
        return True

    def _fail(self, row: WorkRow, fault: inference_pb2.Fault) -> None:
        message = replica_pb2.FromReplica()
        message.done.fault.CopyFrom(fault)
        _complete(message.done, row, 0, 0.0, 0.0)
        self.send(message)
        self._forget(row.work.id)

    def _forget(self, entry_id: str) -> None:
        self._rows.pop(entry_id, None)


def _complete(
    done: replica_pb2.Done, row: WorkRow, batch_size: int, forward_ms: float, post_ms: float
) -> None:
    done.id = row.work.id
    done.batch_size = batch_size
    done.timing.forward_ms, done.timing.post_ms = forward_ms, post_ms
    if row.ready is not None:
        done.timing.decode_ms = row.ready.decode_ms
        done.timing.preprocess_ms = row.ready.preprocess_ms
        done.tokens = row.ready.tokens
        done.modality_mix.extend(row.ready.mix)


def _progress(step: str) -> replica_pb2.FromReplica:
    return replica_pb2.FromReplica(loading=replica_pb2.Loading(step=step, fraction=1.0))


def _fault(code: str, reason: str, message: str) -> inference_pb2.Fault:
    return inference_pb2.Fault(code=code, reason=reason, message=message)
