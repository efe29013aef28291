"""N replicas kept alive: started together, judged before they serve, replaced when they die,
probed again when nothing else proves them.

What a dead replica held, and who serves what, is the dispatch's business; this is about processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from server import host
from server.config import ServerConfig
from server.errors import PoolRefused, draining
from server.pool import memory
from server.pool.dispatcher import Dispatch
from server.pool.queue import Entry
from server.pool.replica_handle import Seat
from server.pool.service_time import own_work_ms
from server.pool.spawn import Spawn
from server.types import Evidence, Facts, Fault, Outcome, ReplicaStatus

logger = logging.getLogger(__name__)

TICK_S = 0.1
QUIET_S = 2.0  # a replica without work for so long is idle enough to be probed
STOP_S = 5.0  # from Stop to SIGKILL


class Pool:
    def __init__(
        self,
        config: ServerConfig,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self._clock = clock
        self._wall = wall
        self._seats = [
            Seat(index, config, spawn, self, clock, wall) for index in range(config.warm_pool)
        ]
        self.dispatch = Dispatch(config, self._seats, clock)
        self.facts: Facts | None = None
        self.quiet_s = QUIET_S
        self.last_death = ""  # of which replica, and why
        self._first = asyncio.Event()  # a replica has loaded, or it is clear that none will
        self._refused: PoolRefused | None = None
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()  # set while nothing waits and nothing is in flight
        self._keepers: dict[Seat, asyncio.Task[None]] = {}
        self._closed: set[Seat] = set()  # not kept any more, or not yet
        self._watcher: asyncio.Task[None] | None = None

    # ---- start and end -----------------------------------------------------------------------

    async def start(self, count: int | None = None) -> None:
        """Start every replica, or the first `count`; return when one of them has loaded.

        Raises PoolRefused.
        """
        self._check_memory(len(self._seats) if count is None else count)
        self._closed = set(self._seats)
        for seat in self._seats[:count]:
            self.open(seat.index)
        self._watcher = asyncio.create_task(self._watch())
        await self._first.wait()
        if self._refused is not None:
            await self.stop()
            raise self._refused

    async def stop(self) -> None:
        """Ask every replica to end, then make it end."""
        self._stopping.set()
        self.dispatch.close_all(draining())
        for seat in self._seats:
            seat.stop()
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=STOP_S)
        tasks = [*self._keepers.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keepers, self._watcher = {}, None

    async def finish(self, grace_s: float, leftover: Fault) -> None:
        """Return when nothing is queued or in flight; after `grace_s` what is left gets a fault."""
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self.dispatch.close_all(leftover)

    def _check_memory(self, count: int) -> None:
        reason = memory.misfit(self.config, count, host.available_bytes())
        if reason:
            raise PoolRefused("memory", reason)

    # ---- one seat ----------------------------------------------------------------------------

    def open(self, index: int) -> None:
        """Keep a replica in this seat from now on."""
        seat = self._seats[index]
        self._closed.discard(seat)
        seat.state, seat.restarts = "starting", 0
        keeper = asyncio.create_task(self._keep(seat))
        keeper.add_done_callback(partial(self._keeper_ended, seat))
        self._keepers[seat] = keeper

    async def close(self, index: int, grace_s: float) -> None:
        """Let the replica of this seat finish what it holds, then end it for good. What it could
        not finish in time goes to another seat."""
        seat = self._seats[index]
        keeper = self._keepers.pop(seat, None)
        if keeper is None:
            return
        self._closed.add(seat)
        seat.state, seat.reason = "draining", "its place goes to another bundle"
        until = self._clock() + grace_s
        while seat.held and self._clock() < until:  # noqa: ASYNC110 - a seat has many ends, one look
            await asyncio.sleep(TICK_S)
        seat.stop()
        await asyncio.wait((keeper,), timeout=STOP_S)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        seat.state, seat.blameless = "dead", True
        self.dispatch.lost(seat, "has left")

    async def _keep(self, seat: Seat) -> None:
        """Keep a replica in this seat until the pool stops."""
        in_a_row = 0
        while not self._stopping.is_set():
            began = self._clock()
            cause = await seat.live()
            if self._stopping.is_set() or seat in self._closed:
                break
            lived_s = self._clock() - began
            in_a_row = 1 if lived_s > self.config.stable_s else in_a_row + 1
            wait_s = self._backoff_s(in_a_row, seat.fatal is not None)
            seat.state = "dead"
            seat.reason = f"{cause} after {lived_s:.1f} s; {_again(in_a_row, wait_s)}"
            self.last_death = f"replica {seat.index} {seat.reason}"
            self.dispatch.lost(seat, cause)
            self._give_up_start(seat, cause)
            if self._refused is None:  # else whoever started the pool is told, and there is no next
                logger.error("%s", self.last_death)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            seat.restarts += 1
        seat.state = "dead"

    def _keeper_ended(self, seat: Seat, keeper: asyncio.Task[None]) -> None:
        """A bug in the front must not leave callers waiting for a seat nobody keeps."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            logger.critical("replica %d is not kept any more", seat.index, exc_info=error)
            seat.state, seat.reason = "dead", f"a bug in the front: {error!r}"
            self.dispatch.lost(seat, "was lost by the front")
            self._give_up_start(seat, seat.reason)

    def _backoff_s(self, deaths_in_a_row: int, refused: bool) -> float:
        """A first death is repaired at once; a refused bundle will most likely be refused again."""
        if deaths_in_a_row == 1 and not refused:
            return 0.0
        doubled = self.config.restart_first_s * 2.0 ** min(deaths_in_a_row - 1, 16)
        return min(doubled, self.config.restart_longest_s)

    def _give_up_start(self, seat: Seat, cause: str) -> None:
        """Before anything has loaded, a bundle that one replica refuses is refused by all."""
        if self.facts is not None or self._first.is_set():
            return
        if seat.fatal is not None:
            self._refused = PoolRefused(*seat.fatal)
        elif all(s.state == "dead" for s in self._open_seats()):
            self._refused = PoolRefused("start", f"replica {seat.index} {cause}")
        if self._refused is not None:
            self._first.set()

    # ---- what seats report (Audience) --------------------------------------------------------

    def loaded(self, seat: Seat) -> str:
        assert seat.facts is not None
        if self.facts is not None and seat.facts.stamp != self.facts.stamp:
            return (
                f"loaded stamp {seat.facts.stamp[:12]} beside {self.facts.stamp[:12]}: "
                "the bundle or the code has changed on disk"
            )
        self.facts = self.facts or seat.facts
        self._first.set()
        return ""

    def judged(self, seat: Seat) -> None:
        if seat.state == "draining":
            return
        was = seat.state
        doubtful = seat.readiness.doubtful()
        if was == "warming" and doubtful:
            seat.reason = f"slow at first, probed again: {', '.join(doubtful)}"
            seat.probe(doubtful)
            return
        seat.state, seat.reason = seat.readiness.verdict()
        if seat.state != was:
            logger.info("replica %d %s: %s", seat.index, seat.state, seat.reason)
        if was == "wrong" and seat.state == "wrong":
            seat.kill(f"wrong answers twice: {seat.reason}")
        self.dispatch.plan()

    def freed(self, seat: Seat) -> None:
        if self.dispatch.waiting or seat.isolated:
            self.dispatch.plan()

    def finished(self, seat: Seat, entry: Entry, outcome: Outcome) -> None:
        if outcome.answer is not None and entry.work.task != "generate":
            own_ms = own_work_ms(outcome.timing, outcome.batch_size)
            seat.readiness.answered(outcome.mix, own_ms, self._clock())
        self.dispatch.finished(entry, outcome)

    # ---- watching ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._clock()
            self.dispatch.expire(now)
            self.dispatch.expire_in_flight(now)
            for seat in self._open_seats():
                reason = seat.stalled(now)
                if reason:
                    seat.kill(reason)
            self._probe_one(now)
            if not self.dispatch.waiting and not self.dispatch.in_flight:
                self._idle.set()

    def _probe_one(self, now: float) -> None:
        """Probe one mix of one idle replica at a time: a probe must not slow the others' answers,
        and a caller who comes during it waits for one mix, not for all."""
        if any(seat.probing for seat in self._seats):
            return
        for seat in self._seats:
            if seat.state not in ("ready", "slow", "wrong") or seat.held:
                continue
            if now - seat.worked_at < self.quiet_s:
                continue
            mixes = seat.readiness.stale(now, self._wall())
            if mixes:
                seat.probe(mixes[:1])
                return

    async def probe_now(self, mixes: tuple[str, ...]) -> tuple[Evidence, ...]:
        """What a serving replica measures for these mixes at this moment; () when none does."""
        seat = next((seat for seat in self._seats if seat.serving), None)
        if seat is None:
            return ()
        await self._probed(seat)
        seat.probe(mixes)
        await self._probed(seat)
        return tuple(e for e in seat.readiness.evidence if e.mix in mixes)

    async def verify(self) -> None:
        """Every replica compares each byte with what it loaded, one after the other; the files on
        disk, which are the same for all, are read for the first of them."""
        for number, seat in enumerate([seat for seat in self._seats if seat.serving]):
            await seat.verify(disk=number == 0)

    async def _probed(self, seat: Seat) -> None:
        while seat.probing and seat.serving:  # noqa: ASYNC110 - a seat has many ends, one look
            await asyncio.sleep(TICK_S)

    # ---- how it is ---------------------------------------------------------------------------

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        return tuple(seat.status() for seat in self._open_seats())

    def device_free(self) -> dict[str, int]:
        """Bytes that are free on each device, as its replicas said last."""
        return {s.device: s.device_free for s in self._open_seats() if s.device_free is not None}

    def _open_seats(self) -> list[Seat]:
        return [seat for seat in self._seats if seat not in self._closed]

    @property
    def serving(self) -> int:
        return sum(seat.serving for seat in self._seats)

    def why_not(self) -> str:
        seats = self._open_seats()
        return "; ".join(f"replica {s.index} {s.state}: {s.reason}" for s in seats)


def _again(deaths_in_a_row: int, wait_s: float) -> str:
    if deaths_in_a_row == 1 and not wait_s:
        return "started again"
    return f"death {deaths_in_a_row} in a row, next start in {wait_s:g} s"
