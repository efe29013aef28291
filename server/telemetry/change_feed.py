"""The change feed of Observe.Watch: the latest row of every key, in the order of change.

A slow subscriber gets each key once, in its latest state, however often it changed, so a slow
subscriber costs no memory. The oldest rows of a kind are dropped above its limit; a subscriber
whose cursor is older than the dropped rows gets `complete=False` and reads the history instead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from server.telemetry.rows import (
    AlertRow,
    AnnotationRow,
    Change,
    DeployRow,
    DriftRow,
    FeatureRow,
    LatencyRow,
    PredictionRow,
    ProfileRow,
    QualityRow,
    Row,
    SilenceRow,
    SliceRow,
)

# Latest rows kept of each kind.
LIMITS: dict[type, int] = {
    LatencyRow: 4000,
    PredictionRow: 300,
    ProfileRow: 6000,
    DriftRow: 8000,
    QualityRow: 2000,
    FeatureRow: 2000,
    AlertRow: 300,
    SilenceRow: 300,
    AnnotationRow: 1000,
    DeployRow: 100,
    SliceRow: 50,
}


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """`complete` False: some rows after the requested cursor have been dropped."""

    changes: list[Change]
    cursor: int
    complete: bool


class ChangeFeed:
    """Written by the telemetry thread, read by any thread."""

    def __init__(self) -> None:
        self._rows: dict[type, OrderedDict[Hashable, Change]] = {
            kind: OrderedDict() for kind in LIMITS
        }
        self._cursor = 0
        self._gone = 0  # cursor of the latest dropped row
        self._lock = threading.Lock()

    def note(self, rows: Iterable[Row]) -> None:
        made = list(rows)  # outside the lock: a reader may be an event loop
        with self._lock:
            for row in made:
                self._cursor += 1
                kept = self._rows[type(row)]
                key = key_of(row)
                kept.pop(key, None)
                kept[key] = Change(self._cursor, row)
                if len(kept) > LIMITS[type(row)]:
                    _, oldest = kept.popitem(last=False)
                    self._gone = max(self._gone, oldest.cursor)

    def after(self, cursor: int) -> FeedBatch:
        """All changes after a cursor, oldest first; from 0 everything that is true now."""
        with self._lock:
            found: list[Change] = []
            for kept in self._rows.values():
                for change in reversed(kept.values()):
                    if change.cursor <= cursor:
                        break
                    found.append(change)
            found.sort(key=lambda change: change.cursor)
            return FeedBatch(found, self._cursor, cursor == 0 or cursor >= self._gone)

    def standing(self) -> list[DriftRow | QualityRow]:
        """The latest drift and quality rows."""
        with self._lock:
            kept = (*self._rows[DriftRow].values(), *self._rows[QualityRow].values())
        return [c.row for c in kept if isinstance(c.row, DriftRow | QualityRow)]

    @property
    def cursor(self) -> int:
        return self._cursor


def key_of(row: Row) -> Hashable:
    """The key by which a later row replaces an earlier one."""
    match row:
        case LatencyRow():
            return (row.bucket_unix_ms, row.width_s, row.stamp, row.mix, row.replica)
        case FeatureRow():
            return (row.stamp, row.name)
        case ProfileRow():
            return (row.stamp, row.feature, row.slice, row.hour_unix_s)
        case DriftRow():
            return (row.stamp, row.feature, row.slice, row.window_s, row.baseline)
        case AlertRow() | SilenceRow() | AnnotationRow():
            return row.id
        case DeployRow():
            return (row.at_unix_ms, row.action, row.stamp)
        case PredictionRow():
            return row.record.prediction_id
        case QualityRow():
            return (row.stamp, row.slice, row.bucket_unix_s, row.width_s)
        case SliceRow():
            return (row.stamp, row.expression)
