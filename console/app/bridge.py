"""The only place where threads meet Qt signals: the feed, the cache's writer and its readers on one
side, the UI thread on the other. Nothing here waits."""

from __future__ import annotations

import getpass
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, QThreadPool, Signal
from PySide6.QtGui import QImage

from console.app.garbage import GarbageTimer
from console.cache.board_thread import BoardThread
from console.cache.query_thread import QueryThread
from console.cache.writer import CacheWriter
from console.state import action_kinds, next_steps
from console.state.access import PLAIN, ConnectionAccess
from console.state.dashboard import Board, View
from console.state.domain import Action, Link
from console.state.query_types import KeptPayload, Query, Searched, SearchServers

if TYPE_CHECKING:
    from console.feed.hub import Hub

log = logging.getLogger(__name__)


class Bridge(QObject):
    """Owns every thread of the console. With `addresses` None the console is offline and contacts
    no server."""

    boardReady = Signal(object)  # the newest Board; emitted in the UI thread
    answered = Signal(int, object)  # number of the question, its answer
    layoutKnown = Signal(str)  # the saved layout; "" on the first start
    decoded = Signal(object, object)  # KeptPayload, tuple[PayloadPart, ...]
    acted = Signal(object, str, str)  # Action, "done" or "refused", the outcome as a sentence
    # Server, (stamp, name, roles) of each bundle, the error if any.
    bundlesKnown = Signal(str, object, str)
    searched = Signal(int, object)  # number of the search, Searched
    runbookRead = Signal(str, str)  # kind, the page as Markdown
    written = Signal(str, str)  # path of the file, the error if any
    _waiting = Signal()
    _opened = Signal(object, str)

    def __init__(
        self,
        path: Path,
        addresses: Sequence[str] | None,
        access: ConnectionAccess = PLAIN,
        limit_bytes: int = 2 << 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._addresses = addresses
        self.access = access
        self._clock = clock
        self._began_s = clock()
        self._hub: Hub | None = None
        self._lock = threading.Lock()
        self._newest: Board | None = None
        self._asked = 0
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(2)
        self._sent: dict[int, float] = {}
        self._writer = CacheWriter(path, self._written, limit_bytes, clock)
        self._boards = BoardThread(
            path,
            self._links,
            self._publish,
            lambda known, layout: self._opened.emit(dict(known), layout),
            self._health,
            clock,
        )
        self._queries = QueryThread(path, self._payload, self._answer)
        queued = Qt.ConnectionType.QueuedConnection
        self._waiting.connect(self._deliver, queued)
        self._opened.connect(self._go_online, queued)
        self._garbage = GarbageTimer(self)
        self.boards = 0
        self._closed = False

    def start(self) -> None:
        """Start the cache first: the first picture is drawn from it."""
        self._garbage.start()
        self._boards.start()

    def show_view(self, view: View) -> None:
        self._boards.set_view(view)

    def ask(self, question: Query) -> int:
        """Read something from the cache; `answered` delivers the answer with the returned
        number."""
        self._asked += 1
        self._queries.ask(self._asked, question)
        return self._asked

    def search(self, wanted: SearchServers) -> int:
        """Search on the servers; `searched` is emitted with the returned number once the cache
        holds the rows they sent."""
        self._asked += 1
        number, hub = self._asked, self._hub
        if hub is None:
            self.searched.emit(number, Searched(trouble="no server is contacted"))
            return number

        def kept(answer: Searched) -> None:
            def report(_: sqlite3.Connection) -> frozenset[str]:
                self.searched.emit(number, answer)
                return frozenset()

            self._writer.do(report)

        hub.search(wanted, kept)
        return number

    def decode(self, payload: KeptPayload) -> None:
        """Decode pictures and sounds outside the UI thread; `decoded` delivers them."""

        def work() -> None:
            from console.app.media import parts_of

            parts = parts_of(payload.body) if payload.body is not None else ()
            self.decoded.emit(payload, parts)

        self._pool.start(work)

    def write_file(self, path: Path, content: bytes | QImage) -> None:
        """Write a file; `written` reports the result."""

        def work() -> None:
            trouble = ""
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                elif not content.save(str(path)):
                    trouble = "the picture could not be written"
            except OSError as error:
                trouble = str(error)
            self.written.emit(str(path), trouble)

        self._pool.start(work)

    def read_runbook(self, kind: str) -> None:
        """Read the built-in page about a kind of problem; `runbookRead` delivers it."""
        self._pool.start(lambda: self.runbookRead.emit(kind, next_steps.page(kind)))

    def retry_now(self) -> None:
        if self._hub is not None:
            self._hub.retry_now()

    def act(
        self, server: str, kind: str, target: str, note: str, until_s: float = 0, undo: bool = False
    ) -> None:
        """Store the action in the cache. It is sent from there, now or when the server is back."""
        self.add(
            Action(
                id=0,
                server=server,
                kind=kind,
                target=target,
                actor=_user(),
                note=note,
                until_unix_ms=int(until_s * 1000),
                undo=undo,
                at_s=self._clock(),
            )
        )

    def add(self, action: Action) -> None:
        """Like `act`, for an action that is already complete."""
        self._writer.add_action(action)

    def user(self) -> str:
        return _user()

    def ask_bundles(self, server: str, wanted: Sequence[str]) -> None:
        """Ask a server for its bundles with one of these roles; `bundlesKnown` delivers them."""
        hub = self._hub
        if hub is None:
            self.bundlesKnown.emit(server, [], "offline: no server is contacted")
            return

        def known(found: list[tuple[str, str, str]], why: str) -> None:
            self.bundlesKnown.emit(server, found, why)

        hub.bundles(server, _user(), wanted, known)

    def save(self, key: str, value: str) -> None:
        self._writer.set_meta(key, value)

    def close(self) -> None:
        """Interrupts the streams and joins every thread; call it before the application ends."""
        if self._closed:
            return
        self._closed = True
        if self._hub is not None:
            self._hub.close()
        self._pool.waitForDone(5000)
        self._queries.close()
        self._writer.close()
        self._boards.close()
        self._garbage.stop()

    # Everything from here to `_acted` is called from other threads.
    def _publish(self, board: Board) -> None:
        self._writer.behind_s = max(0.0, -board.ahead_s)
        with self._lock:
            waiting, self._newest = self._newest is not None, board
        if not waiting:
            self._waiting.emit()

    def _written(self, tables: frozenset[str]) -> None:
        self._boards.touched(tables)

    def _links(self) -> Mapping[str, Link] | None:
        if self._addresses is None:
            return None
        if self._hub is None:
            return {address: Link(address) for address in self._addresses}
        return self._hub.links()

    def _health(self) -> tuple[int, str]:
        return self._writer.backlog, self._writer.trouble

    def _answer(self, number: int, answer: object) -> None:
        self.answered.emit(number, answer)

    def _payload(
        self, server: str, identity: str, done: Callable[[bytes | None, str], None]
    ) -> None:
        """Called by the query thread for what the cache does not hold."""
        hub = self._hub
        if hub is None:
            done(None, "offline: this payload is not in the cache")
            return

        def keep(body: bytes | None, why: str) -> None:
            if body is not None:
                self._writer.keep_payload(server, identity, body)
            done(body, why)

        hub.fetch(server, identity, keep)

    def _acted(self, action: Action, state: str, detail: str) -> None:
        if state != "waiting":
            self._writer.end_action(action.id, state, detail)
            self.acted.emit(action, state, detail)

    # From here on everything runs in the UI thread.
    def _deliver(self) -> None:
        with self._lock:
            board, self._newest = self._newest, None
        if board is not None:
            self.boards += 1
            self._send_waiting(board)
            self.boardReady.emit(board)

    def _go_online(self, known: Mapping[str, tuple[str, int, float]], layout: str) -> None:
        self.layoutKnown.emit(layout)
        self._writer.start()
        self._queries.start()
        if self._addresses is None:
            return
        # gRPC takes a moment to import; the first picture must not wait for it.
        threading.Thread(target=self._connect, args=(known,), name="connect", daemon=True).start()

    def _connect(self, known: Mapping[str, tuple[str, int, float]]) -> None:
        from console.feed.hub import Hub
        from console.feed.link import FeedPosition

        hub = Hub(
            self._addresses or (),
            self.access,
            self._writer,
            lambda: self._boards.touched(frozenset()),
            {address: FeedPosition(*cursor) for address, cursor in known.items()},
        )
        hub.start()
        self._hub = hub

    def _send_waiting(self, board: Board) -> None:
        """Send actions that have not reached a server yet: one attempt every few seconds while the
        link to the server is live."""
        if self._hub is None:
            return
        live = {line.address for line in board.servers if line.link.state == "live"}
        now = self._clock()
        for action in board.actions:
            if action.state == "waiting" and action.kind not in action_kinds.KEPT:
                self._send_once(action, live, now)
                continue
            if action.state != "waiting" or action.server not in live:
                continue
            if now - self._sent.get(action.id, 0.0) > 5.0:
                self._sent[action.id] = now
                self._hub.act(action, self._acted)

    def _send_once(self, action: Action, live: set[str], now: float) -> None:
        """Send an action that changes a server when the operator asks for it, or never: it is not
        retried, and the next start of the console does not send it, as an earlier one may have."""
        if action.id in self._sent or self._hub is None:
            return
        away = [server for server in action.server.split() if server not in live]
        earlier = action.at_s < self._began_s
        if away and not earlier and now - action.at_s <= action_kinds.NOW_S:
            return
        self._sent[action.id] = now
        if earlier:
            why = "the console was closed meanwhile: the events show whether it was done"
            self._acted(action, "refused", why)
        elif away:
            self._acted(action, "refused", f"not sent: {', '.join(away)} did not answer")
        else:
            self._hub.act(action, self._acted)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "console"
