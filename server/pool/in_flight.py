"""The rows that one replica holds, and whether it may take one more.

At most one batch waits `ahead` of the forward, limited in rows, tokens and payload bytes; the rows
in the forward are `running`. Only the front's queue knows priorities, so the fewer rows are ahead,
the better priorities are kept; but a whole batch is needed so that the forward never waits for the
decoder.
"""

from __future__ import annotations

from server.pool.queue import QueueEntry
from server.types import Work


class InFlight:
    """# Invariant: a row is in exactly one of `ahead` and `running` from `add` to `release`."""

    def __init__(self, most_bytes: int) -> None:
        self.ahead: dict[str, QueueEntry] = {}
        self.running: dict[str, QueueEntry] = {}
        self.rows_room = 0
        self.tokens_room = 0
        self._most_bytes = most_bytes
        self._ahead_tokens = 0
        self._ahead_bytes = 0
        self._tokens = 0
        self.cost_s = 0.0  # the work of all its rows

    def __len__(self) -> int:
        return len(self.ahead) + len(self.running)

    @property
    def load(self) -> int:
        """Tokens held, to find the least loaded replica; each row also counts one, as it may have
        no tokens."""
        return self._tokens + len(self)

    @property
    def ahead_cost_s(self) -> float:
        """The work of the rows that no forward has started."""
        return sum(entry.cost_s for entry in self.ahead.values())

    @property
    def entries(self) -> list[QueueEntry]:
        return [*self.running.values(), *self.ahead.values()]

    @property
    def full(self) -> bool:
        return len(self.ahead) >= self.rows_room

    @property
    def generations(self) -> int:
        return sum(entry.work.task == "generate" for entry in self.entries)

    def fits(self, work: Work) -> bool:
        """Whether a row fits. If no other row is ahead every row fits, so that none is too large to
        run."""
        if self.full:
            return False
        fits_tokens = self._ahead_tokens + work.estimated_tokens <= self.tokens_room
        fits_bytes = self._ahead_bytes + len(work.example) <= self._most_bytes
        return (fits_tokens and fits_bytes) or not self.ahead

    def add(self, entry: QueueEntry) -> None:
        work = entry.work
        self.ahead[work.id] = entry
        self._ahead_tokens += work.estimated_tokens
        self._ahead_bytes += len(work.example)
        self._tokens += work.estimated_tokens
        self.cost_s += entry.cost_s

    def begin(self, entry_id: str) -> None:
        entry = self._leave_ahead(entry_id)
        if entry is not None:
            self.running[entry_id] = entry

    def get(self, entry_id: str) -> QueueEntry | None:
        return self.running.get(entry_id) or self.ahead.get(entry_id)

    def release(self, entry_id: str) -> QueueEntry | None:
        entry = self._leave_ahead(entry_id) or self.running.pop(entry_id, None)
        if entry is not None:
            self._tokens -= entry.work.estimated_tokens
            self.cost_s = self.cost_s - entry.cost_s if len(self) else 0.0
        return entry

    def _leave_ahead(self, entry_id: str) -> QueueEntry | None:
        entry = self.ahead.pop(entry_id, None)
        if entry is not None:
            self._ahead_tokens -= entry.work.estimated_tokens
            self._ahead_bytes -= len(entry.work.example)
        return entry
