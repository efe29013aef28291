"""Decides which row goes next. Pure: no loop, no thread, no clock of its own, and no knowledge of
replicas.

Order: priority, then the moment a row is due, then arrival. A row is due at its deadline, or
`patience_s` after its arrival if that is earlier. So within one priority no row waits for ever
behind a stream of tighter deadlines, and rows without a deadline are first in, first out.

The queue is bounded in rows and bytes. When it is full, a row of higher priority displaces the
newest row of the lowest priority below its own; otherwise the new row is refused.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from server.types import Outcome, Work

TakeDecision = Literal["take", "skip", "stop"]


@dataclass(slots=True, eq=False)
class QueueEntry:
    """A row in the pool, with its state there. Only the pool changes it."""

    work: Work
    queued_at: float
    finish: Callable[[Outcome], None]
    token: Callable[[str], None] | None = None
    losses: int = 0  # number of replicas that died while holding it ...
    deaths: int = 0  # ... and of those, the ones that it may have killed
    avoid: int | None = None  # index of a replica that lacked memory for it
    streamed: bool = False  # its caller has seen part of the answer
    closed: bool = False  # its caller has been answered, or has left
    finish_reason: str = ""
    tokens: int = 0
    first_token_ms: float = 0.0  # from queueing to the first piece of text from the replica
    cost_s: float = 0.0  # its work, as expected when it was queued
    expected_s: float = 0.0  # time until its answer, as expected; 0: unknown


_Key = tuple[int, float, int]


class RowQueue:
    """# Invariant: `_order` and `_entries` hold the same rows, `_order` sorted."""

    def __init__(self, rows: int, nbytes: int, patience_s: float) -> None:
        self._most_rows = rows
        self._most_bytes = nbytes
        self._patience_s = patience_s
        self._order: list[_Key] = []
        self._by_key: dict[_Key, QueueEntry] = {}
        self._keys: dict[str, _Key] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._arrivals = 0
        self._costs_s: dict[int, float] = {}  # by priority
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[QueueEntry]:
        return (self._by_key[key] for key in self._order)

    @property
    def full(self) -> bool:
        return len(self._order) >= self._most_rows or self.bytes >= self._most_bytes

    def cost_before_s(self, priority: int) -> float:
        """The work of all rows that go before a new row of this priority."""
        return sum(cost_s for rank, cost_s in self._costs_s.items() if rank <= priority)

    def has_room(self, work: Work) -> bool:
        """Whether `add` would take this row, displacing a row of lower priority if necessary."""
        return self._fits(work) or self._lesser(work) is not None

    def add(self, entry: QueueEntry) -> QueueEntry | None:
        """Queue a row. Returns the row that is refused for it: another one, itself, or None."""
        displaced = None
        if not self._fits(entry.work):
            displaced = self._lesser(entry.work)
            if displaced is None:
                return entry
            self.remove(displaced.work.id)
        self.put_back(entry)
        return displaced

    def put_back(self, entry: QueueEntry) -> None:
        """Queue a row regardless of the limits: an accepted row is not refused later for lack of
        room."""
        work = entry.work
        due = entry.queued_at + self._patience_s
        if work.deadline is not None:
            due = min(due, work.deadline)
            heapq.heappush(self._deadlines, (work.deadline, work.id))
        self._arrivals += 1
        key = (work.priority, due, self._arrivals)
        insort(self._order, key)
        self._by_key[key] = entry
        self._keys[work.id] = key
        self._costs_s[work.priority] = self._costs_s.get(work.priority, 0.0) + entry.cost_s
        self.bytes += len(work.example)

    def remove(self, entry_id: str) -> QueueEntry | None:
        key = self._keys.get(entry_id)
        return None if key is None else self._pop(bisect_left(self._order, key))

    def expire(self, now: float) -> list[QueueEntry]:
        """Take out every row whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, entry_id = heapq.heappop(self._deadlines)
            entry = self.remove(entry_id)
            if entry is not None:
                expired.append(entry)
        return expired

    def take(self, judge: Callable[[QueueEntry], TakeDecision]) -> QueueEntry | None:
        """Take out the first row that `judge` takes, passing over those it skips."""
        for index, key in enumerate(self._order):
            verdict = judge(self._by_key[key])
            if verdict == "take":
                return self._pop(index)
            if verdict == "stop":
                return None
        return None

    def drain(self) -> list[QueueEntry]:
        """Take out everything, in order."""
        return [self._pop(0) for _ in range(len(self._order))]

    def _fits(self, work: Work) -> bool:
        # An empty queue takes a row of any size, as validation has checked the size.
        fits = self.bytes + len(work.example) <= self._most_bytes or not self._order
        return fits and len(self._order) < self._most_rows

    def _lesser(self, work: Work) -> QueueEntry | None:
        if not self._order or self._order[-1][0] <= work.priority:
            return None
        lowest = self._order[-1][0]
        start = bisect_left(self._order, (lowest,))
        newest = max(self._order[start:], key=lambda key: key[2])
        entry = self._by_key[newest]
        after = self.bytes - len(entry.work.example) + len(work.example)
        return entry if after <= self._most_bytes or len(self._order) == 1 else None

    def _pop(self, index: int) -> QueueEntry:
        entry = self._by_key.pop(self._order.pop(index))
        del self._keys[entry.work.id]
        self.bytes -= len(entry.work.example)
        if self._order:
            self._costs_s[entry.work.priority] -= entry.cost_s
        else:
            self._costs_s.clear()  # this also removes rounding errors
        if len(self._deadlines) > 64 + 4 * len(self._order):
            self._forget_answered_deadlines()
        return entry

    def _forget_answered_deadlines(self) -> None:
        alive = (self._by_key[key].work for key in self._order)
        self._deadlines = [(w.deadline, w.id) for w in alive if w.deadline is not None]
        heapq.heapify(self._deadlines)
