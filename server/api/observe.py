"""trefoil.v1.Observe: what the console and `server status` watch, search and acknowledge.

A watcher is only a cursor: each turn it gets the state of the server and what has changed since.
Telemetry keeps the latest row of every key. So a watcher that reads slowly gets fewer and newer
rows, and costs the server neither memory nor time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from proto import observe_pb2 as pb
from server.api.observe_messages import event_of, message_of_row, prediction_message
from server.api.observe_requests import (
    MOST_IDS,
    acknowledgement_of,
    actor_of,
    annotation_of,
    kinds_of,
    limit_of,
    measure_of,
    silence_of,
    span_of,
)
from server.api.snapshot_messages import Snapshots
from server.engine import Engine
from server.ops.loop_turns import LoopTurns
from server.request.actor import ACTOR, MAY_READ_PAYLOADS, ROLE_MAY_NOT
from server.request.caller import caller_of
from server.request.lazy_parse import message_of
from server.request.status import Refused, bad_input
from server.request.worker_threads import WorkerThreads
from server.telemetry.change_feed import FeedBatch
from server.telemetry.rows import PredictionRow, Row
from server.telemetry.store.worst_slices import SliceSearch
from server.telemetry_port import TelemetryPort

DEFAULT_INTERVAL_S = 1.0
# A snapshot is the largest message (it names every part of the stamp) and rarely changes. A watcher
# that sets no interval gets it again when something important has changed, or after this time.
STEADY_S = 4.0  # the console calls a replica slow after two, within 10 s
SHORTEST_INTERVAL_S = 0.1  # so that a watcher cannot keep the server busy with reports
MOST_EVENTS_PER_S = 40  # for all watchers: with their number, their shortest interval grows
SHARED_S = 0.05  # one snapshot serves all watchers that ask within this time
LONGEST_INTERVAL_S = 60.0
CHUNK = 200  # past rows read at a time
PAUSE_S = 0.02  # after each chunk, so that about half of the loop's time is left for predictions
SAMPLES, MOST_SAMPLES = 100, 1000  # default and limit
SLICES, MOST_SLICES = 10, 100
# A gRPC client accepts 4 MiB in one message by default.
MOST_PAYLOAD_BYTES = 3 << 20


@dataclass(slots=True)
class Watchers:
    """What watchers share: the latest snapshot, and their turns on the event loop."""

    snapshots: Snapshots
    clock: Callable[[], float] = time.monotonic
    watching: int = 0
    taken: int = 0
    rows: LoopTurns = field(default_factory=LoopTurns)  # of everything that is true now, to each
    _latest: pb.ServerSnapshot | None = None
    _latest_of: tuple[str, float] = ("", 0.0)

    def snapshot(self, state: str) -> pb.ServerSnapshot:
        """The snapshot; it is at most SHARED_S old, and not older than the change to `state`."""
        seen, at = self._latest_of
        now = self.clock()
        if self._latest is None or state != seen or now >= at + SHARED_S:
            self._latest, self._latest_of = self.snapshots.take(), (state, now)
            self.taken += 1
        return self._latest

    def interval_s(self, asked_s: float) -> float:
        shortest_s = max(SHORTEST_INTERVAL_S, self.watching / MOST_EVENTS_PER_S)
        return min(max(asked_s, shortest_s), LONGEST_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Observe:
    """`wall` is unix seconds. A few threads read; one thread searches, as a search computes."""

    engine: Engine
    snapshots: Snapshots
    telemetry: TelemetryPort
    wall: Callable[[], float] = time.time
    watchers: Watchers = field(init=False)
    _reading: WorkerThreads = field(default_factory=lambda: WorkerThreads("observe", 3, 60))
    _searching: WorkerThreads = field(default_factory=lambda: WorkerThreads("slices", 1, 8))

    def __post_init__(self) -> None:
        object.__setattr__(self, "watchers", Watchers(self.snapshots))

    # ---- watching ----------------------------------------------------------------------------

    async def Watch(self, data: bytes, _context: Any) -> AsyncIterator[pb.WatchEvent]:
        self.watchers.watching += 1
        try:
            async with aclosing(self._watch(data)) as events:
                async for event in events:
                    yield event
        finally:
            self.watchers.watching -= 1

    async def _watch(self, data: bytes) -> AsyncGenerator[pb.WatchEvent, None]:
        request = message_of(pb.WatchRequest, data)
        # Not positive, or NaN: the default.
        asked_s = request.interval_s if request.interval_s > 0 else DEFAULT_INTERVAL_S
        state = await self.engine.changed("")  # the current state
        cursor = 0 if request.once else await self._place(request)
        sent, sent_at = None, 0.0
        while True:
            interval_s = self.watchers.interval_s(asked_s)
            steady_s = interval_s if request.interval_s > 0 else STEADY_S
            snapshot, now = self.watchers.snapshot(state), time.monotonic()
            if news(snapshot) != sent or now >= sent_at + steady_s:
                sent, sent_at = news(snapshot), now
                yield self._event(cursor, snapshot=snapshot)
            if request.once:
                return
            for change in (await self._since(cursor)).changes:
                await self.watchers.rows.next()
                cursor = change.cursor
                yield event_of(change.row, self._event(cursor))
            state = await self._changed(state, interval_s)

    async def _since(self, cursor: int) -> FeedBatch:
        """The changes since a cursor. From cursor 0 these are many thousand rows, read on a worker
        thread; later only a few."""
        if cursor:
            return self.telemetry.changes(cursor)
        return await self._reading.run(lambda: self.telemetry.changes(0))

    async def _place(self, request: pb.WatchRequest) -> int:
        """The cursor to continue from. It is 0, everything that is true now, when the cursor is
        unknown here or rows after it are gone."""
        if request.instance != self.snapshots.identity.instance:
            return 0
        cursor: int = request.after_cursor
        found = await self._reading.run(lambda: self.telemetry.changes(cursor))
        return cursor if found.complete and cursor <= found.cursor else 0

    async def _changed(self, seen: str, longest_s: float) -> str:
        """The engine's state, once it differs from `seen` or `longest_s` have passed."""
        try:
            async with asyncio.timeout(longest_s):
                return await self.engine.changed(seen)
        except TimeoutError:
            return seen

    def _event(self, cursor: int, **content: Any) -> pb.WatchEvent:
        return pb.WatchEvent(
            cursor=cursor,
            server_unix_ns=int(self.wall() * 1e9),
            instance=self.snapshots.identity.instance,
            **content,
        )

    async def Verify(self, data: bytes, _context: Any) -> pb.WatchEvent:
        message_of(pb.VerifyRequest, data)
        await self.engine.verify()
        return self._event(0, snapshot=self.snapshots.take())

    # ---- the past ----------------------------------------------------------------------------

    async def History(self, data: bytes, _context: Any) -> AsyncIterator[pb.WatchEvent]:
        request = message_of(pb.HistoryRequest, data)
        rows = self.telemetry.history(span_of(request, self.wall()), kinds_of(request.kinds))

        def chunk() -> list[Row]:
            return list(islice(rows, CHUNK))

        while found := await self._reading.run(chunk):
            for row in found:
                await self.watchers.rows.next()
                yield event_of(row, self._event(0))
            await asyncio.sleep(PAUSE_S)

    async def Samples(self, data: bytes, _context: Any) -> pb.SamplesResponse:
        request = message_of(pb.SamplesRequest, data)
        ids = list(dict.fromkeys(request.prediction_ids))
        if ids and request.filter:
            raise Refused(bad_input("filter", "BOTH_GIVEN", "ask by ids or by filter, not by both"))
        if len(ids) > MOST_IDS:
            text = f"{len(ids)} ids; the limit is {MOST_IDS}"
            raise Refused(bad_input("prediction_ids", "TOO_MANY_IDS", text))
        span = span_of(request, self.wall())
        limit = limit_of(request.limit, SAMPLES, MOST_SAMPLES)
        # Read from this call's context: the query runs in another thread.
        allowed = MAY_READ_PAYLOADS.get()

        def read() -> pb.SamplesResponse:
            if ids:
                rows = self.telemetry.by_id(ids, False)
            else:
                rows = self.telemetry.samples(request.filter, span, limit, False)
            if request.with_payload and not allowed:
                return _without_payloads(rows)
            return self._samples(rows, request.with_payload)

        return await self._reading.run(read, "filter")

    def _samples(self, rows: Sequence[PredictionRow], with_payload: bool) -> pb.SamplesResponse:
        """Payloads are read one by one until the message is full; the first one always fits."""
        response, size = pb.SamplesResponse(), 0
        for row in rows:
            sample = response.samples.add(row=prediction_message(row))
            if with_payload and row.payload_kept and size < MOST_PAYLOAD_BYTES:
                (kept,) = self.telemetry.by_id([row.record.prediction_id], True) or (row,)
                if not size or size + len(kept.example) <= MOST_PAYLOAD_BYTES:
                    sample.example = kept.example
                sample.no_example = kept.locked
                size += len(kept.example)
        return response

    async def Slices(self, data: bytes, _context: Any) -> pb.SlicesResponse:
        request = message_of(pb.SlicesRequest, data)
        wanted = SliceSearch(
            span_of(request, self.wall()),
            measure_of(request.measure),
            limit_of(request.limit, SLICES, MOST_SLICES),
        )
        began = time.perf_counter()
        found = await self._searching.run(lambda: self.telemetry.worst_slices(wanted))
        return pb.SlicesResponse(
            slices=[message_of_row(row) for row in found.slices],
            rows_searched=found.rows,
            seconds=time.perf_counter() - began,
        )

    # ---- actions of people -------------------------------------------------------------------

    async def Acknowledge(self, data: bytes, context: Any) -> pb.AlertAction:
        request = message_of(pb.AcknowledgeRequest, data)
        actor = actor_of(ACTOR.get(), request.actor, caller_of(context).client)
        asked = acknowledgement_of(request, actor)
        row = await self._reading.run(lambda: self.telemetry.acknowledge(*asked), "alert_id")
        return pb.AlertAction(alert=message_of_row(row))

    async def Silence(self, data: bytes, context: Any) -> pb.AlertAction:
        request = message_of(pb.SilenceRequest, data)
        if request.end_id:
            ended = await self._reading.run(
                lambda: self.telemetry.end_silence(request.end_id), "end_id"
            )
            return pb.AlertAction(silence=message_of_row(ended))
        actor = actor_of(ACTOR.get(), request.actor, caller_of(context).client)
        asked = silence_of(request, actor, self.wall())
        row = await self._reading.run(lambda: self.telemetry.silence(*asked), "matcher")
        return pb.AlertAction(silence=message_of_row(row))

    async def Annotate(self, data: bytes, context: Any) -> pb.AnnotationRow:
        request = message_of(pb.AnnotateRequest, data)
        actor = actor_of(ACTOR.get(), request.actor, caller_of(context).client)
        asked = annotation_of(request, actor, self.wall())
        row: pb.AnnotationRow = message_of_row(
            await self._reading.run(lambda: self.telemetry.annotate(asked), "id")
        )
        return row


def news(snapshot: pb.ServerSnapshot) -> tuple[object, ...]:
    """The part of a snapshot whose changes a watcher gets at once."""
    return (
        snapshot.state,
        snapshot.reason,
        snapshot.stamp,
        snapshot.telemetry_state,
        len(snapshot.pins),
        *(
            (replica.index, replica.state, replica.stamp, replica.restarts)
            for replica in snapshot.replicas
        ),
        *(len(replica.self_check.changed) for replica in snapshot.replicas),
    )


def _without_payloads(rows: Sequence[PredictionRow]) -> pb.SamplesResponse:
    response = pb.SamplesResponse()
    for row in rows:
        sample = response.samples.add(row=prediction_message(row))
        sample.no_example = ROLE_MAY_NOT if row.payload_kept else ""
    return response
