"""People's notes on the time axis, kept by the server so that every console shows them.

Runs on the telemetry thread. Notes that the store does not take yet wait here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from server.telemetry.change_feed import LIMITS, ChangeFeed
from server.telemetry.errors import TooMany, UnknownAlert
from server.telemetry.rows import AnnotationRow
from server.telemetry.store.store import Store

MOST_ANNOTATIONS = LIMITS[AnnotationRow]  # removed notes count too, as they are still rows

# Runs work on the store in a transaction; False if the store refused it.
Try = Callable[[Callable[[], object]], bool]


class Annotations:
    """`store` is called each time, as the store may have been replaced."""

    def __init__(self, store: Callable[[], Store], attempt: Try, changes: ChangeFeed) -> None:
        self._store = store
        self._attempt = attempt
        self._changes = changes
        self._rows: dict[str, AnnotationRow] = {}
        self._waiting: dict[str, AnnotationRow] = {}

    def restore(self) -> None:
        rows = self._store().judgements.annotations(MOST_ANNOTATIONS)
        self._rows = {row.id: row for row in rows}
        self._changes.note(rows)

    def add(self, row: AnnotationRow, oldest_ms: int) -> AnnotationRow:
        """Keep a note. A known note is returned unchanged. Notes from before `oldest_ms` make room.
        Raises TooMany."""
        known = self._rows.get(row.id)
        if known is not None:
            return known
        self._rows = {i: held for i, held in self._rows.items() if held.at_unix_ms >= oldest_ms}
        if len(self._rows) >= MOST_ANNOTATIONS:
            raise TooMany(f"there are {MOST_ANNOTATIONS} annotations, the most at a time")
        return self._put(row)

    def remove(self, annotation_id: str, actor: str) -> AnnotationRow:
        """Mark a note as removed; it stays stored, with the name of who removed it. Raises
        UnknownAlert."""
        known = self._rows.get(annotation_id)
        if known is None:
            raise UnknownAlert(f"no annotation {annotation_id}")
        if known.removed:
            return known
        return self._put(replace(known, removed=True, actor=actor or known.actor))

    def keep(self) -> None:
        """Try to store the waiting notes."""

        def work() -> None:
            for row in self._waiting.values():
                self._store().judgements.put_annotation(row)

        if self._waiting and self._attempt(work):
            self._waiting.clear()

    def _put(self, row: AnnotationRow) -> AnnotationRow:
        self._rows[row.id] = self._waiting[row.id] = row
        self._changes.note([row])
        self.keep()
        return row
