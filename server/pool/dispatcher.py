"""Decides which replica gets a row, and what happens to it: answered, expired, cancelled, retried.

Everything runs on the event loop, in turns. All rows that arrive within one turn of the loop are
placed together, so that they share a frame and need no task of their own.

A replica that dies by itself leaves suspects. A suspect is tried once more, alone on a replica kept
free for it. If that replica dies too, the row is proved to be the cause and is quarantined, and the
innocent rows of the first death are answered. A replica that was killed from outside leaves no
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
from server.pool.admission import Admission, way_back_s
from server.pool.affinity import choose
from server.pool.quarantine import Quarantine
from server.pool.queue import QueueEntry, RowQueue, TakeDecision
from server.pool.replica_handle import ReplicaHandle
from server.telemetry.outputs import Timing
from server.types import Fault, Outcome, Work

logger = logging.getLogger(__name__)

# A row that was never alone when its replica died gets one more try than a row that was.
MOST_DEATHS = 3
USUAL, LOWEST = 1, 2  # priorities: all other rows go before one of the lowest
SHORT_RETRY_S = 1.0  # retry time for a caller whose row did not fit into any replica's memory
OVERDUE_S = 1.0  # a replica answers an expired row itself; this much later the front does


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
        self.admission = Admission()
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
        """Why this row cannot even be queued, or None."""
        now = self._clock()
        if self.quarantine.holds(work, now):
            return errors.quarantined_content()
        if work.deadline is not None:
            fault = self._late(work.deadline, work.mix, work.priority, now)
            if fault is not None:
                return fault
        if not self.queue.has_room(work):
            return errors.queue_full(len(self.queue), self._come_back_s(now, work.mix))
        return None

    def refusal_now(self, remaining_s: float | None) -> Fault | None:
        """Why a row of ordinary size and priority is refused now, or None; it is not promised a
        place."""
        now = self._clock()
        wait_s = self.admission.booked_s(now)
        if self.queue.full:
            return errors.queue_full(len(self.queue), wait_s)
        expected_s = self._expected_s("", USUAL)
        if remaining_s is None or expected_s is None:
            return None
        if expected_s <= remaining_s - way_back_s(remaining_s):
            return None
        return errors.deadline_unreachable(remaining_s, expected_s, wait_s)

    def _late(self, deadline: float, mix: str, priority: int, now: float) -> Fault | None:
        """Why such a row is refused now because of its deadline, or None."""
        left_s = deadline - now
        if left_s <= 0:
            return errors.deadline_passed()
        expected_s = self._expected_s(mix, priority)
        if expected_s is None or expected_s <= left_s - way_back_s(left_s):
            return None
        if self._is_free() and self.admission.may_try(now):
            return None
        retry_after_s = self._come_back_s(now, mix, expected_s - left_s)
        return errors.deadline_unreachable(left_s, expected_s, retry_after_s)

    def submit(self, entry: QueueEntry) -> None:
        """Queue a row; a row of lower priority that it displaces is refused."""
        work = entry.work
        entry.cost_s = self.admission.service_time.cost_s(work.mix) or 0.0
        if work.task != "generate":
            entry.expected_s = self._bare_s(work.mix, work.priority) or 0.0
        displaced = self.queue.add(entry)
        if displaced is not None:
            wait_s = self._come_back_s(self._clock(), displaced.work.mix)
            self.close(displaced, errors.queue_full(len(self.queue), wait_s))
        self.plan()

    def cancel(self, entry: QueueEntry) -> None:
        """The caller has disconnected: drop the row from the queue, or notify the replica that has
        it."""
        entry.closed = True
        entry_id = entry.work.id
        if self.queue.remove(entry_id) or self.suspects.remove(entry_id):
            return
        self._cancel_in_flight(entry_id)

    def _cancel_in_flight(self, entry_id: str) -> None:
        for replica in self._replicas:
            if replica.held.get(entry_id) is not None:
                replica.cancel(entry_id)

    def _expected_s(self, mix: str, priority: int) -> float | None:
        """Seconds from now to the answer, which nearly all such rows keep to. Where a replica is
        free, only the row's own work counts: refusals must not keep a replica idle."""
        if self._is_free():
            return self.admission.service_time.cost_s(mix)
        bare_s = self._bare_s(mix, priority)
        return None if bare_s is None else bare_s * self.admission.factor

    def _is_free(self) -> bool:
        """Whether a replica would start a new row at once."""
        return not self.queue and any(s.serving and not s.held for s in self._replicas)

    def _bare_s(self, mix: str, priority: int) -> float | None:
        before_s = self.queue.cost_before_s(priority)
        before_s += sum(replica.held.cost_s for replica in self._replicas)
        return self.admission.expected_s(mix, before_s, self._serving_count())

    def _come_back_s(self, now: float, mix: str, until_room_s: float | None = None) -> float:
        """`until_room_s`: time until such a row can be admitted; None: until half the queue is
        done."""
        count = self._serving_count()
        if until_room_s is None:
            half_s = self.queue.cost_before_s(LOWEST) / 2
            until_room_s = self.admission.work_off_s(half_s, count)
        cost_s = self.admission.service_time.cost_s(mix) or 0.0
        return self.admission.come_back_s(now, cost_s, until_room_s, count)

    def expected_wait_s(self) -> float:
        """How long an ordinary row that arrives now will wait for its forward: all work before it,
        at the measured speed. 0 where a replica would start at once, or before any row was
        answered."""
        if self._is_free():
            return 0.0
        before_s = self.queue.cost_before_s(LOWEST) + sum(s.held.cost_s for s in self._replicas)
        return self.admission.work_off_s(before_s, self._serving_count())

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
            if self._shed(replica, entry, now):
                continue
            replica.hold(entry)
            chosen.setdefault(replica, []).append(entry)
        self._meter(now)
        for replica, entries in chosen.items():
            replica.send(entries, now)

    def _shed(self, replica: ReplicaHandle, entry: QueueEntry, now: float) -> bool:
        """Refuse a row that this replica would certainly answer too late, as its caller would no
        longer wait."""
        deadline = entry.work.deadline
        if deadline is None or entry.work.task == "generate" or not replica.held:
            return False
        need_s = self.admission.work_off_s(replica.held.ahead_cost_s + entry.cost_s, 1)
        if now + need_s <= deadline - way_back_s(deadline - entry.queued_at):
            return False
        self._too_late(entry, need_s, now)
        return True

    def _too_late(self, entry: QueueEntry, need_s: float, now: float, replica: int = 0) -> None:
        """End an admitted row that cannot be answered in time, while there is time left."""
        if entry.closed:
            return
        deadline = now if entry.work.deadline is None else entry.work.deadline
        wait_s = self._come_back_s(now, entry.work.mix)
        self._note_late(entry)
        self.close(entry, errors.deadline_unreachable(deadline - now, need_s, wait_s), replica)

    def _note_late(self, entry: QueueEntry) -> None:
        """Count an admitted row that missed its deadline as one that took longer than expected."""
        if entry.expected_s and not entry.losses:
            self.admission.took(entry.expected_s, float("inf"), self._clock())

    def _meter(self, now: float) -> None:
        busy = sum(bool(replica.held) for replica in self._replicas)
        self.admission.service_time.meter(now, busy)

    def _judge(self, replica: ReplicaHandle, entry: QueueEntry) -> TakeDecision:
        work = entry.work
        if entry.avoid == replica.index and self._serving_count() > 1:
            return "skip"
        if work.task == "generate" and replica.held.generations >= self._config.max_generations:
            return "skip"
        if work.session and not self._is_home(replica, work.session):
            return "skip"
        # A row that does not fit is waited for, not overtaken: every row gets its turn, however
        # large.
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
        now = self._clock()
        self._meter(now)
        if outcome.answer is not None and entry.work.task != "generate":
            self.admission.service_time.learn(entry.work.mix, outcome.timing, outcome.batch_size)
            self.admission.answered(now)
            if entry.expected_s and not entry.losses:
                self.admission.took(entry.expected_s, now - entry.queued_at, now)
        fault = outcome.fault
        if fault is not None and fault.reason == errors.UNREACHABLE:
            need_s = self.admission.work_off_s(entry.cost_s, 1)
            self._too_late(entry, need_s, now, outcome.replica)
            return
        if fault is not None and fault.code == "DEADLINE_EXCEEDED":
            self._note_late(entry)
        if fault is not None and fault.code == "RESOURCE_EXHAUSTED":
            if self._try_elsewhere(entry, outcome.replica):
                return
            outcome = replace(outcome, fault=replace(fault, retry_after_s=SHORT_RETRY_S))
        retried = entry.losses > 0 or entry.avoid is not None
        self._resolve(entry, replace(outcome, retried=True) if retried else outcome)

    def _try_elsewhere(self, entry: QueueEntry, short: int) -> bool:
        """Queue a row again, once, for which this replica lacked memory; False: it ends here."""
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
        """Answer rows past their deadline: waiting rows at once, rows in a replica a little later,
        as the replica should do so itself."""
        for queue in (self.queue, self.suspects):
            for entry in queue.expire(now):
                self._note_late(entry)
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
        """A replica died holding rows: some of them become suspects, some are proved to be the
        cause."""
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
