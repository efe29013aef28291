"""The link to one server: connect, watch, resume. A failure stays within its own link."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
from grpc import aio

from console.feed import address as reach
from console.feed import faults
from console.feed.allowance import BATCH_BYTES, Allowance
from console.feed.backoff import Backoff
from console.feed.clock import ClockOffset
from console.feed.decode import RowRefused, event
from console.state.access import ConnectionAccess
from console.state.domain import Link, ReceivedRow, SimulatedTime
from console.state.sanitize import sanitized
from proto import observe_pb2, observe_pb2_grpc

log = logging.getLogger(__name__)
HANDED_S = 0.1  # rows are handed on at most this much after they arrive
CLOCK_EVERY_S = 15.0
QUIET_S = 30.0  # while no rows wait to be handed on, the watch loop wakes after this long
CALL_S = 10.0
SLICES_EVERY_S = 600.0
MOST_SLICES = 20
CAUGHT_UP_MS = 3000.0
HISTORY_S = 24 * 3600.0  # how far back a console without rows asks
SIMULATED_HISTORY_S = 14 * 86400.0  # the same for simulated time, which passes in minutes


@dataclasses.dataclass(frozen=True, slots=True)
class FeedPosition:
    """What the cache already holds of a server."""

    instance: str = ""
    cursor: int = 0
    heard_ms: float = 0.0


@dataclass(eq=False)
class ServerLink:
    """`sink` takes rows and may wait, which is the back-pressure. `changed` gets every `Link`."""

    address: str
    access: ConnectionAccess
    sink: Callable[[Sequence[ReceivedRow]], Awaitable[None]]
    changed: Callable[[Link], None]
    backoff: Backoff
    known: FeedPosition = FeedPosition()
    clock: Callable[[], float] = time.time
    allowance: Allowance = field(default_factory=Allowance)

    def __post_init__(self) -> None:
        self.link = Link(
            address=self.address,
            since_s=self.clock(),
            plaintext=reach.unprotected(self.address, self.access),
        )
        self._offset = ClockOffset()
        self._now = asyncio.Event()
        self._stub: observe_pb2_grpc.ObserveStub | None = None
        self._hole_ms: float | None = None  # rows since this moment are missing

    async def run(self) -> None:
        """Connect again and again until cancelled."""
        while True:
            began = time.monotonic()
            why = "the server closed the stream"
            try:
                async with reach.open_channel(self.link.address, self.access) as channel:
                    await self._session(channel)
            except aio.AioRpcError as error:
                why = faults.phrase(error)
                why += reach.refused(str(error.details()), self.access)
            except (OSError, ValueError) as error:
                why = sanitized(str(error), 300)
            except Exception:
                # The edge of the feed: a fault in handling one server must not end the other links.
                log.exception("link to %s failed; trying again", self.link.address)
                why = "internal error of the console; see its log"
            self._stub = None
            self.backoff.lived(time.monotonic() - began)
            await self._pause(why)

    def retry_now(self) -> None:
        self.backoff.reset()
        self._now.set()

    @property
    def stub(self) -> observe_pb2_grpc.ObserveStub | None:
        """The stub for single calls (samples, actions); None while not connected."""
        return self._stub

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return reach.metadata(self.access)

    async def _pause(self, why: str) -> None:
        wait_s = self.backoff.wait_s()
        # Two quick attempts count as a short interruption, not a loss: a restart shows no red
        # state.
        state = "reconnecting" if self.backoff.attempts <= 2 else "lost"
        self._change(state=state, detail=why)
        self._now.clear()
        try:
            await asyncio.wait_for(self._now.wait(), wait_s)
        except TimeoutError:
            pass
        if self.link.state != "lost":
            self._change(state="connecting")

    async def _session(self, channel: aio.Channel) -> None:
        stub = observe_pb2_grpc.ObserveStub(channel)  # type: ignore[no-untyped-call]
        first = await self._measure(stub)
        held = self.known if first.instance == self.known.instance else FeedPosition()
        await self._take([first])
        self._stub = stub
        self._change(state="catching up", detail="", instance=sanitized(first.instance, 100))
        if not held.cursor and self._hole_ms is None:
            self._hole_ms = self.known.heard_ms
        watch = asyncio.ensure_future(self._watch(stub, held))
        tasks: set[asyncio.Future[None]] = {
            watch,
            asyncio.ensure_future(self._keep_measuring(stub)),
        }
        tasks.add(asyncio.ensure_future(self._keep_searching(stub)))
        if self._hole_ms is not None:
            tasks.add(asyncio.ensure_future(self._history(stub, self._hole_ms)))
        await _until_done(watch, tasks)

    async def _measure(self, stub: observe_pb2_grpc.ObserveStub) -> observe_pb2.WatchEvent:
        """Request one snapshot and time it: its round trip gives the clock offset."""
        sent = self.clock() * 1000
        request = observe_pb2.WatchRequest(once=True)
        found: observe_pb2.WatchEvent | None = None
        async for message in stub.Watch(request, timeout=CALL_S, metadata=self.metadata()):
            if found is None:
                found = message
                self._offset.add(sent, message.server_unix_ns / 1e6, self.clock() * 1000)
        if found is None:
            raise ValueError("the server sent no snapshot")
        if not found.snapshot.simulated_speed > 0:
            self._change(offset_ms=self._offset.offset_ms, rtt_ms=self._offset.rtt_ms)
        return found

    async def _keep_measuring(self, stub: observe_pb2_grpc.ObserveStub) -> None:
        for attempt in itertools.count():
            # A few soon: the first trip was made while everything else was starting.
            await asyncio.sleep(0.5 if attempt < 4 else CLOCK_EVERY_S)
            await self._take([await self._measure(stub)])

    async def _history(self, stub: observe_pb2_grpc.ObserveStub, hole_ms: float) -> None:
        """Fetch the rows since this server was last heard; a cursor of an earlier server process
        cannot."""
        now_ms = self.clock() * 1000
        from_ms = max(hole_ms - 60_000, now_ms - HISTORY_S * 1000)
        if self.link.simulated is not None:
            # A gap in real time has any length in simulated time, so everything the server plays is
            # fetched.
            now_ms = self._server_ms()
            from_ms = max(0.0, now_ms - SIMULATED_HISTORY_S * 1000)
        request = observe_pb2.HistoryRequest(
            from_unix_ms=int(from_ms), to_unix_ms=int(now_ms) + 3_600_000
        )
        rows: list[observe_pb2.WatchEvent] = []
        size = 0
        try:
            async for message in stub.History(request, metadata=self.metadata()):
                message.cursor = 0  # past rows move no cursor
                rows.append(message)
                size += message.ByteSize()
                if len(rows) >= 500 or size >= BATCH_BYTES:
                    await self._take(rows)
                    rows, size = [], 0
        except aio.AioRpcError as error:
            # An older server has no history; what it streams from now on is still useful.
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        await self._take(rows)
        self._hole_ms = None  # only now: a connection lost half way leaves the gap open

    async def _keep_searching(self, stub: observe_pb2_grpc.ObserveStub) -> None:
        """Search the worst slices from time to time; a server without this call is not an error."""
        while True:
            simulated = self.link.simulated is not None
            now_ms = int(self._server_ms() if simulated else self.clock() * 1000)
            since_ms = now_ms - int(HISTORY_S * 1000)
            request = observe_pb2.SlicesRequest(from_unix_ms=since_ms, limit=MOST_SLICES)
            try:
                found = await stub.Slices(request, timeout=60.0, metadata=self.metadata())
            except aio.AioRpcError as error:
                log.info("%s answers no slices: %s", self.link.address, error.details())
            else:
                rows = [observe_pb2.WatchEvent(slice=row) for row in found.slices[:MOST_SLICES]]
                for row in rows:
                    row.server_unix_ns = int((now_ms + (self._offset.offset_ms or 0.0)) * 1e6)
                    row.slice.at_unix_ms = row.slice.at_unix_ms or now_ms
                await self._take(rows)
            await asyncio.sleep(SLICES_EVERY_S)

    async def _watch(self, stub: observe_pb2_grpc.ObserveStub, held: FeedPosition) -> None:
        request = observe_pb2.WatchRequest(after_cursor=held.cursor, instance=held.instance)
        call = stub.Watch(request, metadata=self.metadata())
        rows: list[observe_pb2.WatchEvent] = []
        size, due = 0, time.monotonic() + HANDED_S
        pending = asyncio.ensure_future(call.read())
        try:
            while True:
                wait_s = max(0.0, due - time.monotonic()) if rows else QUIET_S
                done, _ = await asyncio.wait({pending}, timeout=wait_s)
                if done:
                    message = pending.result()
                    if message is aio.EOF:
                        return
                    rows.append(message)
                    size += message.ByteSize()
                full = len(rows) >= 1000 or size >= BATCH_BYTES
                if rows and (time.monotonic() >= due or full):
                    await self._take(rows)
                    rows, size, due = [], 0, time.monotonic() + HANDED_S
                if done:  # the next read starts only now: a wait above is back-pressure
                    pending = asyncio.ensure_future(call.read())
        finally:
            pending.cancel()
            call.cancel()
            await self._take(rows)

    async def _take(self, messages: Sequence[observe_pb2.WatchEvent]) -> None:
        """Decode the messages, refuse rows that cannot be true, hand the rest on, and remember the
        position."""
        if not messages:
            return
        now_ms = self.clock() * 1000
        sizes = sum(message.ByteSize() for message in messages)
        wait_s = self.allowance.wait_s(len(messages), sizes)
        events: list[ReceivedRow] = []
        refused, why = self.link.refused_rows, self.link.refused_why
        last = messages[-1]
        for message in messages:
            if message.HasField("snapshot"):
                self._note_clock(message, now_ms / 1000)
                # A snapshot may be newer than the rows sent so far: resuming from its cursor would
                # skip them.
                message.cursor = 0
            if message.cursor:
                self.known = FeedPosition(sanitized(message.instance, 100), message.cursor, now_ms)
            if self._hole_ms is not None:
                # The disk must not remember the cursor before the gap is filled: a console that
                # ends now must ask for these rows again.
                message.cursor = 0
            try:
                found = event(message, self.link.address, now_ms)
            except RowRefused as error:
                refused, why = refused + 1, str(error)
                continue
            if found is not None:
                events.append(found)
        await self.sink(events)
        behind_ms = now_ms - (last.server_unix_ns / 1e6 - (self._offset.offset_ms or 0.0))
        if self.link.simulated is not None:
            behind_ms = 0.0  # a simulated clock moves away from this machine's with every row
        state = self.link.state
        if self._stub is not None:
            late = behind_ms > CAUGHT_UP_MS or self._hole_ms is not None
            state = "catching up" if late else "live"
        self._change(
            state=state,
            heard_s=now_ms / 1000,
            refused_rows=refused,
            refused_why=why,
            flood=self.allowance.message(),
        )
        if wait_s:
            await asyncio.sleep(wait_s)

    def _note_clock(self, message: observe_pb2.WatchEvent, now_s: float) -> None:
        speed = message.snapshot.simulated_speed
        if speed > 0:
            shown = SimulatedTime(message.server_unix_ns / 1e9, now_s, speed)
            self._change(simulated=shown, offset_ms=math.nan, rtt_ms=math.nan)
        elif self.link.simulated is not None:  # the server was restarted without simulated time
            self._change(simulated=None)

    def _server_ms(self) -> float:
        """The server's time now, on the clock that dates its rows."""
        shown = self.link.simulated
        now_s = self.clock()
        return (shown.now_s(now_s) if shown is not None else now_s) * 1000

    def _change(self, **changes: object) -> None:
        if changes.get("state", self.link.state) != self.link.state:
            changes["since_s"] = self.clock()
        self.link = dataclasses.replace(self.link, **changes)  # type: ignore[arg-type]
        self.changed(self.link)


async def _until_done(main: asyncio.Future[None], tasks: set[asyncio.Future[None]]) -> None:
    """Wait until `main` ends or any of `tasks` fails; no task outlives this call."""
    try:
        while not main.done():
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
