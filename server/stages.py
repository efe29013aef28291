"""A replica's work: decode in a few threads, compute in one, encode answers in another, so that the
next batch is decoded while this one is computed.

A batch is whatever is decoded when the computing thread is free, up to the budget; no row waits for
one that may come. Only where decoding and computing share the same cores does computing stand back
while every decoder is busy: it could not go faster, and the rows being decoded come along in the
same forward. Texts are written a token at a time between batches. What was cancelled or has expired
is dropped before each stage. A row that makes its batch fail is found by running the rows alone.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proto import inference_pb2, replica_pb2
from server.model import Model, Ready, Rejected
from server.scheduler import compose
from server.texts import Texts

logger = logging.getLogger(__name__)

Send = Callable[[replica_pb2.FromReplica], None]
BATCHES_UNDER_WAY = 2  # computing and encoding; more would only fix the order of rows too early
EXIT_BROKEN = 70


@dataclass(slots=True, eq=False)
class Row:
    work: replica_pb2.Work
    expires_at: float  # on this process's clock; infinity = never
    ready: Ready | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one forward: rows, and padded tokens."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Crew:
    """`shared_cores`: decoding takes its time from the same cores as computing."""

    decoders: int
    shared_cores: bool


class Stages:
    def __init__(
        self,
        model: Model,
        send: Send,
        budget: Budget,
        crew: Crew,
        generations: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._send = send
        self._budget = budget
        self._crew = crew
        self._clock = clock
        self._rows: dict[str, Row] = {}  # Invariant: every row from submit until its last message
        self._undecoded: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._ready: deque[Row] = deque()
        self._probes: deque[replica_pb2.Probe] = deque()
        self._texts = Texts(model, send, self._forget, generations, clock)
        self._undecoded_rows = 0
        self._wake = threading.Condition()  # guards _ready, _probes and _undecoded_rows
        self._under_way = threading.Semaphore(BATCHES_UNDER_WAY)
        self._computed: queue.SimpleQueue[tuple[list[Row], Any, float]] = queue.SimpleQueue()

    def start(self) -> None:
        loops = [self._decode_loop] * self._crew.decoders
        for loop in [*loops, self._compute_loop, self._encode_loop]:
            threading.Thread(target=self._edge, args=(loop,), daemon=True).start()

    # ---- from the reading thread -------------------------------------------------------------

    def submit(self, batch: replica_pb2.WorkBatch) -> None:
        now = self._clock()
        with self._wake:
            self._undecoded_rows += len(batch.items)
        for work in batch.items:
            expires_at = now + work.expires_in_s if work.expires_in_s else float("inf")
            row = Row(work, expires_at)
            self._rows[work.id] = row
            self._undecoded.put(row)

    def cancel(self, ids: Sequence[str]) -> None:
        for entry_id in ids:
            row = self._rows.get(entry_id)
            if row is not None:
                row.cancelled = True
                self._texts.cancel(entry_id)

    def probe(self, probe: replica_pb2.Probe) -> None:
        with self._wake:
            self._probes.append(probe)
            self._wake.notify()

    # ---- the three loops ---------------------------------------------------------------------

    def _edge(self, loop: Callable[[], None]) -> None:
        """An error that reaches this is ours: the process ends, the front starts another."""
        try:
            while True:
                loop()
        except ConnectionError:
            os._exit(0)  # the front is gone
        except Exception:
            logger.exception("a stage of this replica failed")
            os._exit(EXIT_BROKEN)

    def _decode_loop(self) -> None:
        row = self._undecoded.get()
        if not self._dropped(row):
            self._decode(row)
        with self._wake:
            self._undecoded_rows -= 1
            if row.ready is not None:
                self._ready.append(row)
            self._wake.notify()

    def _decode(self, row: Row) -> None:
        try:
            row.ready = self._model.prepare(row.work)
        except Rejected as error:
            self._fail(row, error.fault)
        except Exception as error:
            self._fail(row, self._bug(error, "PREPARE_FAILED"))

    def _stands_back(self) -> bool:
        """Whether ready rows had better wait for those that are being decoded."""
        busy = self._crew.shared_cores and self._undecoded_rows >= self._crew.decoders
        return busy and len(self._ready) < self._budget.rows

    def _compute_loop(self) -> None:
        with self._wake:
            while not ((self._ready and not self._stands_back()) or self._probes or self._texts):
                self._wake.wait()
            probe = self._probes.popleft() if self._probes else None
        if probe is not None:
            self._run_probe(probe)
        self._under_way.acquire()
        rows = self._next_batch()  # as late as possible: more may be decoded by now
        if rows:
            self._compute(rows)
        else:
            self._under_way.release()
        self._texts.step()

    def _next_batch(self) -> list[Row]:
        with self._wake:
            if self._stands_back():
                return []
            waiting, self._ready = self._ready, deque()
        alive = [row for row in waiting if not self._dropped(row)]
        self._texts.take([row for row in alive if row.work.task == "generate"])
        scored = [row for row in alive if row.work.task != "generate"]
        costs = [row.ready.tokens for row in scored if row.ready is not None]
        count = compose(costs, self._budget.tokens, self._budget.rows)
        with self._wake:
            self._ready.extendleft(reversed(scored[count:]))
        return scored[:count]

    def _compute(self, rows: list[Row]) -> None:
        self._send(_begun(rows))
        began = time.perf_counter()
        try:
            found = self._model.forward([row.ready.row for row in rows if row.ready])
        except Exception as error:
            self._under_way.release()
            self._failed_forward(rows, error)
            return
        self._computed.put((rows, found, began))

    def _failed_forward(self, rows: list[Row], error: Exception) -> None:
        fault = self._bug(error, "FORWARD_FAILED")
        if len(rows) == 1:
            self._fail(rows[0], fault)
            return
        for row in rows:
            self._under_way.acquire()
            self._compute([row])

    def _encode_loop(self) -> None:
        rows, found, began = self._computed.get()
        try:
            self._model.wait(found)
            computed = time.perf_counter()
            dones = self._model.finish(found)
        except Exception as error:
            fault = self._bug(error, "FINISH_FAILED")
            for row in rows:
                self._fail(row, fault)
            return
        finally:
            self._under_way.release()
        forward_ms, post_ms = (computed - began) * 1e3, (time.perf_counter() - computed) * 1e3
        message = replica_pb2.FromReplica()
        for row, done in zip(rows, dones, strict=True):
            _complete(done, row, len(rows), forward_ms, post_ms)
            message.done_batch.items.append(done)
        self._send(message)
        for row in rows:
            self._forget(row.work.id)

    def _run_probe(self, probe: replica_pb2.Probe) -> None:
        answer = replica_pb2.FromReplica()
        answer.probed.id = probe.id
        for mix in self._model.probe(list(probe.mixes)):
            answer.probed.mixes.append(mix)
            self._send(_progress(f"probe of {mix.mix}"))
        answer.probed.ok = all(mix.ok for mix in answer.probed.mixes)
        self._send(answer)

    # ---- rows that end here ------------------------------------------------------------------

    def _dropped(self, row: Row) -> bool:
        if row.cancelled:
            self._fail(row, _fault("CANCELLED", "CANCELLED", "the caller went away"))
        elif self._clock() >= row.expires_at:
            message = "the deadline passed before the row was computed"
            self._fail(row, _fault("DEADLINE_EXCEEDED", "EXPIRED_IN_REPLICA", message))
        else:
            return False
        return True

    def _bug(self, error: Exception, reason: str) -> inference_pb2.Fault:
        logger.error("a row failed", exc_info=error)
        if self._model.broken_by(error):
            os._exit(EXIT_BROKEN)  # the front retries these rows elsewhere, each alone
        return _fault("INTERNAL", reason, f"{type(error).__name__}: {error}")

    def _fail(self, row: Row, fault: inference_pb2.Fault) -> None:
        message = replica_pb2.FromReplica()
        message.done.fault.CopyFrom(fault)
        _complete(message.done, row, 0, 0.0, 0.0)
        self._send(message)
        self._forget(row.work.id)

    def _forget(self, entry_id: str) -> None:
        self._rows.pop(entry_id, None)


def _complete(
    done: replica_pb2.Done, row: Row, batch_size: int, forward_ms: float, post_ms: float
) -> None:
    done.id = row.work.id
    done.batch_size = batch_size
    done.timing.forward_ms, done.timing.post_ms = forward_ms, post_ms
    if row.ready is not None:
        done.timing.decode_ms = row.ready.decode_ms
        done.timing.preprocess_ms = row.ready.preprocess_ms
        done.tokens = row.ready.tokens
        done.modality_mix.extend(row.ready.mix)


def _begun(rows: Sequence[Row]) -> replica_pb2.FromReplica:
    ids = [row.work.id for row in rows]
    return replica_pb2.FromReplica(begun=replica_pb2.Begun(ids=ids))


def _progress(step: str) -> replica_pb2.FromReplica:
    return replica_pb2.FromReplica(loading=replica_pb2.Loading(step=step, fraction=1.0))


def _fault(code: str, reason: str, message: str) -> inference_pb2.Fault:
    return inference_pb2.Fault(code=code, reason=reason, message=message)
