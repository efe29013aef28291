"""The slim form of a record that waits until enough records can be counted together.

Adding thirty rows to all sums costs nearly as much as three hundred, and a record holds its
payload. So rows wait briefly in this form. By then they are in the store, where the next start
finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.telemetry.record import Record

Rows = NDArray[np.int64]


class UncountedRow(NamedTuple):
    """Fields as in Record; `judged`: an answer whose confidence can prove right or wrong."""

    at: float
    mix: str
    features: bytes
    slices: Mapping[str, str]
    judged: bool
    label: str
    confidence: float


def uncounted(record: Record) -> UncountedRow:
    judged = record.task == "classify" and not record.error
    return UncountedRow(
        record.at,
        record.mix,
        record.features,
        record.slices,
        judged,
        record.label,
        record.confidence,
    )


def by_stamp(records: Iterable[Record]) -> dict[str, list[UncountedRow]]:
    found: dict[str, list[UncountedRow]] = {}
    for record in records:
        found.setdefault(record.stamp, []).append(uncounted(record))
    return found


def grouped(keys: Sequence[int]) -> Iterable[tuple[int, Rows]]:
    """(key, its rows), usually a single pair."""
    array = np.array(keys, dtype=np.int64)
    for key in np.unique(array):
        yield int(key), np.flatnonzero(array == key)


def slices_of(tags: Sequence[Sequence[str]], rows: Rows) -> Iterable[tuple[str, Rows]]:
    """All rows under "", then the rows of each slice."""
    yield "", rows
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        for name in tags[row]:
            found.setdefault(name, []).append(row)
    for name, inside in found.items():
        yield name, np.array(inside, dtype=np.int64)
