"""The I/O thread: one asyncio loop that holds the links to all servers. Other threads use it
through plain calls that return at once; answers arrive through callbacks in this thread."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import grpc
from grpc import aio

from console.feed import action_calls, faults
from console.feed.allowance import Allowance
from console.feed.backoff import Backoff
from console.feed.decode import RowRefused, build, event
from console.feed.link import FeedPosition, ServerLink
from console.state import action_kinds
from console.state.access import ConnectionAccess
from console.state.domain import Action, Link, ReceivedRow
from console.state.query_types import Searched, SearchServers
from console.state.sanitize import sanitized
from proto import observe_pb2, observe_pb2_grpc
from server.telemetry.rows import AlertRow, AnnotationRow, SilenceRow

log = logging.getLogger(__name__)
MOST_BACKLOG = 20_000  # rows of 1 KiB or less waiting for the disk before the feed stops reading
CALL_S = 10.0
MOST_FOUND = 1000  # rows of a search from each server: as many as a server sends


class RowSink(Protocol):
    """Where rows go: the cache's writer, or a list in a test."""

    @property
    def backlog(self) -> int: ...

    def put(self, events: Sequence[ReceivedRow]) -> None: ...

    def set_offset(self, server: str, offset_ms: float) -> None: ...


@dataclass(eq=False)
class Hub:
    """`changed` is called from this thread whenever a link changes."""

    addresses: Sequence[str]
    access: ConnectionAccess
    sink: RowSink
    changed: Callable[[], None]
    known: Mapping[str, FeedPosition] = field(default_factory=dict)
    allowance: Callable[[], Allowance] = Allowance

    def __post_init__(self) -> None:
        self._links: dict[str, ServerLink] = {}
        self._states: dict[str, Link] = {}
        self._offsets: dict[str, float] = {}  # in ms, as last given to the sink
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._calls: set[asyncio.Future[None]] = set()
        self._thread = threading.Thread(target=self._run, name="console feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def links(self) -> dict[str, Link]:
        """The state of every link now, by address."""
        return dict(self._states)

    def retry_now(self) -> None:
        for link in tuple(self._links.values()):
            self._call(link.retry_now)

    def close(self, timeout_s: float = 5.0) -> None:
        """End every stream and join the thread."""
        if not self._thread.is_alive():
            return
        self._started.wait(timeout_s)
        stop = self._stop
        if stop is not None:
            self._call(stop.set)
        self._thread.join(timeout_s)

    def act(self, action: Action, done: Callable[[Action, str, str], None]) -> None:
        """Send one action; `done(action, state, detail)` gets the state waiting, done or
        refused."""
        self._call(lambda: self._spawn(self._act(action, done)))

    def fetch(
        self, server: str, prediction_id: str, done: Callable[[bytes | None, str], None]
    ) -> None:
        """Ask for a kept payload; `done(serialized Example or None, error)`."""
        self._call(lambda: self._spawn(self._fetch(server, prediction_id, done)))

    def search(self, wanted: SearchServers, done: Callable[[Searched], None]) -> None:
        """Ask the servers for past rows; the sink gets what they find before `done` is called."""
        self._call(lambda: self._spawn(self._search(wanted, done)))

    def _call(self, work: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        finally:
            self._loop = None

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks = []
        for address in self.addresses:
            link = ServerLink(
                address,
                self.access,
                self._put,
                self._link_changed,
                Backoff(random.uniform),
                self.known.get(address, FeedPosition()),
                allowance=self.allowance(),
            )
            self._links[address] = link
            self._states[address] = link.link
            tasks.append(asyncio.create_task(link.run(), name=f"link {address}"))
        self._started.set()
        self.changed()
        await self._stop.wait()
        for task in (*tasks, *self._calls):
            task.cancel()
        await asyncio.gather(*tasks, *self._calls, return_exceptions=True)

    async def _put(self, events: Sequence[ReceivedRow]) -> None:
        while self.sink.backlog > MOST_BACKLOG:  # noqa: ASYNC110 - the disk raises no event
            await asyncio.sleep(0.05)
        self.sink.put(events)

    def _link_changed(self, link: Link) -> None:
        self._states[link.address] = link
        # Only after the first row: before it, the cache has no line of this server to store the
        # offset in. A simulated clock has no constant offset.
        real = link.heard_s and link.simulated is None
        if real and self._offsets.get(link.address) != link.offset_ms:
            self._offsets[link.address] = link.offset_ms
            self.sink.set_offset(link.address, link.offset_ms)
        self.changed()

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _stub(self, server: str) -> observe_pb2_grpc.ObserveStub | None:
        link = self._links.get(server)
        return link.stub if link is not None else None

    def bundles(
        self,
        server: str,
        actor: str,
        wanted: Sequence[str],
        done: Callable[[list[tuple[str, str, str]], str], None],
    ) -> None:
        """Ask a server for its bundles with one of the `wanted` roles; `done((stamp, name, roles)
        of each, error)`."""

        async def ask() -> None:
            try:
                done(await action_calls.bundles(server, self.access, actor, wanted), "")
            except (action_calls.ActionRefused, OSError) as error:
                done([], sanitized(str(error), 300))

        self._call(lambda: self._spawn(ask()))

    async def _act(self, action: Action, done: Callable[[Action, str, str], None]) -> None:
        if action.kind in action_kinds.KINDS:
            done(action, *await action_calls.perform(action, self.access))
            return
        stub = self._stub(action.server)
        if stub is None:
            done(action, "waiting", "no connection; it will be sent when the server is back")
            return
        metadata = self._links[action.server].metadata()
        try:
            if action.kind == "acknowledge":
                answer = await stub.Acknowledge(
                    observe_pb2.AcknowledgeRequest(
                        alert_id=action.target,
                        actor=action.actor,
                        note=action.note,
                        undo=action.undo,
                    ),
                    timeout=CALL_S,
                    metadata=metadata,
                )
            elif action.kind == "annotate":
                await self._annotate(stub, action)
                done(action, "done", "")
                return
            else:
                answer = await stub.Silence(_silence(action), timeout=CALL_S, metadata=metadata)
        except aio.AioRpcError as error:
            why = faults.phrase(error)
            gone = error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            done(action, "waiting" if gone else "refused", why)
            return
        self._put_answer(action.server, answer)
        done(action, "done", "")

    async def _annotate(self, stub: observe_pb2_grpc.ObserveStub, action: Action) -> None:
        """Send a note with its times on the server's clock, and store the server's answer without
        waiting for the watch stream."""
        link = self._links[action.server]
        identity, *times = action.target.split(action_kinds.LABEL)
        request = observe_pb2.AnnotateRequest(
            id=identity, text=action.note, actor=action.actor, remove=action.undo
        )
        if not action.undo:
            ahead_ms = link.link.shift_s * 1000
            request.at_unix_ms, request.to_unix_ms = (int(int(at) + ahead_ms) for at in times)
        row = await stub.Annotate(request, timeout=CALL_S, metadata=link.metadata())
        note = build(AnnotationRow, row)
        self.sink.put([ReceivedRow(action.server, 0, "", time.time() * 1000, note)])

    def _put_answer(self, server: str, answer: observe_pb2.AlertAction) -> None:
        """Store the alert and the silence from the server's answer, without waiting for the watch
        stream."""
        now_ms = time.time() * 1000
        rows: list[AlertRow | SilenceRow] = []
        if answer.HasField("alert") and answer.alert.id:
            rows.append(build(AlertRow, answer.alert))
        if answer.HasField("silence") and answer.silence.id:
            rows.append(build(SilenceRow, answer.silence))
        self.sink.put([ReceivedRow(server, 0, "", now_ms, row) for row in rows])

    async def _fetch(
        self, server: str, prediction_id: str, done: Callable[[bytes | None, str], None]
    ) -> None:
        request = observe_pb2.SamplesRequest(prediction_ids=[prediction_id], with_payload=True)
        answer, why = await self._samples(server, request)
        for sample in answer.samples if answer is not None else ():
            if sample.example:
                done(sample.example, "")
                return
            why = why or sanitized(sample.no_example, 300)
        done(None, why or "the server no longer keeps this payload")

    async def _search(self, wanted: SearchServers, done: Callable[[Searched], None]) -> None:
        asked = [wanted.server] if wanted.server else list(self._links)
        found = await asyncio.gather(*(self._search_one(server, wanted) for server in asked))
        failed = [(server, why) for server, (_, why) in zip(asked, found, strict=True) if why]
        full = any(count >= MOST_FOUND for count, _ in found)
        done(Searched(len(asked) - len(failed), tuple(failed), full))

    async def _search_one(self, server: str, wanted: SearchServers) -> tuple[int, str]:
        """(rows found, the error if any)."""
        if wanted.prediction_id:
            request = observe_pb2.SamplesRequest(prediction_ids=[wanted.prediction_id])
        else:
            request = observe_pb2.SamplesRequest(filter=wanted.line, limit=MOST_FOUND)
            if wanted.span is not None and server in self._links:
                ahead_s = self._links[server].link.shift_s
                low, high = (max(0, int((at + ahead_s) * 1000)) for at in wanted.span)
                request.from_unix_ms, request.to_unix_ms = low, max(high, low + 1)
        answer, why = await self._samples(server, request)
        rows: list[ReceivedRow] = []
        for sample in answer.samples if answer is not None else ():
            try:
                message = observe_pb2.WatchEvent(prediction=sample.row)
                row = event(message, server, time.time() * 1000)
            except RowRefused as error:
                why = why or str(error)
                continue
            if row is not None:
                rows.append(row)
        self.sink.put(rows)
        return len(rows), why

    async def _samples(
        self, server: str, request: observe_pb2.SamplesRequest
    ) -> tuple[observe_pb2.SamplesResponse | None, str]:
        stub = self._stub(server)
        if stub is None:
            return None, "no connection to this server"
        try:
            metadata = self._links[server].metadata()
            return await stub.Samples(request, timeout=CALL_S, metadata=metadata), ""
        except aio.AioRpcError as error:
            return None, faults.phrase(error)


def _silence(action: Action) -> observe_pb2.SilenceRequest:
    if action.undo:
        return observe_pb2.SilenceRequest(end_id=action.target, actor=action.actor)
    return observe_pb2.SilenceRequest(
        matcher=action.target,
        until_unix_ms=action.until_unix_ms,
        actor=action.actor,
        reason=action.note,
    )
