"""Which row goes to which replica, and what becomes of it: answered, expired, cancelled, retried.

Everything runs on the event loop, in turns: whatever arrives within one turn of the loop is placed
together, so that rows travel in one frame and nothing needs a task of its own.

A replica that dies by itself leaves suspects. A suspect is tried once more, alone on a replica kept
free for it: if that one dies too, the row is proved to be the killer and is quarantined, and the
innocent that shared the first death with it are answered. What was killed from outside leaves no
suspects: its rows are queued again. A row whose caller has already seen part of the answer cannot
be tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from server import errors
from server.config import ServerConfig
from server.pool.affinity import choose
from server.pool.quarantine import Quarantine
from server.pool.queue import QueueEntry, RowQueue, TakeDecision
from server.pool.replica_handle import ReplicaHandle
from server.pool.service_time import ServiceTime
from server.telemetry.outputs import Timing
from server.types import Fault, Outcome, Work

logger = logging.getLogger(__name__)

# A row that was never alone when its replica died gets one try more than one that was.
MOST_DEATHS = 3
SHORT_RETRY_S = 1.0  # for a caller whose row no replica had memory for
OVERDUE_S = 1.0  # a replica answers an expired row itself; after this the front does


class Dispatcher:
    def __init__(
        self, config: ServerConfig, replicas: Sequence[ReplicaHandle], clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._replicas = replicas
        self._clock = clock
        self.queue = RowQueue(config.queue_rows, config.queue_bytes, config.patience_s)
        self.suspects = RowQueue(config.queue_rows, config.queue_bytes, config.patience_s)
        self.quarantine = Quarantine(config.quarantine_s)
        self.service_time = ServiceTime()
        self.quarantined = 0
        self._planned = False

    # ---- in ----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self.queue) + len(self.suspects)

    @property
    def in_flight(self) -> int:
        return sum(len(replica.held) for replica in self._replicas)

    def refusal(self, work: Work) -> Fault | None:
        """Why this row is not even queued."""
        now = self._clock()
        if self.quarantine.holds(work, now):
            return errors.quarantined_content()
        if work.deadline is not None:
            expected_s = self._expected_s(work)
            if now >= work.deadline or (expected_s and now + expected_s > work.deadline):
                return errors.deadline_unreachable(work.deadline - now, expected_s)
        if not self.queue.has_room(work):
            return errors.queue_full(len(self.queue), self.retry_after_s())
        return None

    def submit(self, entry: QueueEntry) -> None:
        """Queue a row; a row of lower priority that it displaces is refused."""
        displaced = self.queue.add(entry)
        if displaced is not None:
            fault = errors.queue_full(len(self.queue), self.retry_after_s())
            self.close(displaced, fault)
        self.plan()

    def cancel(self, entry: QueueEntry) -> None:
        """The caller has gone: drop the row from the queue, or notify the replica that has it."""
        entry.closed = True
        entry_id = entry.work.id
        if self.queue.remove(entry_id) or self.suspects.remove(entry_id):
            return
        self._cancel_in_flight(entry_id)

    def _cancel_in_flight(self, entry_id: str) -> None:
        for replica in self._replicas:
            if replica.held.get(entry_id) is not None:
                replica.cancel(entry_id)

    def _expected_s(self, work: Work) -> float | None:
        rows_before = len(self.queue) if work.priority > 0 else 0
        return self.service_time.total_s(work.mix, rows_before, self._serving_count())

    def retry_after_s(self) -> float:
        """When half of the queue will be done."""
        wait_s = self.service_time.wait_s(len(self.queue), self._serving_count())
        return min(max(wait_s / 2, 0.05), 5.0)

    def expected_wait_s(self) -> float:
        """What a row of usual cost that arrives now will wait for its forward: everything before
        it, at the measured speed. 0 where a replica would begin at once, or no row was answered."""
        if self._is_free():
            return 0.0
        return self.service_time.wait_s(self.waiting + self.in_flight, self._serving_count())

    def _is_free(self) -> bool:
        """Whether a replica would begin with a new row at once."""
        return not self.queue and any(s.serving and not s.held for s in self._replicas)

    def _serving_count(self) -> int:
        return sum(replica.serving for replica in self._replicas)

    # ---- placing -----------------------------------------------------------------------------

    def plan(self) -> None:
        """Place rows at the end of this turn of the loop."""
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._place)

    def _place(self) -> None:
        self._planned = False
        now = self._clock()
        self.expire(now)
        self._place_suspect(now)
        chosen: dict[ReplicaHandle, list[QueueEntry]] = {}
        open_replicas = [s for s in self._replicas if s.serving and not s.isolated]
        while self.queue and open_replicas:
            replica = min(open_replicas, key=lambda s: s.held.load)
            entry = None if replica.held.full else self.queue.take(partial(self._judge, replica))
            if entry is None:
                open_replicas.remove(replica)
                continue
            replica.hold(entry)
            chosen.setdefault(replica, []).append(entry)
        for replica, entries in chosen.items():
            replica.send(entries, now)

    def _judge(self, replica: ReplicaHandle, entry: QueueEntry) -> TakeDecision:
        work = entry.work
        if entry.avoid == replica.index and self._serving_count() > 1:
            return "skip"
        if work.task == "generate" and replica.held.generations >= self._config.max_generations:
            return "skip"
        if work.session and not self._is_home(replica, work.session):
            return "skip"
        # What does not fit is waited for, not overtaken: nothing is too large to have its turn.
        return "take" if replica.held.fits(work) else "stop"

    def _is_home(self, replica: ReplicaHandle, session: str) -> bool:
        loads = {s.name: len(s.held) for s in self._replicas if s.serving and not s.isolated}
        return choose(session, loads) == replica.name

    def _place_suspect(self, now: float) -> None:
        serving = [replica for replica in self._replicas if replica.serving]
        isolated = next((replica for replica in serving if replica.isolated), None)
        if isolated is None and self.suspects and serving:
            isolated = min(serving, key=lambda s: s.held.load)
            isolated.isolated = True
        if isolated is None or any(not entry.streamed for entry in isolated.held.entries):
            return
        entry = self.suspects.take(lambda _: "take")
        if entry is None:
            isolated.isolated = False
            return
        isolated.hold(entry)
        isolated.send((entry,), now)

    # ---- out ---------------------------------------------------------------------------------

    def finished(self, entry: QueueEntry, outcome: Outcome) -> None:
        if outcome.answer is not None and entry.work.task != "generate":
            work_s = self.service_time.learn(entry.work.mix, outcome.timing, outcome.batch_size)
            self.service_time.meter(work_s, self._clock(), bool(self.queue))
        fault = outcome.fault
        if fault is not None and fault.code == "RESOURCE_EXHAUSTED":
            if self._try_elsewhere(entry, outcome.replica):
                return
            outcome = replace(outcome, fault=replace(fault, retry_after_s=SHORT_RETRY_S))
        retried = entry.losses > 0 or entry.avoid is not None
        self._resolve(entry, replace(outcome, retried=True) if retried else outcome)

    def _try_elsewhere(self, entry: QueueEntry, short: int) -> bool:
        """Queue a row again, once, that this replica had no memory for; False: it ends here."""
        if entry.closed or entry.streamed or entry.avoid is not None or self._serving_count() < 2:
            return False
        entry.avoid = short
        self.queue.put_back(entry)
        self.plan()
        return True

    def close(self, entry: QueueEntry, fault: Fault, replica: int = 0) -> None:
        """End a row without an answer."""
        total_ms = (self._clock() - entry.queued_at) * 1e3
        timing = Timing(queue_ms=total_ms, total_ms=total_ms)
        self._resolve(entry, Outcome(entry.work.id, None, fault, timing, 0, "", replica))

    def _resolve(self, entry: QueueEntry, outcome: Outcome) -> None:
        if not entry.closed:
            entry.closed = True
            entry.finish(outcome)

    def expire(self, now: float) -> None:
        """Answer what is past its deadline: at once where it waits, a little later where a replica
        should have done so."""
        for queue in (self.queue, self.suspects):
            for entry in queue.expire(now):
                self.close(entry, errors.expired_waiting(now - entry.queued_at))

    def expire_in_flight(self, now: float) -> None:
        for replica in self._replicas:
            for entry in replica.held.entries:
                deadline = entry.work.deadline
                if not entry.closed and deadline is not None and now > deadline + OVERDUE_S:
                    self.close(entry, errors.expired_running(), replica.index)
                    replica.cancel(entry.work.id)

    def close_all(self, fault: Fault) -> None:
        for queue in (self.queue, self.suspects):
            for entry in queue.drain():
                self.close(entry, fault)
        for replica in self._replicas:
            for entry in replica.held.entries:
                self.close(entry, fault, replica.index)

    # ---- death -------------------------------------------------------------------------------

    def lost(self, replica: ReplicaHandle, cause: str) -> None:
        """A replica died holding rows: some are suspects now, some are proved."""
        replica.isolated = False
        entries = replica.held.entries
        alone = len(entries) == 1
        for entry in entries:
            if entry.closed:
                continue
            entry.losses += 1
            entry.deaths += not replica.blameless
            if entry.streamed:
                self.close(entry, errors.stream_lost(cause), replica.index)
            elif replica.blameless or not self._is_proved(entry, alone):
                (self.suspects if entry.deaths else self.queue).put_back(entry)
            else:
                self._condemn(entry, replica, cause)
        self.plan()

    def _is_proved(self, entry: QueueEntry, alone: bool) -> bool:
        return entry.deaths >= MOST_DEATHS or (entry.deaths > 1 and alone)

    def _condemn(self, entry: QueueEntry, replica: ReplicaHandle, cause: str) -> None:
        logger.error("row %s quarantined: %d deaths, %s", entry.work.id, entry.deaths, cause)
        self.quarantined += 1
        self.quarantine.add(entry.work, self._clock())
        self.close(entry, errors.quarantined(entry.deaths, cause), replica.index)
