"""The queue of a replica's threads: rows to decode, rows to compute, probes.

Decoders take rows from it and return them decoded; the computing thread asks what to do next. Heavy
rows never take the last decoder, so a row after them need not wait until they are decoded.

On shared cores the computing thread decodes direct rows too while it has nothing to compute, and
the forward waits while all decoders are busy, up to a full batch and for PATIENCE_S: it could not
run faster, and the rows being decoded join the same forward. On separate cores the forward takes
the rows that are ready.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proto import replica_pb2
from server.replica.model import Lane, Ready

# What the computing thread does next: run a probe, decode a row, compute a batch, or only generate
# texts.
Next = tuple[Literal["probe", "decode", "compute", "write"], Any]
PATIENCE_S = 0.25  # the longest that a decoded row waits for rows being decoded


@dataclass(slots=True, eq=False)
class WorkRow:
    work: replica_pb2.Work
    example: bytes  # a serialized trefoil.v1.Example
    expires_at: float  # on this process's clock; infinity = never
    lane: Lane = "light"
    ready: Ready | None = None
    ready_at: float = 0.0
    cancelled: bool = False


def begun(rows: Sequence[WorkRow]) -> replica_pb2.FromReplica:
    ids = [row.work.id for row in rows]
    return replica_pb2.FromReplica(begun=replica_pb2.Begun(ids=ids))


@dataclass(frozen=True, slots=True)
class Crew:
    """`shared_cores`: decoding and computing run on the same cores."""

    decoders: int
    shared_cores: bool


class WorkQueue:
    """# Invariant: a row is undecoded, held by one thread, or ready; `_decoding` counts the rows
    held by decoders, `_heavy` the heavy ones among them."""

    def __init__(self, crew: Crew, rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._crew = crew
        self._rows = rows
        self._clock = clock
        self._undecoded: deque[WorkRow] = deque()
        self._ready: deque[WorkRow] = deque()
        self._probes: deque[replica_pb2.Probe] = deque()
        self._decoding = self._heavy = 0
        self._computer_waits = False
        lock = threading.Lock()
        self._for_decoders = threading.Condition(lock)
        self._for_computer = threading.Condition(lock)

    def put(self, rows: Sequence[WorkRow]) -> None:
        with self._for_decoders:
            self._undecoded.extend(rows)
            # One thread for one row: waking a second one costs as much as decoding a short text.
            helps = (
                self._crew.shared_cores
                and self._computer_waits
                and any(row.lane == "direct" for row in rows)
            )
            self._for_decoders.notify(len(rows) - helps)
            if helps:
                self._computer_waits = False
                self._for_computer.notify()

    def put_probe(self, probe: replica_pb2.Probe) -> None:
        with self._for_computer:
            self._probes.append(probe)
            self._for_computer.notify()

    def take_undecoded(self) -> WorkRow:
        """The next row for a decoder; waits for one."""
        with self._for_decoders:
            while (row := self._takeable()) is None:
                self._for_decoders.wait()
            self._undecoded.remove(row)
            self._decoding += 1
            self._heavy += row.lane == "heavy"
            return row

    def _takeable(self) -> WorkRow | None:
        """The first row that a free decoder may take."""
        if self._heavy < max(1, self._crew.decoders - 1):
            return self._undecoded[0] if self._undecoded else None
        return next((row for row in self._undecoded if row.lane != "heavy"), None)

    def decoded(self, row: WorkRow) -> None:
        """A decoder returns its row, to be computed unless it has failed."""
        with self._for_computer:
            self._decoding -= 1
            if row.lane == "heavy":
                self._heavy -= 1
                self._for_decoders.notify()  # another row may be taken now
            if row.ready is not None:
                self._append(row)
            self._for_computer.notify()

    def keep(self, row: WorkRow) -> None:
        """Add a row that the computing thread has decoded itself."""
        with self._for_computer:
            self._append(row)

    def _append(self, row: WorkRow) -> None:
        row.ready_at = self._clock()
        self._ready.append(row)

    def next(self, writing: bool) -> Next:
        """The next action of the computing thread; waits unless texts are being generated."""
        with self._for_computer:
            while True:
                if self._probes:
                    return "probe", self._probes.popleft()
                patience_s = self._stands_back_s() if self._ready else None
                if patience_s is not None and patience_s <= 0.0:
                    return "compute", None
                direct = self._direct()
                if direct is not None:
                    self._undecoded.remove(direct)
                    return "decode", direct
                if writing:
                    return "write", None
                self._computer_waits = True
                self._for_computer.wait(patience_s)
                self._computer_waits = False

    def _direct(self) -> WorkRow | None:
        """The first row that the computing thread may decode itself."""
        if not self._crew.shared_cores:
            return None
        return next((row for row in self._undecoded if row.lane == "direct"), None)

    def _stands_back_s(self) -> float:
        """Seconds for which the ready rows wait for those being decoded."""
        if not self._crew.shared_cores or len(self._ready) >= self._rows:
            return 0.0
        if self._takeable() is None and self._decoding < self._crew.decoders:
            return 0.0
        return self._ready[0].ready_at + PATIENCE_S - self._clock()

    def take_ready(self) -> list[WorkRow]:
        with self._for_computer:
            rows, self._ready = list(self._ready), deque()
            return rows

    def put_back(self, rows: Iterable[WorkRow]) -> None:
        """Put back decoded rows that did not fit into this batch; they come first in the next
        one."""
        with self._for_computer:
            self._ready.extendleft(reversed(list(rows)))
