"""Keeps N replicas alive: starts them together, checks them before they serve, replaces them when
they die, and probes them again when traffic does not prove them.

The dispatcher decides which replica gets a row and what happens to a dead replica's rows; this file
is about processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from server import host
from server.config import ServerConfig
from server.errors import PoolRefused, draining
from server.pool import memory
from server.pool.dispatcher import Dispatcher
from server.pool.queue import QueueEntry
from server.pool.readiness import Standing
from server.pool.replica_handle import ReplicaHandle
from server.pool.service_time import own_work_ms
from server.pool.spawn import Spawn
from server.pool.weight_holders import WeightHolders
from server.types import Evidence, Facts, Fault, Outcome, ReplicaStatus, Work

logger = logging.getLogger(__name__)

TICK_S = 0.1
PAUSE_S = 1.0  # a tick later than this means that the front itself was stopped
QUIET_S = 2.0  # a replica without work for this long is idle enough to be probed
STOP_S = 5.0  # time from the stop request to SIGKILL


@dataclass(eq=False)
class Pool:
    """`exited` is called for each replica that died, with the bundle's facts and the reason.
    `holders` of weights end with the pool."""

    config: ServerConfig
    spawn: Spawn
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    exited: Callable[[Facts, str], None] = lambda facts, why: None
    holders: WeightHolders | None = None

    def __post_init__(self) -> None:
        self._replicas = [
            ReplicaHandle(index, self.config, self.spawn, self, self.clock, self.wall)
            for index in range(self.config.warm_pool)
        ]
        self.dispatcher = Dispatcher(self.config, self._replicas, self.clock)
        self.facts: Facts | None = None
        self.quiet_s = QUIET_S
        self.last_death = ""  # which replica died last, and why
        # Set once a replica has loaded, or it is clear that none will.
        self._first = asyncio.Event()
        self._refused: PoolRefused | None = None
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()  # set while no row waits or is in flight
        self._keepers: dict[ReplicaHandle, asyncio.Task[None]] = {}
        self._closed: set[ReplicaHandle] = set()  # replicas that must not run, now or yet
        self._watcher: asyncio.Task[None] | None = None

    # ---- start and end -----------------------------------------------------------------------

    async def start(self, count: int | None = None) -> None:
        """Start every replica, or the first `count`; return when one of them has loaded.

        Raises PoolRefused.
        """
        self._check_memory(len(self._replicas) if count is None else count)
        self._closed = set(self._replicas)
        for replica in self._replicas[:count]:
            self.open(replica.index)
        self._watcher = asyncio.create_task(self._watch())
        await self._first.wait()
        if self._refused is not None:
            await self.stop()
            raise self._refused

    async def stop(self) -> None:
        """Ask every replica to end, then kill those that have not."""
        self._stopping.set()
        self.dispatcher.close_all(draining())
        for replica in self._replicas:
            replica.stop()
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=STOP_S)
        tasks = [*self._keepers.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keepers, self._watcher = {}, None
        if self.holders is not None:
            await self.holders.close()

    async def finish(self, grace_s: float, leftover: Fault) -> None:
        """Return when no row is queued or in flight; after `grace_s` the remaining rows get
        `leftover`."""
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self.dispatcher.close_all(leftover)

    def _check_memory(self, count: int) -> None:
        reason = memory.misfit(self.config, count, host.available_bytes())
        if reason:
            raise PoolRefused("memory", reason)

    # ---- rows --------------------------------------------------------------------------------

    def refusal(self, work: Work) -> Fault | None:
        """Why this row cannot even be queued; None when it may be submitted."""
        return self.dispatcher.refusal(work)

    def submit(
        self,
        work: Work,
        finish: Callable[[Outcome], None],
        token: Callable[[str], None] | None = None,
    ) -> QueueEntry:
        """Queue a row. `finish` gets its outcome, once; `token` gets each piece of its text."""
        entry = QueueEntry(work, self.clock(), finish, token)
        self.dispatcher.submit(entry)
        return entry

    def cancel(self, entry: QueueEntry) -> None:
        """Drop a row whose caller has left, unless it has ended."""
        if not entry.closed:
            self.dispatcher.cancel(entry)

    async def answer(self, work: Work) -> Outcome:
        """Submit a row and wait for its outcome. Cancelling drops the row wherever it is."""
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = self.submit(work, partial(_settle, answered))
        try:
            return await answered
        finally:
            self.cancel(entry)

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self.dispatcher.waiting

    @property
    def in_flight(self) -> int:
        """Rows that the replicas hold."""
        return self.dispatcher.in_flight

    # ---- one replica ----------------------------------------------------------------------------

    def open(self, index: int) -> None:
        """Keep this replica running from now on."""
        replica = self._replicas[index]
        self._closed.discard(replica)
        replica.state, replica.restarts = "starting", 0
        keeper = asyncio.create_task(self._keep(replica))
        keeper.add_done_callback(partial(self._keeper_ended, replica))
        self._keepers[replica] = keeper

    async def close(self, index: int, grace_s: float) -> None:
        """Let this replica finish its rows, then end it for good. Rows that it cannot finish in
        time go to another replica."""
        replica = self._replicas[index]
        keeper = self._keepers.pop(replica, None)
        if keeper is None:
            return
        self._closed.add(replica)
        replica.state, replica.reason = "draining", "its place goes to another bundle"
        until = self.clock() + grace_s
        while replica.held and self.clock() < until:  # noqa: ASYNC110 - a replica has many ends, one look
            await asyncio.sleep(TICK_S)
        replica.stop()
        await asyncio.wait((keeper,), timeout=STOP_S)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        replica.state, replica.blameless = "dead", True
        self.dispatcher.lost(replica, "has left")

    async def restart(self, index: int, grace_s: float, why: str) -> None:
        """Give this replica no more rows, wait for those it holds, then end its process: its keeper
        starts the next one. Rows that it cannot finish in time go to another replica."""
        replica = self._replicas[index]
        replica.state, replica.reason = "draining", why
        until = self.clock() + grace_s
        while replica.held and replica.state == "draining" and self.clock() < until:  # noqa: ASYNC110 - a replica has many ends, one look
            await asyncio.sleep(TICK_S)
        replica.blameless = True
        replica.kill(why)

    async def _keep(self, replica: ReplicaHandle) -> None:
        """Restart this replica whenever it dies, until the pool stops."""
        in_a_row = 0
        while not self._stopping.is_set():
            began = self.clock()
            cause = await self._life(replica)
            if self._stopping.is_set() or replica in self._closed:
                break
            lived_s = self.clock() - began
            in_a_row = 1 if lived_s > self.config.stable_s else in_a_row + 1
            wait_s = self._backoff_s(in_a_row, replica.fatal is not None)
            replica.state = "dead"
            replica.reason = f"{cause} after {lived_s:.1f} s; {_again(in_a_row, wait_s)}"
            self.last_death = f"replica {replica.index} {replica.reason}"
            replica.last_exit, replica.last_exit_at = replica.reason, self.wall()
            if self.facts is not None:
                self.exited(self.facts, self.last_death)
            self.dispatcher.lost(replica, cause)
            self._give_up_start(replica, cause)
            if self._refused is None:  # otherwise `start` raises it
                logger.error("%s", self.last_death)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            replica.restarts += 1
        replica.state = "dead"

    async def _life(self, replica: ReplicaHandle) -> str:
        """Run one process until it has ended. The edge of the loop: any failure in the front itself
        counts as a death, so that another start is tried later."""
        try:
            return await replica.live()
        except Exception as error:
            logger.exception("replica %d: a fault in the front", replica.index)
            replica.kill("a fault in the front")
            replica.fatal = ("front", repr(error))
            return f"a fault in the front: {error!r}"

    def _keeper_ended(self, replica: ReplicaHandle, keeper: asyncio.Task[None]) -> None:
        """A bug in the front must not leave callers waiting for a replica that nobody restarts."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            logger.critical("replica %d is not kept any more", replica.index, exc_info=error)
            replica.state, replica.reason = "dead", f"a bug in the front: {error!r}"
            self.dispatcher.lost(replica, "was lost by the front")
            self._give_up_start(replica, replica.reason)

    def _backoff_s(self, deaths_in_a_row: int, refused: bool) -> float:
        """A first death is repaired at once; a refused bundle will most likely be refused again, so
        the next attempt waits."""
        if deaths_in_a_row == 1 and not refused:
            return 0.0
        doubled = self.config.restart_first_s * 2.0 ** min(deaths_in_a_row - 1, 16)
        return min(doubled, self.config.restart_longest_s)

    def _give_up_start(self, replica: ReplicaHandle, cause: str) -> None:
        """If one replica refuses the bundle before any has loaded, all will refuse it: give up the
        start."""
        if self.facts is not None or self._first.is_set():
            return
        if replica.fatal is not None:
            self._refused = PoolRefused(*replica.fatal)
        elif all(s.state == "dead" for s in self._open_replicas()):
            self._refused = PoolRefused("start", f"replica {replica.index} {cause}")
        if self._refused is not None:
            self._first.set()

    # ---- what replicas report (ReplicaEvents) ----------------------------------------------

    def loaded(self, replica: ReplicaHandle) -> str:
        assert replica.facts is not None
        if self.facts is not None and replica.facts.stamp != self.facts.stamp:
            return (
                f"loaded stamp {replica.facts.stamp[:12]} beside {self.facts.stamp[:12]}: "
                "the bundle or the code has changed on disk"
            )
        self.facts = self.facts or replica.facts
        self._first.set()
        return ""

    def judged(self, replica: ReplicaHandle) -> None:
        if replica.state == "draining":
            return
        was = replica.state
        doubtful = replica.readiness.doubtful()
        if was == "warming" and doubtful:
            replica.reason = f"slow at first, probed again: {', '.join(doubtful)}"
            replica.probe(doubtful)
            return
        replica.state, replica.reason = replica.readiness.verdict()
        if replica.state != was:
            # The startup log reports the same event at level info, with the device.
            logger.debug("replica %d %s: %s", replica.index, replica.state, replica.reason)
        if was == "wrong" and replica.state == "wrong":
            replica.kill(f"wrong answers twice: {replica.reason}")
        self.dispatcher.plan()

    def freed(self, replica: ReplicaHandle) -> None:
        if self.dispatcher.waiting or replica.isolated:
            self.dispatcher.plan()

    def finished(self, replica: ReplicaHandle, entry: QueueEntry, outcome: Outcome) -> None:
        if outcome.answer is not None and entry.work.task != "generate":
            own_ms = own_work_ms(outcome.timing, outcome.batch_size)
            replica.readiness.answered(outcome.mix, own_ms, self.clock())
        self.dispatcher.finished(entry, outcome)

    # ---- watching ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        looked = self.clock()
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock()
            self._forgive(now - looked - TICK_S)
            looked = now
            try:
                self._look(now)
            # The edge of the loop: without it the replicas would no longer be watched.
            except Exception:
                logger.exception("the replicas could not be looked at")

    def _look(self, now: float) -> None:
        self.dispatcher.expire(now)
        self.dispatcher.expire_in_flight(now)
        for replica in self._open_replicas():
            reason = replica.stalled(now)
            if reason:
                replica.kill(reason)
        self._probe_one(now)
        if not self.dispatcher.waiting and not self.dispatcher.in_flight:
            self._idle.set()

    def _forgive(self, late_s: float) -> None:
        """The front was stopped or its machine slept: silence during that time is no reason to kill
        a replica."""
        if late_s > PAUSE_S:
            logger.warning("the front stood still for %.1f s: its replicas get that time", late_s)
            for replica in self._replicas:
                replica.forgive(late_s)

    def _probe_one(self, now: float) -> None:
        """Probe one mix of one idle replica at a time: a probe must not slow down the others'
        answers, and a caller who arrives during it waits for one mix, not for all."""
        if any(replica.probing for replica in self._replicas):
            return
        for replica in self._replicas:
            if replica.state not in ("ready", "slow", "wrong") or replica.held:
                continue
            if now - replica.worked_at < self.quiet_s:
                continue
            mixes = replica.readiness.stale(now, self.wall())
            if mixes:
                replica.probe(mixes[:1])
                return

    async def probe_now(self, mixes: tuple[str, ...]) -> tuple[Evidence, ...]:
        """Measure these mixes on a serving replica now; () if none serves."""
        replica = next((replica for replica in self._replicas if replica.serving), None)
        if replica is None:
            return ()
        await self._probed(replica)
        replica.probe(mixes)
        await self._probed(replica)
        return tuple(e for e in replica.readiness.evidence if e.mix in mixes)

    async def verify(self) -> None:
        """Make every replica compare each byte with what it loaded, one after the other. The files
        on disk are the same for all, so only the first replica reads them."""
        for number, replica in enumerate(
            [replica for replica in self._replicas if replica.serving]
        ):
            await replica.verify(disk=number == 0)

    async def _probed(self, replica: ReplicaHandle) -> None:
        while replica.probing and replica.serving:  # noqa: ASYNC110 - a replica has many ends, one look
            await asyncio.sleep(TICK_S)

    # ---- how it is ---------------------------------------------------------------------------

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        return tuple(replica.status() for replica in self._open_replicas())

    def standings(self) -> tuple[Standing, ...]:
        """The short form of the statuses, for callers that ask ten times a second: the full
        statuses cost twenty times as much."""
        return tuple(self._open_replicas())

    def device_free(self) -> dict[str, int]:
        """Free bytes on each device, as last reported by its replicas."""
        return {s.device: s.device_free for s in self._open_replicas() if s.device_free is not None}

    def _open_replicas(self) -> list[ReplicaHandle]:
        return [replica for replica in self._replicas if replica not in self._closed]

    @property
    def serving(self) -> int:
        return sum(replica.serving for replica in self._replicas)

    def why_not(self) -> str:
        replicas = self._open_replicas()
        return "; ".join(f"replica {s.index} {s.state}: {s.reason}" for s in replicas)


def _settle(answered: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not answered.done():
        answered.set_result(outcome)


def _again(deaths_in_a_row: int, wait_s: float) -> str:
    if deaths_in_a_row == 1 and not wait_s:
        return "started again"
    return f"death {deaths_in_a_row} in a row, next start in {wait_s:g} s"
