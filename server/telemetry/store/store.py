"""All that the writer thread does to telemetry.db. One connection, one thread, one transaction at a
time; raw SQL on the hot path. Readers have their own connections (reader.py)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.telemetry.outputs import output_tuple, time_tuple
from server.telemetry.record import Record
from server.telemetry.store.database import Opened
from server.telemetry.store.judgements import JudgementStore
from server.telemetry.store.schema import PREDICTION_NAMES, day_tables
from server.telemetry.store.stored_names import StoredNames
from server.telemetry.store.sums import SumsStore

TAG_TEXTS = 1024  # sets of tags whose text is cached

_INSERT = (
    "INSERT OR IGNORE INTO prediction_{day} ("
    + ", ".join(PREDICTION_NAMES)
    + ") VALUES ("
    + ", ".join("?" * len(PREDICTION_NAMES))
    + ")"
)


def day_of(at: float) -> str:
    """The UTC day as 20261123; impossible years are moved into the valid range."""
    at = min(max(at, 0.0), 4_102_444_800.0) if at == at else 0.0
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d")


def days_of(connection: sqlite3.Connection, first: str = "", last: str = "9") -> list[str]:
    """Days that have tables, oldest first, from `first` to `last`."""
    rows = connection.execute(
        "SELECT substr(name, 12) FROM sqlite_master"
        " WHERE type = 'table' AND name LIKE 'prediction\\_%' ESCAPE '\\' ORDER BY 1"
    )
    return [day for (day,) in rows if first <= day <= last]


class Store:
    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.connection = opened.connection
        self.names = StoredNames(opened.connection)
        self._tag_texts: dict[tuple[tuple[str, str], ...], str] = {}
        self._days = set(self.days())
        self.sums = SumsStore(self.connection, self.names)
        self.judgements = JudgementStore(self.connection, self.names)

    @property
    def path(self) -> Path:
        return self._opened.path

    @property
    def there(self) -> bool:
        """Whether the file is still where it was opened."""
        return self._opened.there

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Raises sqlite3.Error, after which nothing of it is stored."""
        self.connection.execute("BEGIN IMMEDIATE")
        with ExitStack() as unless_done:
            unless_done.callback(self._roll_back)
            yield self.connection
            self.connection.execute("COMMIT")
            unless_done.pop_all()

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        # Ids created in the transaction are gone again.
        self.names.clear()
        self._days = set(self.days())

    def close(self) -> None:
        self._opened.close()

    def days(self) -> list[str]:
        """Days that have tables, oldest first."""
        return days_of(self.connection)

    def make_day(self, day: str) -> None:
        if day not in self._days:
            for statement in day_tables(day):
                self.connection.execute(statement)
            self._days.add(day)

    def drop_day(self, day: str) -> None:
        with self.transaction():
            self.connection.execute(f"DROP TABLE IF EXISTS prediction_{day}")
            self.connection.execute(f"DROP TABLE IF EXISTS payload_{day}")
            self.connection.execute("DELETE FROM counted WHERE day = ?", (day,))
        self._days.discard(day)

    def insert(self, day: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """`rows` as made by `prediction_tuple`; ids that are already stored are left unchanged."""
        self.connection.executemany(_INSERT.format(day=day), rows)

    def insert_payloads(
        self, day: str, rows: Sequence[tuple[str, float, str, float, bytes]]
    ) -> None:
        self.connection.executemany(f"INSERT OR IGNORE INTO payload_{day} VALUES (?,?,?,?,?)", rows)

    def prediction_tuple(self, record: Record, sample_p: float, kept: bool) -> tuple[Any, ...]:
        """The row of a record, in the order of PREDICTION_NAMES."""
        return (
            record.prediction_id,
            record.at,
            self.names.stamp_id(record.stamp, at=record.at),
            record.task,
            record.mix,
            record.label,
            *output_tuple(record),
            record.features,
            self._tags(record.slices),
            record.client,
            record.session,
            record.replica,
            record.batch_size,
            *time_tuple(record),
            record.error,
            record.error_message,
            self.names.env_id(record.env),
            record.trace_id,
            " ".join(record.batch_mates),
            sample_p,
            int(kept),
        )

    def _tags(self, slices: Mapping[str, str]) -> str:
        """The tags as JSON; most requests carry one of a few sets of tags."""
        key = tuple(slices.items())
        if key not in self._tag_texts:
            if len(self._tag_texts) >= TAG_TEXTS:
                self._tag_texts.clear()
            # Not escaped: escapes take up to three times the bytes of a non-ASCII character.
            self._tag_texts[key] = json.dumps(dict(key), ensure_ascii=False)
        return self._tag_texts[key]

    def last_row(self, day: str) -> int:
        found = self.connection.execute(f"SELECT max(id) FROM prediction_{day}").fetchone()
        return int(found[0] or 0)

    def counted(self) -> dict[str, int]:
        """For each day, the row up to which the stored sums include the predictions."""
        return dict(self.connection.execute("SELECT day, row FROM counted").fetchall())

    def set_counted(self, rows: dict[str, int]) -> None:
        self.connection.executemany("INSERT OR REPLACE INTO counted VALUES (?, ?)", rows.items())

    def file_bytes(self) -> int:
        """Bytes of the file and its log on disk."""
        names = (self.path.name, f"{self.path.name}-wal")
        files = (self.path.with_name(name) for name in names)
        return sum(file.stat().st_size for file in files if file.exists())

    def bytes(self) -> int:
        """Bytes in use in the file (without its free pages), plus its log."""
        pages, free, size = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        log = self.path.with_name(self.path.name + "-wal")
        return int((pages - free) * size) + (log.stat().st_size if log.exists() else 0)
