"""The queue between answering and telemetry, and the thread that empties it.

A request costs only a `put`: an append and a comparison. The thread's work never affects the
caller: a full queue drops and counts, an error is logged and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from server.telemetry.errors import StoreBusy
from server.telemetry.record import FeatureSpec, Record

logger = logging.getLogger(__name__)

Queued = tuple[Record, tuple[FeatureSpec, ...]]
Answer = TypeVar("Answer")

LIMIT_ROWS = 16384
LIMIT_PAYLOAD_BYTES = 32 << 20
BATCH_ROWS = 1024
FLUSH_S = 0.2  # the longest time before a row is written
CALL_TIMEOUT_S = 10.0


@dataclass(eq=False)
class Recorder:
    """`write` gets batches in the order of `put`; `idle` is called after each batch and at least
    every FLUSH_S. Both are only called on the thread that this object starts."""

    write: Callable[[list[Queued]], None]
    idle: Callable[[], None]
    limit_rows: int = LIMIT_ROWS
    limit_payload_bytes: int = LIMIT_PAYLOAD_BYTES

    def __post_init__(self) -> None:
        # Appending and popping at the ends are atomic, so the request path needs no lock.
        self._queue: deque[Queued] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        # Invariant: only `put` changes the first counter, only the thread the second.
        self._payload_bytes_in = self._payload_bytes_out = 0
        self.recorded = self.dropped = self.lost = self.payloads_dropped = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, record: Record, schema: tuple[FeatureSpec, ...] = ()) -> None:
        """Never waits and never raises; call from one thread."""
        if len(self._queue) >= self.limit_rows:
            self.dropped += 1
            return
        if record.payload:
            waiting = self._payload_bytes_in - self._payload_bytes_out
            if waiting + len(record.payload) > self.limit_payload_bytes:
                self.payloads_dropped += 1
                record = replace(record, payload=b"")
            self._payload_bytes_in += len(record.payload)
        self._queue.append((record, schema))

    def call(self, work: Callable[[], Answer], timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """Runs `work` on the thread, after all rows put before it, and returns its result or raises
        its exception. Raises StoreBusy when that takes too long."""
        done: Future[Answer] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except Exception as fault:
                # Also the edge of the loop: any error goes to the caller.
                done.set_exception(fault)

        self._calls.append(run)
        self._wake.set()
        try:
            return done.result(timeout_s)
        except TimeoutError:
            done.cancel()
            raise StoreBusy(f"telemetry did not answer in {timeout_s:.0f} s") from None

    def post(self, work: Callable[[], None]) -> None:
        """Like `call`, but without waiting; an error is logged."""
        self._calls.append(lambda: self._guarded(work, 0))
        self._wake.set()

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, timeout_s: float = 10.0) -> bool:
        """Writes what is queued; False if that was not finished in time."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            self._wake.clear()
            calls = len(self._calls)  # every row was put before these calls
            more = self._drain()
            for _ in range(calls):
                self._calls.popleft()()
            self._guarded(self.idle, 0)
            if last and not self._queue:
                return
            if not more and not self._calls:
                self._wake.wait(FLUSH_S)

    def _drain(self) -> bool:
        """Writes what was queued when it was called; True if as many rows have arrived
        meanwhile."""
        waiting = len(self._queue)
        while waiting > 0:
            batch = [self._queue.popleft() for _ in range(min(waiting, BATCH_ROWS))]
            waiting -= len(batch)
            self._guarded(partial(self.write, batch), len(batch))
            self.recorded += len(batch)
            self._payload_bytes_out += sum(len(record.payload) for record, _ in batch)
        return len(self._queue) >= BATCH_ROWS

    def _guarded(self, work: Callable[[], None], rows: int) -> None:
        try:
            work()
        except Exception:
            # The edge of the loop: an error in telemetry must neither end it nor reach an answer.
            self.lost += rows
            logger.exception("telemetry: %d rows lost to a fault", rows)
