"""After a start, counts again the rows written after the sums were last stored. So the sums always
match the stored predictions, however the server was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from server.telemetry.drift.windows import SHORT_S
from server.telemetry.outputs import TIME_NAMES
from server.telemetry.record import Record
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.feedback import Feedback
from server.telemetry.stamps.registry import StampRegistry
from server.telemetry.store.store import Store

CHUNK_ROWS = 2000
REMEMBERED_ROWS = 100_000  # rows of the last hour, for the short window
# The columns of a row that counting needs.
NEEDED = (
    *("prediction_id", "at", "task", "mix", "label", "features", "replica", "batch_size"),
    *("error", "trace_id", *TIME_NAMES),
)
FEEDBACK = "feedback"  # its key in the table of counting progress


def recount(
    store: Store, states: StampRegistry, counting: Counting, feedback: Feedback, now: float
) -> int:
    """Returns how many predictions were counted again."""
    counted, again = store.counted(), 0
    for day in store.days():
        for records in _records(store, day, "p.id > ?", counted.get(day, 0)):
            _meet(states, records)
            counting.add(records, now)
            again += len(records)
    _remember(store, states, counting, counted, now)
    feedback.recount(counted.get(FEEDBACK, 0))
    return again


def _remember(
    store: Store, states: StampRegistry, counting: Counting, counted: dict[str, int], now: float
) -> None:
    left = REMEMBERED_ROWS
    for day in reversed(store.days()[-2:]):
        where = f"p.at > ? AND p.id <= {counted.get(day, 0)}"
        for records in _records(store, day, where, now - SHORT_S):
            _meet(states, records)
            counting.remember(records[:left], now)
            left -= len(records)
            if left <= 0:
                return


def _meet(states: StampRegistry, records: list[Record]) -> None:
    for stamp in {r.stamp for r in records}:
        states.find(stamp)


def _records(store: Store, day: str, where: str, value: float) -> Iterator[list[Record]]:
    """The columns of the rows that counting needs, oldest first."""
    found = store.connection.execute(
        f"SELECT s.hex, p.slices, ifnull(p.confidence, 0), {', '.join(f'p.{n}' for n in NEEDED)}"
        f" FROM prediction_{day} p JOIN stamp s ON s.id = p.stamp_id WHERE {where} ORDER BY p.id",
        (value,),
    )
    while rows := found.fetchmany(CHUNK_ROWS):
        yield [
            Record(
                stamp=stamp,
                slices=json.loads(slices),
                confidence=confidence,
                client="",
                session="",
                **dict(zip(NEEDED, values, strict=True)),
            )
            for stamp, slices, confidence, *values in rows
        ]
