"""Writes rows to the store, and continues when it cannot: a full disk costs rows, never answers.

Rows wait in memory while the store refuses them; when too many wait, the oldest are dropped and
counted. TelemetryWriter sets a damaged store aside and creates a new one.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from server.telemetry.record import Record
from server.telemetry.sampler import SampleChoice
from server.telemetry.store.payload_keys import NO_KEYS, PayloadKeys
from server.telemetry.store.store import Store, day_of

logger = logging.getLogger(__name__)

WAITING_ROWS = 8192
WAITING_PAYLOAD_BYTES = 64 << 20  # of all rows that wait while the store refuses them
RETRY_S = 1.0
LONGEST_RETRY_S = 30.0


class JournalEntry(NamedTuple):
    record: Record
    choice: SampleChoice


@dataclass(slots=True)
class JournalCounters:
    written: int = 0
    lost: int = 0
    payloads_kept: int = 0
    payloads_lost: int = 0  # of rows that waited


@dataclass(eq=False)
class Journal:
    """`monotonic` is the clock of the retries."""

    store: Store
    monotonic: Callable[[], float]
    keys: PayloadKeys = NO_KEYS

    def __post_init__(self) -> None:
        self._waiting: list[JournalEntry] = []
        self._retry_at = 0.0
        self._retry_s = RETRY_S
        self.trouble = ""
        self.counters = JournalCounters()
        self.last_rows: dict[str, int] = {}  # day -> last row written

    def add(self, entries: list[JournalEntry]) -> None:
        self._waiting += entries
        excess = len(self._waiting) - WAITING_ROWS
        if excess > 0 and self.trouble:
            self._drop(excess)
        if self.trouble:
            self._lighten()

    def _drop(self, excess: int) -> None:
        """Drop the oldest rows of the clients that have most: a flood by one client does not
        displace the rows of others."""
        clients = Counter(entry.record.client for entry in self._waiting)
        room = len(self._waiting) - excess
        keep = 0  # the most that each client may keep
        for place, rows in enumerate(sorted(clients.values())):
            keep = room // (len(clients) - place)
            if rows > keep:
                break
            room -= rows
        drop = {client: rows - keep for client, rows in clients.items() if rows > keep}
        left = []
        for entry in self._waiting:
            client = entry.record.client
            if drop.get(client, 0) > 0:
                drop[client] -= 1
            else:
                left.append(entry)
        self.counters.lost += len(self._waiting) - len(left)
        self._waiting = left

    def _lighten(self) -> None:
        """Drop payloads, the oldest first, before any row is dropped."""
        left = WAITING_PAYLOAD_BYTES
        for place in range(len(self._waiting) - 1, -1, -1):
            record, choice = self._waiting[place]
            if not record.payload:
                continue
            if choice.keep and len(record.payload) <= left:
                left -= len(record.payload)
                continue
            self.counters.payloads_lost += choice.keep
            self._waiting[place] = JournalEntry(
                replace(record, payload=b""), replace(choice, keep=False) if choice.keep else choice
            )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def write(self) -> bool:
        """Try to write the waiting rows; False if some still wait. Raises sqlite3.DatabaseError
        when the file itself is damaged."""
        if not self._waiting:
            return True
        if self.monotonic() < self._retry_at:
            return False
        try:
            with self.store.transaction():
                rows = self._insert(self._waiting)
        except sqlite3.OperationalError as fault:
            self.refused(fault)
            return False
        except (UnicodeError, OverflowError, sqlite3.ProgrammingError) as fault:
            return self._set_apart(fault)
        self.last_rows |= rows
        self.counters.written += len(self._waiting)
        self.counters.payloads_kept += sum(entry.choice.keep for entry in self._waiting)
        self._waiting = []
        self.well()
        return True

    def _set_apart(self, fault: Exception) -> bool:
        """Drop and count a row with a value that a database cannot store, as it must not block all
        later rows. The others are written at the next attempt."""
        before = len(self._waiting)
        with self.store.transaction():
            self._waiting = [entry for entry in self._waiting if self._binds(entry)]
        self.counters.lost += before - len(self._waiting)
        if before == len(self._waiting):
            raise fault
        logger.error("telemetry: %d rows lost: %s", before - len(self._waiting), fault)
        return False

    def _binds(self, entry: JournalEntry) -> bool:
        try:
            row = self.store.prediction_tuple(entry.record, entry.choice.probability, False)
            self.store.connection.execute("SELECT " + ",".join("?" * len(row)), row).fetchone()
        except (UnicodeError, OverflowError, sqlite3.ProgrammingError):
            return False
        return True

    def last_try(self) -> None:
        """The last attempt before the end: rows that cannot be written are lost and logged. Raises
        sqlite3.DatabaseError when the file itself is damaged."""
        self._retry_at = 0.0
        if not self.write():
            logger.error("telemetry: %d predictions are lost: %s", self.waiting, self.trouble)
            self.counters.lost += self.waiting
            self._waiting = []

    def refused(self, fault: sqlite3.Error) -> None:
        """Wait before the next attempt, longer each time."""
        if not self.trouble:
            logger.error("telemetry: nothing is being kept: %s", fault)
        self.trouble = str(fault)
        self._retry_at = self.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)

    def well(self) -> None:
        if self.trouble:
            logger.warning("telemetry: writing again after: %s", self.trouble)
        self.trouble, self._retry_s = "", RETRY_S

    def _insert(self, entries: list[JournalEntry]) -> dict[str, int]:
        by_day: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            by_day.setdefault(day_of(entry.record.at), []).append(entry)
        for day, of_day in by_day.items():
            self.store.make_day(day)
            self.store.insert(
                day,
                [
                    self.store.prediction_tuple(record, choice.probability, choice.keep)
                    for record, choice in of_day
                ],
            )
            kept = [
                (
                    record.prediction_id,
                    record.at,
                    choice.stratum,
                    choice.probability,
                    self.keys.seal(record.prediction_id, record.payload),
                )
                for record, choice in of_day
                if choice.keep
            ]
            if kept:
                self.store.insert_payloads(day, kept)
        return {day: self.store.last_row(day) for day in by_day}
