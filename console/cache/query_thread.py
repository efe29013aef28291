"""A second reading thread for questions that a panel asks once: pages of predictions, one
prediction, a kept payload. Slow questions wait here and never delay the board."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from console.cache import drift, filter_sql, predictions, rows, sides
from console.cache.interned import InternedTexts
from console.state.query_types import (
    FindPredictions,
    FoundPredictions,
    KeptPayload,
    PredictionDetail,
    PredictionPage,
    Query,
    ReadChanges,
    ReadComparison,
    ReadPage,
    ReadPayload,
    ReadPrediction,
)
from server.telemetry.filters import BadFilter

log = logging.getLogger(__name__)


Fetch = Callable[[str, str, Callable[[bytes | None, str], None]], None]


class QueryThread:
    """`fetch` asks the server for a payload that the cache does not hold. `answer` receives every
    answer, called from this thread or from the feed's."""

    def __init__(self, path: Path, fetch: Fetch, answer: Callable[[int, object], None]) -> None:
        self._path = path
        self._fetch = fetch
        self._answer = answer
        self._queue: queue.SimpleQueue[tuple[int, Query] | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = None
        self._newest_find = 0
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="cache queries", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, number: int, question: Query) -> None:
        if isinstance(question, FindPredictions):
            self._newest_find = number
            self._interrupt()  # a new filter replaces the one that is still running
        self._queue.put((number, question))

    def _interrupt(self) -> None:
        with self._closing:
            if self._db is not None:
                self._db.interrupt()

    def close(self, timeout_s: float = 5.0) -> None:
        self._queue.put(None)
        self._interrupt()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        names: InternedTexts | None = None
        while (asked := self._queue.get()) is not None:
            number, question = asked
            if isinstance(question, FindPredictions) and number < self._newest_find:
                continue
            try:
                if self._db is None:
                    self._db = rows.open_for_reading(self._path)
                    names = InternedTexts(self._db) if self._db is not None else None
                if self._db is None or names is None:
                    self._answer(
                        number, FoundPredictions(np.zeros(0, np.int64), "the cache is empty")
                    )
                else:
                    self._read(self._db, names, number, question)
            except sqlite3.Error as error:
                if "interrupted" not in str(error):
                    log.error("question to the cache failed: %s", error)
                    self._answer(number, FoundPredictions(np.zeros(0, np.int64), str(error)))
        with self._closing:
            db, self._db = self._db, None
        if db is not None:
            db.close()

    def _read(
        self, db: sqlite3.Connection, names: InternedTexts, number: int, question: Query
    ) -> None:
        match question:
            case FindPredictions():
                self._answer(number, _find(db, names, question))
            case ReadPage(numbers):
                self._answer(number, PredictionPage(predictions.page(db, names, numbers)))
            case ReadPrediction(server, identity):
                self._answer(number, _single(db, names, server, identity))
            case ReadChanges():
                self._answer(number, sides.what_changed(db, names, question))
            case ReadComparison():
                self._answer(number, sides.comparison(db, names, question))
            case ReadPayload(server, identity):
                body = rows.payload(db, names, server, identity)
                if body is not None:
                    self._answer(number, KeptPayload(server, identity, body))
                    return
                self._fetch(
                    server,
                    identity,
                    lambda found, why: self._answer(
                        number, KeptPayload(server, identity, found, why)
                    ),
                )


def _find(
    db: sqlite3.Connection, names: InternedTexts, wanted: FindPredictions
) -> FoundPredictions:
    try:
        if any(clause.kind == "feature" for clause in wanted.clauses):
            filter_sql.know_features(db, names, drift.features(db), wanted.clauses)
        condition = filter_sql.where(wanted.clauses, wanted.span, wanted.aliases)
    # A category compared as a number: this shows only when features are read.
    except BadFilter as error:
        return FoundPredictions(np.zeros(0, np.int64), str(error))
    return FoundPredictions(predictions.numbers(db, condition))


def _single(
    db: sqlite3.Connection, names: InternedTexts, server: str, identity: str
) -> PredictionDetail:
    row = predictions.by_id(db, names, server, identity)
    if row is None:
        return PredictionDetail(server, identity, None)
    found = (predictions.by_id(db, names, server, other) for other in row.batch_mates[:64])
    batch_mates = tuple(other for other in found if other is not None)
    known = drift.features(db)
    schema = tuple(feature for (stamp, _), feature in known.items() if stamp == row.stamp)
    return PredictionDetail(server, identity, row, batch_mates, schema)
