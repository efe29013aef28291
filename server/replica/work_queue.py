"""What lies before a replica's threads: rows to decode, rows to compute, probes.

Decoders take rows from it and bring them back decoded; the computing thread asks what to do next.
On shared cores the computing thread decodes too while it has nothing to compute, and the forward
waits while all decoders are busy, up to a full batch: it could not run faster, and the rows being
decoded join the same forward. On separate cores the forward takes what is ready.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proto import replica_pb2
from server.replica.model import Ready

# What the computing thread does next: run a probe, decode a row, compute a batch, only write texts.
Next = tuple[Literal["probe", "decode", "compute", "write"], Any]


@dataclass(slots=True, eq=False)
class WorkRow:
    work: replica_pb2.Work
    example: bytes  # a serialized trefoil.v1.Example
    expires_at: float  # on this process's clock; infinity = never
    ready: Ready | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Crew:
    """`shared_cores`: decoding takes its time from the same cores as computing."""

    decoders: int
    shared_cores: bool


class WorkQueue:
    """# Invariant: a row is undecoded, in the hands of one thread, or ready; `_decoding` counts
    those in the hands of decoders."""

    def __init__(self, crew: Crew, rows: int) -> None:
        self._crew = crew
        self._rows = rows
        self._undecoded: deque[WorkRow] = deque()
        self._ready: deque[WorkRow] = deque()
        self._probes: deque[replica_pb2.Probe] = deque()
        self._decoding = 0
        self._computer_waits = False
        lock = threading.Lock()
        self._for_decoders = threading.Condition(lock)
        self._for_computer = threading.Condition(lock)

    def put(self, rows: Sequence[WorkRow]) -> None:
        with self._for_decoders:
            self._undecoded.extend(rows)
            # One thread for one row: waking a second costs as much as decoding a short text.
            helps = self._crew.shared_cores and self._computer_waits
            self._for_decoders.notify(len(rows) - helps)
            if helps:
                self._computer_waits = False
                self._for_computer.notify()

    def put_probe(self, probe: replica_pb2.Probe) -> None:
        with self._for_computer:
            self._probes.append(probe)
            self._for_computer.notify()

    def take_undecoded(self) -> WorkRow:
        """For decoders; waits."""
        with self._for_decoders:
            while not self._undecoded:
                self._for_decoders.wait()
            self._decoding += 1
            return self._undecoded.popleft()

    def decoded(self, row: WorkRow) -> None:
        """A decoder brings its row back, to be computed unless it has failed."""
        with self._for_computer:
            self._decoding -= 1
            if row.ready is not None:
                self._ready.append(row)
            self._for_computer.notify()

    def keep(self, row: WorkRow) -> None:
        """The computing thread has decoded a row itself."""
        with self._for_computer:
            self._ready.append(row)

    def next(self, writing: bool) -> Next:
        """For the computing thread; waits unless texts are being written."""
        with self._for_computer:
            while True:
                if self._probes:
                    return "probe", self._probes.popleft()
                if self._ready and not self._stands_back():
                    return "compute", None
                if self._crew.shared_cores and self._undecoded:
                    return "decode", self._undecoded.popleft()
                if writing:
                    return "write", None
                self._computer_waits = True
                self._for_computer.wait()
                self._computer_waits = False

    def _stands_back(self) -> bool:
        if not self._crew.shared_cores or len(self._ready) >= self._rows:
            return False
        return bool(self._undecoded) or self._decoding >= self._crew.decoders

    def take_ready(self) -> list[WorkRow]:
        with self._for_computer:
            rows, self._ready = list(self._ready), deque()
            return rows

    def put_back(self, rows: Iterable[WorkRow]) -> None:
        """Decoded rows that were too many for this batch; they are the first of the next."""
        with self._for_computer:
            self._ready.extendleft(reversed(list(rows)))
