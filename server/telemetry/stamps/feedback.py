"""Joins feedback to its predictions, whenever it arrives.

Append-only: the current label, value and outcome are each those of the latest observation that
gives one; among equal times the one received last counts. The value of an event is often known long
after its label. A correction subtracts what was counted for the feedback it replaces, so the
quality of the hour of a prediction always reflects the current knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass

from server.telemetry.quality.estimates import Estimates, QualityCounts, Yardstick
from server.telemetry.quality.truth import Truth, truth_of
from server.telemetry.store.store import Store, day_of

TEXT = 1000  # characters of a label, outcome, source or key
FUTURE_S = 86400.0  # an observation further in the future than this comes from a wrong clock
MOST_OBSERVATIONS = 100  # observations of one prediction: a client in a loop must not fill the disk
LARGEST_VALUE = 1e12  # larger values would swallow smaller ones in a sum

JOINED, CORRECTED, DUPLICATE = "joined", "corrected", "duplicate"
UNKNOWN, EXPIRED, REFUSED = "unknown", "expired", "refused"


@dataclass(frozen=True, slots=True)
class FeedbackItem:
    """As in proto/inference.proto; `observed_at` in unix seconds, 0 = now; `value` None: the
    objective determines it."""

    prediction_id: str
    label: str = ""
    outcome: str = ""
    value: float | None = None
    source: str = ""
    observed_at: float = 0.0
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    """`status` is joined | corrected | duplicate | unknown | expired | refused; the rest names
    the refused field, the reason in UPPER_CASE, and a message."""

    prediction_id: str
    status: str
    field: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """The fields of a stored prediction that feedback needs."""

    at: float
    stamp: str
    label: str
    confidence: float
    slices: str  # JSON
    total_ms: float
    judged: bool  # an answered classification: only those can be right or wrong


Measured = Callable[[Answered], tuple[Yardstick, list[QualityCounts]]]


class Feedback:
    """`measured` returns, for a prediction, the yardstick of its stamp and the quality counts of
    its hour and slices, ready to be changed. Runs on the writer thread, in its own transaction."""

    def __init__(self, store: Store, measured: Measured) -> None:
        self._store = store
        self._measured = measured

    def take(self, items: Sequence[FeedbackItem], now: float) -> list[FeedbackResult]:
        """One result for each item, in order. Raises sqlite3.Error, after which nothing was
        stored."""
        changes: list[tuple[Answered, Truth | None, Truth]] = []
        with self._store.transaction():
            results = [self._one(item, now, changes) for item in items]
        for answered, before, after in changes:
            self._count(answered, before, -1)
            self._count(answered, after, 1)
        return results

    def recount(self, after_id: int) -> None:
        """Count again the feedback that came after the stored sums were last written."""
        rows = self._store.connection.execute(
            "SELECT DISTINCT prediction_id FROM feedback WHERE id > ?", (after_id,)
        ).fetchall()
        for (prediction_id,) in rows:
            answered = self._find(prediction_id)
            if answered is not None:
                before = self._holds(prediction_id, after_id)
                self._count(answered, before, -1)
                self._count(answered, self._holds(prediction_id), 1)

    def last_id(self) -> int:
        found = self._store.connection.execute("SELECT max(id) FROM feedback").fetchone()
        return int(found[0] or 0)

    def _one(
        self,
        item: FeedbackItem,
        now: float,
        changes: list[tuple[Answered, Truth | None, Truth]],
    ) -> FeedbackResult:
        refused = _malformed(item, now)
        if refused is not None:
            return refused
        if item.idempotency_key and self._seen(item.idempotency_key):
            return FeedbackResult(item.prediction_id, DUPLICATE)
        answered = self._find(item.prediction_id)
        if answered is None:
            return FeedbackResult(item.prediction_id, self._absence(item.prediction_id))
        stick, _ = self._measured(answered)
        if item.label and stick.labels and item.label not in (*stick.labels, answered.label):
            known = ", ".join(stick.labels[:20])
            return _refused(item, "label", "UNKNOWN_LABEL", f"{item.label!r} is none of {known}")
        before = self._holds(item.prediction_id)
        repeated = before is not None and before.has(item.label, item.value, item.outcome)
        if repeated and not (item.idempotency_key or item.observed_at):
            # Not stored again, even with a later time.
            return FeedbackResult(item.prediction_id, DUPLICATE)
        if self._observations(item.prediction_id) >= MOST_OBSERVATIONS:
            text = f"{MOST_OBSERVATIONS} observations of this prediction are kept, and no more"
            return _refused(item, "prediction_id", "TOO_MANY_OBSERVATIONS", text)
        status = DUPLICATE if repeated else JOINED
        row = self._append(item, item.observed_at or now, now, status)
        after = self._holds(item.prediction_id)
        if after is None or (before is not None and after.values == before.values):
            return FeedbackResult(item.prediction_id, status)
        if before is not None and before.taken_back_by(after):
            status = CORRECTED
            self._mark(row, status)
        self._hold(item.prediction_id, after, answered)
        changes.append((answered, before, after))
        return FeedbackResult(item.prediction_id, status)

    def _count(self, answered: Answered, truth: Truth | None, sign: int) -> None:
        if truth is None or not answered.judged:
            return
        stick, counts = self._measured(answered)
        value = math.nan if truth.value is None else truth.value
        for of_slice in counts:
            if truth.label:
                verdict = Estimates(
                    answered.confidence,
                    stick.label(answered.label),
                    _true(stick, truth.label, answered.label),
                    answered.total_ms / 1000,
                    value,
                    max(truth.observed_at - answered.at, 0.0),
                )
                of_slice.learn(stick, verdict, sign)
            elif not math.isnan(value):
                of_slice.value += sign * value
                of_slice.valued += sign

    def _find(self, prediction_id: str) -> Answered | None:
        for day in self._likely_days(prediction_id):
            row = self._store.connection.execute(
                "SELECT p.at, s.hex, p.label, ifnull(p.confidence, 0), p.slices, p.total_ms,"
                " p.task = 'classify' AND p.error = ''"
                f" FROM prediction_{day} p JOIN stamp s ON s.id = p.stamp_id"
                " WHERE p.prediction_id = ?",
                (prediction_id,),
            ).fetchone()
            if row is not None:
                return Answered(*row)
        return None

    def _likely_days(self, prediction_id: str) -> list[str]:
        """The days to search, the one in which the id was made first: it contains nearly all."""
        days = self._store.days()[::-1]
        made = made_at(prediction_id)
        likely = day_of(made) if made is not None else ""
        return sorted(days, key=lambda day: day != likely)

    def _absence(self, prediction_id: str) -> str:
        made, days = made_at(prediction_id), self._store.days()
        return EXPIRED if made is not None and days and day_of(made) < days[0] else UNKNOWN

    def _seen(self, key: str) -> bool:
        found = self._store.connection.execute(
            "SELECT 1 FROM feedback WHERE idempotency_key = ?", (key,)
        )
        return found.fetchone() is not None

    def _observations(self, prediction_id: str) -> int:
        found = self._store.connection.execute(
            "SELECT count(*) FROM feedback WHERE prediction_id = ?", (prediction_id,)
        )
        return int(found.fetchone()[0])

    def _holds(self, prediction_id: str, up_to: int | None = None) -> Truth | None:
        """The current truth: for each part the latest observation, among equal times the last
        received."""
        rows = self._store.connection.execute(
            "SELECT label, value, outcome, source, observed_at, received_at FROM feedback"
            " WHERE prediction_id = ? AND id <= ? ORDER BY observed_at, received_at, id",
            (prediction_id, up_to if up_to is not None else 1 << 62),
        ).fetchall()
        return truth_of(rows)

    def _append(self, item: FeedbackItem, observed_at: float, now: float, status: str) -> int:
        """Store an item; returns the number of its row."""
        values = asdict(item) | {"observed_at": observed_at, "received_at": now, "status": status}
        done = self._store.connection.execute(
            f"INSERT INTO feedback ({', '.join(values)}) VALUES ({','.join('?' * len(values))})",
            tuple(values.values()),
        )
        return int(done.lastrowid or 0)

    def _mark(self, row: int, status: str) -> None:
        self._store.connection.execute("UPDATE feedback SET status = ? WHERE id = ?", (status, row))

    def _hold(self, prediction_id: str, truth: Truth, answered: Answered) -> None:
        self._store.connection.execute(
            "INSERT OR REPLACE INTO truth VALUES (?,?,?,?,?,?,?,?)",
            (prediction_id, answered.at, *astuple(truth)),
        )


def made_at(prediction_id: str) -> float | None:
    """The unix seconds in a UUID version 7 (RFC 9562), None for any other id."""
    try:
        return int(prediction_id[:12], 16) / 1000 if prediction_id[12:13] == "7" else None
    except ValueError:
        return None


def _malformed(item: FeedbackItem, now: float) -> FeedbackResult | None:
    if not item.prediction_id:
        return _refused(item, "prediction_id", "MISSING", "a prediction id is required")
    if not item.label and not item.outcome and item.value is None:
        return _refused(item, "label", "EMPTY", "neither label nor outcome nor value is given")
    if item.value is not None and not math.isfinite(item.value):
        return _refused(item, "value", "NOT_FINITE", f"value must be finite, not {item.value}")
    if item.value is not None and abs(item.value) > LARGEST_VALUE:
        text = f"a value of {item.value:g}; the limit is {LARGEST_VALUE:g} either way"
        return _refused(item, "value", "TOO_LARGE", text)
    for name in ("prediction_id", "label", "outcome", "source", "idempotency_key"):
        if len(getattr(item, name)) > TEXT:
            return _refused(item, name, "TOO_LONG", f"longer than {TEXT} characters")
    if not 0 <= item.observed_at <= now + FUTURE_S:
        text = "observed in the future: give unix milliseconds, or 0 for now"
        return _refused(item, "observed_unix_ms", "NOT_A_TIME", text)
    return None


def _refused(item: FeedbackItem, field: str, reason: str, message: str) -> FeedbackResult:
    return FeedbackResult(item.prediction_id, REFUSED, field, reason, message)


def _true(stick: Yardstick, true: str, predicted: str) -> int:
    """The index of the true label. If the stamp does not have the label, it is right only if it
    equals the answered one (the request brought it)."""
    place = stick.label(true)
    if place == len(stick.labels) and true != predicted:
        return place + 1
    return place
