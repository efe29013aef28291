"""The way of a request: admit or refuse, queue, run on a replica, answer, then record.

docs/architecture.md lists the nine files that a request passes through, of which this is the
fourth. The engine does not know gRPC or protobuf. It runs on one event loop; nothing here blocks
it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from server import errors
from server.config import ServerConfig
from server.part_counts import PartCounts
from server.pool.pool import Pool
from server.pool.readiness import Standing, state_of
from server.record_of import record_of
from server.routing.pool_set import Build, PoolSet
from server.routing.router import stamp_of
from server.telemetry.outputs import Timing
from server.telemetry.record import FeatureSpec, Record
from server.telemetry.stamps.feedback import FeedbackItem, FeedbackResult
from server.types import (
    NO_REPLICA,
    Counters,
    EngineSnapshot,
    Facts,
    Fault,
    Generated,
    GenerationEnd,
    Outcome,
    Token,
    Work,
)

STATE_S = 0.1  # how often the state is checked for callers that wait for a change
MOST_PINS = 64  # clients that pinned another stamp, kept for the console

# The kind that a fault's code counts as; every other code is a failure of the server.
COUNTED_AS = {
    "INVALID_ARGUMENT": "bad_input",
    "DEADLINE_EXCEEDED": "expired",
    "CANCELLED": "cancelled",
    "RESOURCE_EXHAUSTED": "refused",
    "UNAVAILABLE": "refused",
    "FAILED_PRECONDITION": "refused",
}


# (the pool that answered, the row, its outcome). Returns at once and does not raise.
RowObserver = Callable[[Pool, Work, Outcome], None]


class RecordSink(Protocol):
    """Receives predictions after their caller has been answered. Never blocks, never raises."""

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None: ...


class Engine:
    """One per server. `clock` is monotonic seconds (deadlines); `wall` is unix seconds."""

    def __init__(
        self,
        config: ServerConfig,
        pool: Pool,
        recorder: RecordSink,
        wall: Callable[[], float] = time.time,
        build: Build | None = None,
        withheld: Callable[[str], str] = lambda _stamp: "",
    ) -> None:
        """`build` makes the pool of another bundle; without it none can be loaded. `withheld`
        returns why the serving stamp must not take traffic, "" if it may."""
        self.pool_set = PoolSet(config, pool, build)
        # Called for each row after its caller was answered.
        self.observer: RowObserver | None = None
        self._config = config
        self._recorder = recorder
        self._wall = wall
        self._started = wall()
        self._withheld = withheld
        self._out = ""  # the latest answer of `withheld`
        self._envs: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._parts = PartCounts()
        self._pins: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._served = False  # a replica has been ready at least once
        self._leaving = False  # health reports NOT_SERVING while calls are still served
        self._draining = False
        self._state = "STARTING"
        self._state_changed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._verifying: asyncio.Task[None] | None = None
        self._next_verify: asyncio.Task[None] | None = None

    @property
    def _pool(self) -> Pool:
        return self.pool_set.active

    @property
    def facts(self) -> Facts | None:
        """Stamp, labels, feature schema, card, limits, env; None until a replica has loaded."""
        return self._pool.facts

    async def start(self) -> None:
        """Start the pool; return when the first replica has loaded and is being warmed.

        Raises PoolRefused when the pool does not fit in memory or no replica could load the
        bundle (`check` names the step that refused it).
        """
        if self._watcher is None:  # not None if an earlier bundle was refused
            self._watcher = asyncio.create_task(self._watch())
        await self._pool.start()

    def _route(self, work: Work) -> tuple[Pool, Fault | None]:
        """Choose the pool of this row once, and the reason to refuse the row before any byte is
        decoded: draining, warming, queue full, another stamp pinned, a deadline that cannot be met,
        quarantined content. The row stays with this pool, whatever is activated meanwhile."""
        pool = self.pool_set.pool_for(work)
        if self._draining:
            return pool, errors.draining()
        if not self.serving:
            return pool, errors.not_started(self._pool.why_not())
        if self._out:
            return pool, errors.withheld(self._out)
        facts = pool.facts
        if facts and work.expected_stamps and facts.stamp not in work.expected_stamps:
            return pool, errors.stamp_differs(facts.stamp)
        return pool, pool.refusal(work)

    def refusal_now(self, remaining_s: float | None) -> Fault | None:
        """Why an ordinary row with this much time left would be refused now, or None."""
        return self._pool.dispatcher.refusal_now(remaining_s)

    @property
    def serving(self) -> bool:
        """Whether a replica has ever served: after that, rows wait for a replica."""
        self._served = self._served or self._pool.serving > 0
        return self._served

    async def predict(self, work: Work) -> Outcome:
        """Answer one row; a refusal is an Outcome with that fault too.

        Never raises for a row's fault. Cancelling the awaiting task drops the work: out of the
        queue, or in the replica before its next stage.
        """
        pool, fault = self._route(work)
        if fault is not None:
            return self._refused(pool, work, fault)
        try:
            outcome = self._checked(work, await pool.answer(work))
        except asyncio.CancelledError:
            self._count_cancelled()
            raise
        if outcome.fault is not None and outcome.fault.reason in errors.OVERLOAD:
            return self._refused(pool, work, outcome.fault)
        # In the next turn of the loop, so that the caller is answered first.
        asyncio.get_running_loop().call_soon(self._record, pool, work, outcome)
        return outcome

    async def generate(self, work: Work) -> AsyncGenerator[Token | GenerationEnd, None]:
        """Yield pieces of text, then one GenerationEnd. Closing the iterator cancels the work."""
        pool, fault = self._route(work)
        if fault is not None:
            yield GenerationEnd(self._refused(pool, work, fault), "", 0, 0.0)
            return
        items: asyncio.Queue[str | Outcome] = asyncio.Queue()
        stamp = stamp_of(pool)
        entry = pool.submit(work, items.put_nowait, items.put_nowait)
        try:
            while isinstance(item := await items.get(), str):
                yield Token(item, stamp)
        finally:
            if not entry.closed:
                pool.cancel(entry)
                self._count_cancelled()
        generated = Generated(entry.tokens, entry.finish_reason, entry.first_token_ms)
        outcome = replace(self._checked(work, item), generated=generated)
        asyncio.get_running_loop().call_soon(self._record, pool, work, outcome)
        yield GenerationEnd(outcome, entry.finish_reason, entry.tokens, entry.first_token_ms)

    def learnt(self, items: Sequence[FeedbackItem], results: Sequence[FeedbackResult]) -> None:
        """Take over the feedback that telemetry accepted."""
        canary = self.pool_set.canary
        if canary is not None:
            for item, result in zip(items, results, strict=True):
                canary.analysis.learnt(item, result)

    def count_refused(self, fault: Fault) -> None:
        """Count a refused row, read or not; an unread request counts as one row."""
        self._counts["requests"] += 1
        self._counts[COUNTED_AS.get(fault.code, "failed")] += 1

    def _refused(self, pool: Pool, work: Work, fault: Fault) -> Outcome:
        """Counted but not recorded: a refusal must stay cheap when all rows are refused."""
        self.count_refused(fault)
        if fault.code == "FAILED_PRECONDITION":
            self._remember_pin(work)
        stamp = self.facts.stamp if self.facts else ""
        outcome = Outcome(work.id, None, fault, Timing(), 0, stamp, NO_REPLICA)
        self.pool_set.heard(pool, work, outcome)
        return outcome

    def _count_cancelled(self) -> None:
        self._counts["requests"] += 1
        self._counts["cancelled"] += 1

    def _checked(self, work: Work, outcome: Outcome) -> Outcome:
        """Check the pinned stamp again: only after the batch ran is it known which stamp
        answered."""
        pinned = work.expected_stamps
        if outcome.answer is not None and pinned and outcome.stamp not in pinned:
            fault = errors.stamp_differs(outcome.stamp)
            return replace(outcome, answer=None, fault=fault)
        return outcome

    def _record(self, pool: Pool, work: Work, outcome: Outcome) -> None:
        self._counts["requests"] += 1
        self._counts["retried"] += outcome.retried
        self._parts.add(work, outcome)
        self.pool_set.heard(pool, work, outcome)
        fault = outcome.fault
        self._counts["answered" if fault is None else COUNTED_AS.get(fault.code, "failed")] += 1
        schema = pool.facts.features if pool.facts else ()
        self._recorder.put(record_of(work, outcome, self._wall(), self._environment(pool)), schema)
        if self.observer is not None:
            self.observer(pool, work, outcome)

    def _environment(self, pool: Pool) -> str:
        facts = pool.facts
        if facts is None:
            return ""
        if facts.stamp not in self._envs:
            pairs = sorted(facts.env.items())
            self._envs[facts.stamp] = " ".join(f"{key}={value}" for key, value in pairs)
        return self._envs[facts.stamp]

    def _remember_pin(self, work: Work) -> None:
        for stamp in sorted(work.expected_stamps):
            count, _ = self._pins.pop((work.client, stamp), (0, 0.0))
            self._pins[work.client, stamp] = (count + 1, self._wall())
        while len(self._pins) > MOST_PINS:
            self._pins.popitem(last=False)

    def snapshot(self) -> EngineSnapshot:
        replicas = self.pool_set.statuses()
        pools = self.pool_set.pools
        quarantined = sum(pool.dispatcher.quarantined for pool in pools)
        state, reason = self._judge(replicas)
        return EngineSnapshot(
            state=state,
            reason=reason,
            started=self._started,
            facts=self.facts,
            warm_replicas=sum(replica.state == "ready" for replica in replicas),
            wanted_replicas=self._config.warm_pool,
            replicas=replicas,
            queued=sum(pool.waiting for pool in pools),
            queue_limit=self._config.queue_rows,
            in_flight=sum(pool.in_flight for pool in pools),
            counters=Counters(**self._counts, quarantined=quarantined),
            pins=tuple((*key, *value) for key, value in self._pins.items()),
            reasons=self.pool_set.reasons(),
            parts=self._parts.figures(),
            queue_seconds=self._pool.dispatcher.expected_wait_s(),
        )

    async def verify(self) -> None:
        """Return when every serving replica has compared all its bytes with what it loaded, in a
        comparison that began after this call. Callers that arrive during one comparison share the
        next."""
        if self._next_verify is None:
            self._next_verify = asyncio.create_task(self._verify_after(self._verifying))
        await asyncio.shield(self._next_verify)

    async def _verify_after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait((running,))
        self._verifying, self._next_verify = self._next_verify, None
        for pool in self.pool_set.pools:
            await pool.verify()

    async def changed(self, seen: str) -> str:
        """Return the state as soon as it differs from `seen`; for health and status watchers."""
        self._note_state()  # a new watch must not start with a state that is STATE_S old
        while self._state == seen:
            await self._state_changed.wait()
        return self._state

    async def _watch(self) -> None:
        while True:
            self._note_state()
            await asyncio.sleep(STATE_S)

    def _note_state(self) -> None:
        state, _ = self._judge(self.pool_set.standings())
        if state != self._state:
            self._state = state
            changed, self._state_changed = self._state_changed, asyncio.Event()
            changed.set()

    def _judge(self, replicas: Sequence[Standing]) -> tuple[str, str]:
        if self._draining:
            return "DRAINING", "finishing what was accepted"
        if self._leaving:
            return "DRAINING", "leaving: calls are still served until clients have noticed"
        self._out = self._withheld(self.facts.stamp if self.facts is not None else "")
        if self._out and self.serving:
            return "NOT_READY", self._out
        nearly_full = self._config.queue_nearly_full * self._config.queue_rows
        queue_full = self._pool.waiting >= nearly_full
        return state_of(replicas, self._config.warm_pool, queue_full)

    def leave(self) -> bool:
        """Report NOT_SERVING and continue to serve, as balancers need a while to notice. False if
        it already drains."""
        self._leaving = True
        self._note_state()
        return not self._draining

    async def drain(self, grace_s: float) -> None:
        """Refuse new work and return when the accepted work is done, or after `grace_s`; then the
        rest ends with UNAVAILABLE."""
        self._draining = True
        self.pool_set.end()
        self._note_state()
        left = errors.draining()
        await asyncio.gather(*(pool.finish(grace_s, left) for pool in self.pool_set.pools))

    async def stop(self) -> None:
        """End the replicas. Waiting rows end with UNAVAILABLE."""
        self._draining = True
        self._note_state()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.pool_set.stop()
