"""The baselines for live traffic: the bundle's reference, the previous stamp, the same hour of last
week, or a pinned range. Counts of past hours are additive, so all of them are sums of stored
profiles, except that of the previous stamp, which has other cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from server.telemetry.drift.detector import Baseline, bundle_baseline
from server.telemetry.drift.profile import Ints
from server.telemetry.drift.windows import HOUR_S, WINDOWS
from server.telemetry.errors import TelemetryError
from server.telemetry.stamps.counting import Counting
from server.telemetry.stamps.stamp_state import StampState
from server.telemetry.store.store import Store

WEEK_S = 7 * 86400
PREVIOUS_ROWS = 20_000  # latest rows of the previous stamp


class BadBaseline(TelemetryError):
    """The name of a baseline is invalid."""


@dataclass(frozen=True, slots=True)
class BaselineChoice:
    """`since` and `until` are unix seconds of a pinned range."""

    kind: str  # bundle | previous | last-week | pinned
    since: float = 0.0
    until: float = 0.0


def choice_of(text: str) -> BaselineChoice:
    """`bundle`, `previous`, `last-week` or `2026-11-02T00:00..2026-11-05T00:00` (UTC unless a zone
    is given). Raises BadBaseline."""
    if text in ("bundle", "previous", "last-week"):
        return BaselineChoice(text)
    since, dots, until = text.partition("..")
    try:
        chosen = BaselineChoice("pinned", _unix(since), _unix(until))
    except ValueError as fault:
        raise BadBaseline(f"{text!r}: bundle, previous, last-week or FROM..TO") from fault
    if not dots or chosen.since >= chosen.until:
        raise BadBaseline(f"{text!r}: the range must begin before it ends")
    return chosen


def _unix(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Baselines:
    """The baselines of all stamps. What is read from the store is kept for an hour."""

    def __init__(self, choice: BaselineChoice, store: Store, counting: Counting) -> None:
        self._choice = choice
        self._store = store
        self._counting = counting
        self._kept: dict[str, tuple[int, Mapping[int, Baseline]]] = {}

    def of(self, state: StampState, now: float) -> Mapping[int, Baseline]:
        """The baseline of each window."""
        stamp, hour = state.bundle.stamp, int(now // HOUR_S)
        kept = self._kept.get(stamp)
        if kept is None or kept[0] != hour:
            kept = self._kept[stamp] = (hour, self._read(state, hour))
        return kept[1]

    def forget(self, stamp: str) -> None:
        self._kept.pop(stamp, None)

    def _read(self, state: StampState, hour: int) -> Mapping[int, Baseline]:
        match self._choice.kind:
            case "last-week":
                ago = hour - WEEK_S // HOUR_S
                spans = {w: range(ago + 1 - w // HOUR_S, ago + 1) for w in WINDOWS}
                return {
                    window: Baseline("last-week", self._hours(state, hours))
                    for window, hours in spans.items()
                }
            case "pinned":
                first, last = (int(t // HOUR_S) for t in (self._choice.since, self._choice.until))
                found = Baseline("pinned", self._hours(state, range(first, last)))
            case "previous":
                found = Baseline("previous", self._previous(state))
            case _:
                found = state.learnt or bundle_baseline(state.layout)
        return dict.fromkeys(WINDOWS, found)

    def _hours(self, state: StampState, hours: Iterable[int]) -> dict[str, Ints]:
        total: dict[str, Ints] = {}
        for hour in hours:
            for name, counts in self._counting.past(state.bundle.stamp, state.layout, hour).items():
                total[name] = total[name] + counts if name in total else counts
        return total

    def _previous(self, state: StampState) -> dict[str, Ints]:
        """The latest rows of the stamp that served before, counted in this stamp's cells; features
        are matched by name."""
        row = self._store.connection.execute(
            "SELECT s.id FROM stamp s JOIN profile p ON p.stamp_id = s.id WHERE s.id <> ?"
            " AND s.hex <> ? ORDER BY p.hour DESC LIMIT 1",
            (self._store.names.stamp_id(state.bundle.stamp), state.bundle.stamp),
        ).fetchone()
        if row is None:
            return {}
        names = [
            name
            for (name,) in self._store.connection.execute(
                "SELECT name FROM feature WHERE stamp_id = ? ORDER BY position", (row[0],)
            )
        ]
        rows = self._rows(row[0], 4 * len(names))
        if not rows:
            return {}
        theirs = np.frombuffer(b"".join(r[0] for r in rows), dtype="<f4").reshape(len(rows), -1)
        ours = np.full((len(rows), len(state.reference.features)), np.nan, dtype=np.float32)
        for position, feature in enumerate(state.reference.features):
            if feature.name in names:
                ours[:, position] = theirs[:, names.index(feature.name)]
        coded = state.layout.code(ours, np.zeros(ours.shape, dtype=bool))
        tags = [state.slices.known(json.loads(r[1])) for r in rows]
        found = {"": state.layout.block().add(coded, slice(None))}
        for name in {name for row_tags in tags for name in row_tags}:
            inside = np.array([name in row_tags for row_tags in tags])
            found[name] = state.layout.block().add(coded, inside)
        return found

    def _rows(self, stamp_id: int, length: int) -> list[tuple[bytes, str]]:
        rows: list[tuple[bytes, str]] = []
        for day in reversed(self._store.days()):
            rows += self._store.connection.execute(
                f"SELECT features, slices FROM prediction_{day} WHERE stamp_id = ?"
                " AND length(features) = ? ORDER BY id DESC LIMIT ?",
                (stamp_id, length, PREVIOUS_ROWS - len(rows)),
            ).fetchall()
            if len(rows) >= PREVIOUS_ROWS:
                break
        return rows
