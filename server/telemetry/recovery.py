"""After a start: counts again what was written after the sums were last stored, so that the sums
are always those of the predictions that are there, whatever killed the server."""

from __future__ import annotations

import json
from collections.abc import Iterator

from server.telemetry.drift.windows import SHORT_S
from server.telemetry.record import Record
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.feedback import Feedback
from server.telemetry.stamps.registry import StampRegistry
from server.telemetry.store.store import Store

CHUNK_ROWS = 2000
REMEMBERED_ROWS = 100_000  # of the last hour, for the short window
FEEDBACK = "feedback"  # its place in the table of how far the sums have come


def recount(
    store: Store, states: StampRegistry, counting: Counting, feedback: Feedback, now: float
) -> int:
    """How many predictions were counted again."""
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
    """What counting needs of the rows, oldest first."""
    found = store.connection.execute(
        "SELECT p.prediction_id, p.at, s.hex, p.task, p.mix, p.label, ifnull(p.confidence, 0),"
        " p.features, p.slices, p.replica, p.batch_size, p.queue_ms, p.decode_ms, p.preprocess_ms,"
        " p.forward_ms, p.post_ms, p.total_ms, p.error, p.trace_id"
        f" FROM prediction_{day} p JOIN stamp s ON s.id = p.stamp_id WHERE {where} ORDER BY p.id",
        (value,),
    )
    while rows := found.fetchmany(CHUNK_ROWS):
        yield [
            Record(
                prediction_id=row[0],
                at=row[1],
                stamp=row[2],
                task=row[3],
                mix=row[4],
                label=row[5],
                confidence=row[6],
                features=row[7],
                slices=json.loads(row[8]),
                client="",
                session="",
                replica=row[9],
                batch_size=row[10],
                queue_ms=row[11],
                decode_ms=row[12],
                preprocess_ms=row[13],
                forward_ms=row[14],
                post_ms=row[15],
                total_ms=row[16],
                error=row[17],
                trace_id=row[18],
            )
            for row in rows
        ]
