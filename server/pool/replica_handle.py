"""One replica as the front sees it: a process, the link to it, the rows it holds and its state.

A handle outlives its processes: `live` runs one of them, from start to death.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from server import host
from server.config import ServerConfig
from server.pool.forks import ReplicaProcess
from server.pool.in_flight import InFlight
from server.pool.integrity import Integrity
from server.pool.queue import QueueEntry
from server.pool.readiness import SERVING, Readiness
from server.pool.spawn import Spawn
from server.replica import link
from server.replica.link import FrontLink, LinkBroken
from server.types import Facts, Outcome, ReplicaStatus, SelfCheck

RECENT = 200  # the 95th percentile is of this many rows
HEARTBEATS_MISSED = 3  # missed in a row: the whole process hangs
# Hundredths of a second a hanging process may compute in that time, for a short wake-up.
STILL_TICKS = 1
REAP_S = 5.0  # time from the end of the link to the end of the process, before it is killed
# Fields of Load that a status shows under the same name.
_MEMORY = (
    *("texts_writing", "texts_waiting", "text_bytes", "text_bytes_most"),
    *("device_memory_bytes", "device_memory_total_bytes"),
)


class ReplicaEvents(Protocol):
    """Receives what a handle learns about its replica; the pool implements it."""

    def loaded(self, replica: ReplicaHandle) -> str:
        """A replica sent its hello message. Returns why it must not serve, or ""."""

    def judged(self, replica: ReplicaHandle) -> None:
        """A probe has returned; `replica.readiness` has the result."""

    def freed(self, replica: ReplicaHandle) -> None:
        """The replica may be able to take more rows."""

    def finished(self, replica: ReplicaHandle, entry: QueueEntry, outcome: Outcome) -> None: ...


@dataclass(eq=False)
class ReplicaHandle:
    index: int
    config: ServerConfig
    spawn: Spawn
    events: ReplicaEvents
    clock: Callable[[], float]
    wall: Callable[[], float]

    def __post_init__(self) -> None:
        self.name = str(self.index)
        self.state = "starting"
        self.reason = ""
        self.restarts = 0
        self.last_exit, self.last_exit_at = "", 0.0  # the reason, unix seconds
        self._recent_ms: deque[float] = deque(maxlen=RECENT)
        self.answered = 0
        self._decoder_restarts = self._decoder_deadlines = self._decoder_lines = 0
        self.isolated = False  # kept free for one row with which a replica died
        self._begin_life()

    def _begin_life(self) -> None:
        config = self.config
        self.held = InFlight(config.ahead_bytes)
        self.readiness = Readiness(
            config.probe_interval_s, config.probe_runs, config.slow_after, config.fast_again
        )
        self.integrity = Integrity()
        self.facts: Facts | None = None
        self.fatal: tuple[str, str] | None = None
        self.probing = False
        self.started_at = self.moved_at = self.worked_at = self.heard_at = self.clock()
        self._still_since = (-math.inf, 0)  # time since which its processor ticks have this value
        self.device = ""
        self.device_free: int | None = None  # bytes; None: not reported, or no such memory
        self._pid = 0
        self._load: Any = None  # its last report about its memory and its texts
        self._decoding = (0, 0, 0)  # the counts that this process has reported
        self._private_bytes = self._shared_bytes = 0
        self._load_s = 0.0
        self._loading, self._step = 0.0, ""
        self._probes = 0
        self._killed = ""
        self.blameless = False  # it died of something that a row cannot have caused
        self._oom_kills = host.oom_kills()
        self._process: ReplicaProcess | None = None
        self._spawning: asyncio.Future[ReplicaProcess] | None = None
        self._link: FrontLink | None = None

    @property
    def serving(self) -> bool:
        return self.state in SERVING

    def stalled(self, now: float) -> str:
        """Why it must be killed, or "": it does not finish loading, the whole process hangs, or its
        work makes no progress."""
        if self.state in ("starting", "loading"):
            late = now - self.started_at > self.config.load_timeout_s
            return f"not loaded after {self.config.load_timeout_s:g} s" if late else ""
        silent_s = now - self.heard_at
        if self.facts is not None and silent_s > link.HEARTBEAT_S and self._still(now):
            return f"no sign of life for {silent_s:.1f} s: {HEARTBEATS_MISSED} heartbeats missed"
        busy = bool(self.held) or self.probing
        if busy and now - self.moved_at > self.config.stall_s:
            return f"no progress for {self.config.stall_s:g} s"
        return ""

    def _still(self, now: float) -> bool:
        """Whether a silent process has not computed for the time of the other missed heartbeats. A
        process that computes is busy, or gets too little CPU time: `stall_s` covers that case."""
        ticks = host.processor_ticks(self._pid)
        since, before = self._still_since
        if since < self.heard_at or ticks is None or ticks > before + STILL_TICKS:
            self._still_since = (now, ticks or 0)
            return False
        return now - since > (HEARTBEATS_MISSED - 1) * link.HEARTBEAT_S

    def forgive(self, seconds: float) -> None:
        """Do not count time in which the front received nothing from any replica."""
        self.started_at += seconds
        self.heard_at += seconds
        self.moved_at += seconds

    # ---- messages to the replica -----------------------------------------------------------

    def hold(self, entry: QueueEntry) -> None:
        """Count a row as held; `send` then sends all rows of this turn in one frame."""
        if not self.held:
            self.moved_at = self.clock()
        self.held.add(entry)

    def send(self, entries: Iterable[QueueEntry], now: float) -> None:
        works = [entry.work for entry in entries]
        self._send(link.work_batch(works, now), [work.example for work in works])

    def cancel(self, entry_id: str) -> None:
        self._send(link.cancel((entry_id,)))

    def probe(self, mixes: Iterable[str] = ()) -> None:
        """Request golden answers and speed of these mixes; without any, of all mixes."""
        self.probing = True
        self.moved_at = self.clock()
        self._probes += 1
        self._send(link.probe(self._probes, True, tuple(mixes)))

    async def verify(self, disk: bool) -> None:
        """Return when the replica has compared every byte with what it loaded, or is gone."""
        if self._link is not None and self.facts is not None:
            number, answered = self.integrity.ask()
            self._send(link.verify(number, disk))
            await answered

    def stop(self) -> None:
        self.state = "draining"
        self._send(link.stop())
        if self._spawning is not None:
            self._spawning.cancel()

    def kill(self, reason: str) -> None:
        if self._process is not None and self._process.returncode is None:
            self._killed = self._killed or reason
            self._process.kill()
        elif self._spawning is not None:
            self._killed = self._killed or reason
            self._spawning.cancel()

    def _send(self, message: Any, payloads: Iterable[bytes] = ()) -> None:
        if self._link is not None:
            self._link.send(message, payloads)

    # ---- its life --------------------------------------------------------------------------

    async def live(self) -> str:
        """Run one process from its start to its end; returns the cause of death.

        Its rows are still in `held` then: the caller decides what happens to them.
        """
        self._begin_life()
        self.state, self.reason = "starting", "process started"
        try:
            ours, theirs = link.socket_pair()
        except OSError as error:  # there is no descriptor left
            self.fatal = ("start", str(error))
            return self._cause(0)
        try:
            self._process = await self._spawned(theirs)
            if self._process is None:
                return "ended before it had started"
            self._pid = self._process.pid
            self._link = await FrontLink.over(ours)
            await self._listen(self._link)
        except OSError as error:
            self.fatal = ("start", str(error))
        finally:
            ours.close()
            theirs.close()
            code = await self._reap()
        # A row can crash its process, or make the kernel kill it for lack of memory. A SIGKILL from
        # neither the kernel nor this front came from outside.
        from_outside = code == -signal.SIGKILL and not self._killed
        lost = code == link.EXIT_WEIGHTS_LOST
        self.blameless = lost or (from_outside and host.oom_kills() == self._oom_kills)
        return self._cause(code)

    async def _spawned(self, end: socket.socket) -> ReplicaProcess | None:
        """The process; None if it was stopped or killed before it existed. Raises OSError."""
        self._spawning = asyncio.ensure_future(self.spawn(self.index, end))
        try:
            # Waited for, not awaited, so that its cancellation does not cancel this task.
            await asyncio.wait((self._spawning,))
            return None if self._spawning.cancelled() else self._spawning.result()
        finally:
            self._spawning.cancel()  # without effect once it is done
            self._spawning = None

    async def _listen(self, front: FrontLink) -> None:
        try:
            while (message := await front.receive()) is not None:
                self._receive(message)
        except (LinkBroken, DecodeError) as error:
            self.kill(f"sent an invalid message: {error}")

    async def _reap(self) -> int | None:
        self.integrity.over()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is None:
            return 0
        try:
            return await asyncio.wait_for(self._process.wait(), REAP_S)
        except (TimeoutError, asyncio.CancelledError):
            self.kill("did not end by itself")
            return await self._process.wait()

    def _cause(self, code: int | None) -> str:
        if self.fatal is not None:
            return f"{self.fatal[0]}: {self.fatal[1]}"
        if self._killed:
            return f"killed: {self._killed}"
        if code is None:
            return "ended; its exit code went to the fork server, which had ended before"
        if code == link.EXIT_WEIGHTS_LOST:
            return "the process that held its weights ended"
        while_loading = f" while loading ({self._step})" if self._step and not self.facts else ""
        if code < 0:
            return f"died of {signal.Signals(-code).name}{while_loading}"
        return f"ended with exit code {code}{while_loading}"

    # ---- messages of the replica -----------------------------------------------------------

    def _receive(self, message: Any) -> None:
        self.heard_at = self.clock()
        kind = message.WhichOneof("message")
        if kind is None:
            raise LinkBroken("an empty message")
        getattr(self, f"_on_{kind}")(getattr(message, kind))

    def _on_loading(self, loading: Any) -> None:
        self.moved_at = self.clock()
        self._loading, self._step = loading.fraction, loading.step
        if self.state in ("starting", "loading"):
            self.state, self.reason = "loading", loading.step

    def _on_hello(self, hello: Any) -> None:
        self.facts = link.facts(hello)
        self.device, self._load_s = hello.device, hello.load_s
        refusal = self.events.loaded(self)
        if refusal:
            self.fatal = ("stamp", refusal)
            self.kill(refusal)
            return
        self.state, self.reason = "warming", "golden inputs of every modality mix are run"
        self.probe()

    def _on_room(self, room: Any) -> None:
        self.held.rows_room, self.held.tokens_room = room.rows, room.cost
        self.events.freed(self)

    def _on_begun(self, begun: Any) -> None:
        self.moved_at = self.clock()
        for entry_id in begun.ids:
            self.held.begin(entry_id)
        self.events.freed(self)

    def _on_done(self, done: Any) -> None:
        self._done(done, ())
        self.events.freed(self)

    def _on_done_batch(self, batch: Any) -> None:
        together = tuple(done.id for done in batch.items)
        for done in batch.items:
            self._done(done, together)
        self.events.freed(self)

    def _done(self, done: Any, together: tuple[str, ...]) -> None:
        entry = self._release(done.id)
        if entry is not None:
            total_ms = (self.worked_at - entry.queued_at) * 1e3
            outcome = link.outcome(done, total_ms, self.index, together)
            self.events.finished(self, entry, outcome)

    def _on_token(self, token: Any) -> None:
        self.moved_at = self.clock()
        entry = self.held.get(token.id)
        if entry is not None and token.text and entry.token is not None:
            if not entry.streamed:  # on the clock of total_ms, which does not include a slow caller
                entry.streamed = True
                entry.first_token_ms = (self.moved_at - entry.queued_at) * 1e3
            entry.token(token.text)
        if entry is not None and token.last:
            self._release(token.id)
            entry.finish_reason, entry.tokens = token.finish_reason, token.tokens
            total_ms = (self.worked_at - entry.queued_at) * 1e3
            outcome = link.generated(token, total_ms, self.index)
            self.events.finished(self, entry, outcome)
            self.events.freed(self)

    def _on_probed(self, probed: Any) -> None:
        self.probing = False
        self.moved_at = self.clock()
        wall = self.wall()
        found = [link.evidence(mix, wall) for mix in probed.mixes]
        self.readiness.probed(found, self.moved_at)
        self.events.judged(self)

    def _on_looked(self, looked: Any) -> None:
        self.integrity.heard(looked, self.wall())

    def _on_load(self, load: Any) -> None:
        self._load = load
        restarts, deadlines, lines = self._decoding
        self._decoding = (load.decoder_restarts, load.decoder_deadlines, load.decoder_lines)
        self._decoder_restarts += self._decoding[0] - restarts
        self._decoder_deadlines += self._decoding[1] - deadlines
        self._decoder_lines += self._decoding[2] - lines
        if load.private_bytes:
            self._private_bytes, self._shared_bytes = load.private_bytes, load.shared_bytes
        if load.device_memory_total_bytes:
            self.device_free = load.device_memory_total_bytes - load.device_memory_bytes

    def _on_fatal(self, fatal: Any) -> None:
        self.fatal = (fatal.code, fatal.message)

    def _release(self, entry_id: str) -> QueueEntry | None:
        self.moved_at = self.worked_at = self.clock()
        entry = self.held.release(entry_id)
        self.answered += entry is not None
        if entry is not None:
            self._recent_ms.append((self.worked_at - entry.queued_at) * 1e3)
        return entry

    @property
    def self_check(self) -> SelfCheck:
        return self.integrity.check

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            index=self.index,
            state=self.state,
            reason=self.reason,
            device=self.device,
            stamp=self.facts.stamp if self.facts else "",
            pid=self._pid,
            restarts=self.restarts,
            in_flight=len(self.held),
            answered=self.answered,
            rss_bytes=self._load.rss_bytes if self._load else 0,
            evidence=self.readiness.evidence,
            load_s=self._load_s,
            loading_fraction=self._loading,
            self_check=self.self_check,
            p95_ms=self._p95_ms(),
            last_progress=self.wall() - (self.clock() - self.moved_at),
            last_exit=self.last_exit,
            last_exit_at=self.last_exit_at,
            decoder_restarts=self._decoder_restarts,
            decoder_deadlines=self._decoder_deadlines,
            private_bytes=self._private_bytes,
            shared_bytes=self._shared_bytes,
            **self._texts(),
            decoder_lines=self._decoder_lines,
        )

    def _texts(self) -> dict[str, int]:
        return {name: getattr(self._load, name) for name in _MEMORY} if self._load else {}

    def _p95_ms(self) -> float:
        recent = sorted(self._recent_ms)
        return recent[math.ceil(0.95 * len(recent)) - 1] if recent else 0.0
