"""Reads the rows of two windows, servers or stamps from the cache and counts them for
console.looks."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from console.cache.interned import InternedTexts
from console.cache.latency import LatencyRows, clocks_of
from console.cache.quantiles import first_above, quantiles
from console.looks import changes
from console.looks.changes import BadCounts, Group, Measured, Stages, WhatChanged
from console.looks.comparing import MOST_SHARES, Compared, Share, Side, compared
from console.state.dashboard import TimelineEvent
from console.state.query_types import ReadChanges, ReadComparison, SideWanted
from console.state.sanitize import short
from console.state.units import milliseconds
from server.telemetry.filters import equals, slice_name
from server.telemetry.outputs import STAGES

Mask = NDArray[np.bool_]
MOST_ROWS = 50_000  # predictions read for one question, newest first
MOVING = ("activate", "rollback", "canary", "start")  # deploys after which another stamp answers
LATE = "late or failed"
WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class SeenRow:
    """The fields of one prediction that the comparisons need."""

    at_s: float
    server: str
    stamp: str
    client: str
    label: str
    mix: str
    slices: Mapping[str, str]
    total_ms: float
    confidence: float
    failed: bool
    wrong: bool | None  # None: the true label is not known


class WindowSums:
    """The latency rows of a span; each row counts at the middle of its bucket, on the axis's
    clock."""

    def __init__(
        self,
        db: sqlite3.Connection,
        names: InternedTexts,
        span: tuple[float, float],
        shifts_s: Mapping[str, float],
    ) -> None:
        rows = LatencyRows()
        from_ms, to_ms = (int(moment * 1000) for moment in span)
        rows.refresh(db, from_ms, to_ms, clocks_of(names, shifts_s))
        used = rows.size
        self._names = names
        self.keys, self.numbers = rows.keys[:used], rows.numbers[:used]
        self.counts = rows.counts[:used].astype(np.int64)
        shift = np.array([shifts_s.get(names.text(int(n)), 0.0) for n in self.keys[:, 1]])
        self.middle_s = self.keys[:, 0] / 1000 + rows.width_s[:used] / 2 - shift

    def within(self, span: tuple[float, float]) -> Mask:
        return np.asarray((self.middle_s >= span[0]) & (self.middle_s < span[1]))

    def of(self, column: int, text: str) -> Mask:
        """The rows whose column has this text: column 1 is the server, 2 the stamp, 3 the mix."""
        return np.asarray(self.keys[:, column] == self._names.find(text))

    def texts(self, column: int) -> list[str]:
        return [self._names.text(int(number)) for number in np.unique(self.keys[:, column])]

    def bad(self, late_ms: float) -> NDArray[np.float64]:
        """Late plus failed requests of each latency row. The buckets hold failed requests too, so a
        request that is late and failed counts twice; the sum is capped at the number of
        requests."""
        late = self.counts[:, first_above(late_ms) :].sum(axis=1)
        return np.asarray(np.minimum(self.numbers[:, 0], self.numbers[:, 1] + late))

    def counted(self, mask: Mask, before: Mask, after: Mask, late_ms: float) -> BadCounts:
        bad, rows = self.bad(late_ms), self.numbers[:, 0]
        sums = [
            float(values[mask & part].sum()) for part in (before, after) for values in (rows, bad)
        ]
        return BadCounts(*sums)

    def p(self, mask: Mask, share: float) -> float:
        whole = self.counts[mask].sum(axis=0)[None, :]
        return float(quantiles(whole, (share,))[0][0]) if mask.any() else math.nan

    def stages(self, mask: Mask) -> dict[str, float]:
        """Mean milliseconds of a request in each stage."""
        requests = float(self.numbers[mask, 0].sum())
        sums = self.numbers[mask, 2:7].sum(axis=0)
        found = zip(STAGES, sums, strict=True)
        return {name: float(value) / requests for name, value in found} if requests else {}


def seen(
    db: sqlite3.Connection,
    names: InternedTexts,
    span: tuple[float, float],
    shifts_s: Mapping[str, float],
) -> Iterator[SeenRow]:
    """The predictions of the span (on the axis's clock), newest first."""
    most = max((abs(shift) for shift in shifts_s.values()), default=0.0)
    found = db.execute(
        "SELECT at_ms, server, stamp, client, label, mix, slices, total_ms, confidence, error,"
        " true_label FROM prediction WHERE at_ms >= ? AND at_ms < ? ORDER BY at_ms DESC LIMIT ?",
        (int((span[0] - most) * 1000), int((span[1] + most) * 1000) + 1, MOST_ROWS),
    )
    for at_ms, server, stamp, client, label, mix, slices, total, confidence, error, truth in found:
        address, true_label = names.text(server), names.text(truth)
        at_s = at_ms / 1000 - shifts_s.get(address, 0.0)
        if not span[0] <= at_s < span[1]:
            continue
        yield SeenRow(
            at_s,
            address,
            names.text(stamp),
            names.text(client),
            names.text(label),
            names.text(mix),
            json.loads(slices),
            math.nan if total is None else total,
            math.nan if confidence is None else confidence,
            bool(error),
            label != truth if true_label else None,
        )


# ---- what changed --------------------------------------------------------------------------------


def what_changed(db: sqlite3.Connection, names: InternedTexts, wanted: ReadChanges) -> WhatChanged:
    before, after = wanted.before, wanted.after
    span = (min(before[0], after[0]), max(before[1], after[1]))
    sums = WindowSums(db, names, span, wanted.shifts_s)
    then, now = sums.within(before), sums.within(after)
    late_ms = wanted.late_ms or sums.p(then, 0.95)
    known = [row for row in seen(db, names, span, wanted.shifts_s) if _side(row, wanted) >= 0]
    every = np.ones(len(sums.keys), bool)
    timed = Measured(
        LATE,
        sums.counted(every, then, now, late_ms),
        tuple(_of_sums(sums, wanted, then, now, late_ms)),
    )
    answered = _of_rows(known, wanted, late_ms)
    stages = Stages(
        sums.stages(then),
        sums.stages(now),
        float(sums.numbers[then, 0].sum()),
        float(sums.numbers[now, 0].sum()),
    )
    return changes.ranked(
        [timed, *answered], stages, before, after, _known(known, wanted, sums, late_ms)
    )


def _side(row: SeenRow, wanted: ReadChanges) -> int:
    """1: the row is in the window after, 0: in the one before, -1: in neither."""
    if wanted.after[0] <= row.at_s < wanted.after[1]:
        return 1
    return 0 if wanted.before[0] <= row.at_s < wanted.before[1] else -1


def _known(known: Sequence[SeenRow], wanted: ReadChanges, sums: WindowSums, late_ms: float) -> str:
    """A sentence on what the figures are based on."""
    rows = [sum(_side(row, wanted) == side for row in known) for side in (0, 1)]
    total = [sums.numbers[sums.within(s), 0].sum() for s in (wanted.before, wanted.after)]
    limit = "the SLO" if wanted.late_ms else "p95 before"
    return (
        f"late: above {milliseconds(late_ms)}, {limit}; rows known here: "
        f"{rows[0]:,} of {total[0]:,.0f} → {rows[1]:,} of {total[1]:,.0f}"
    )


def _of_sums(
    sums: WindowSums, wanted: ReadChanges, then: Mask, now: Mask, late_ms: float
) -> Iterator[Group]:
    """Candidates counted on all requests: servers, stamps, mixes, and events."""
    for what, column, panel in (
        ("server", 1, "fleet"),
        ("stamp", 2, "skew"),
        ("mix", 3, "latency"),
    ):
        texts = sums.texts(column)
        for text in texts if len(texts) > 1 else ():
            counts = sums.counted(sums.of(column, text), then, now, late_ms)
            if counts.rows_before or counts.rows_after:
                shown = wanted.names.get(text, short(text) or "(none)")
                yield Group(what, shown, counts, panel, text)
    for entry, what in _happened(wanted):
        mask = sums.of(1, entry.server) & (sums.middle_s >= entry.at_s)
        counts = sums.counted(mask, then, now, late_ms)
        yield Group(what, entry.text, counts, entry.panel, entry.server, entry.at_s)


def _happened(wanted: ReadChanges) -> Iterator[tuple[TimelineEvent, str]]:
    low, high = wanted.before[0], wanted.after[1]
    for entry in wanted.events:
        if not low <= entry.at_s < high:
            continue
        if entry.kind == "deploy" and entry.mark in MOVING:
            yield entry, "deploy"
        elif entry.mark == "death":
            yield entry, "death"
        elif entry.kind == "link":
            yield entry, "link"


def _of_rows(known: Sequence[SeenRow], wanted: ReadChanges, late_ms: float) -> list[Measured]:
    """Candidates counted on the rows in the cache: clients, slices and answers; among the labelled
    rows, wrong answers by server and by event too."""

    def late(row: SeenRow) -> bool:
        return row.failed or row.total_ms > late_ms

    happened = list(_happened(wanted))
    labelled = [row for row in known if row.wrong is not None]
    found = [_measured(LATE, "of the rows known here", known, wanted, late, ())]
    if labelled:
        note = "of the rows with a true label"
        found.append(
            _measured(WRONG, note, labelled, wanted, lambda row: bool(row.wrong), happened)
        )
    return found


Happened = Sequence[tuple[TimelineEvent, str]]


def _measured(
    measure: str,
    note: str,
    rows: Sequence[SeenRow],
    wanted: ReadChanges,
    bad: Callable[[SeenRow], bool],
    happened: Happened,
) -> Measured:
    whole_only = measure == WRONG
    whole, groups = changes.tallied(
        (_side(row, wanted) == 1, bad(row), _groups(row, whole_only, happened)) for row in rows
    )
    found = []
    for (what, key), counts in groups.items():
        if what == "event":
            entry, kind = happened[int(key)]
            place = (entry.panel, entry.server, entry.at_s)
            found.append(Group(kind, entry.text, counts, *place))
            continue
        found.append(Group(what, _shown(what, key, wanted), counts, *_leads(what, key)))
    return Measured(measure, whole, tuple(found), note)


def _groups(row: SeenRow, whole: bool, happened: Happened) -> list[tuple[str, str]]:
    """The groups the row is in. Servers and stamps are included only where no sum counts them
    already."""
    found = [("client", row.client), ("label", row.label)]
    found += [("slice", equals(slice_name(key), value)) for key, value in row.slices.items()]
    if whole:
        found += [("server", row.server), ("stamp", row.stamp), ("mix", row.mix)]
        for number, (entry, _) in enumerate(happened):
            if entry.server == row.server and row.at_s >= entry.at_s:
                found.append(("event", str(number)))
    return found


def _shown(what: str, key: str, wanted: ReadChanges) -> str:
    return wanted.names.get(key, key if what != "stamp" else short(key)) or "(none)"


def _leads(what: str, key: str) -> tuple[str, str]:
    """(panel, key) of the view that shows this group."""
    if what == "slice":
        return "predictions", key
    if what in ("client", "label", "mix") and key:
        return "predictions", equals(what, key)
    return ("fleet", key) if what == "server" else ("skew", "")


# ---- two sides -----------------------------------------------------------------------------------


def comparison(db: sqlite3.Connection, names: InternedTexts, wanted: ReadComparison) -> Compared:
    here, there = wanted.here, wanted.there
    span = (min(here.span[0], there.span[0]), max(here.span[1], there.span[1]))
    sums = WindowSums(db, names, span, wanted.shifts_s)
    rows = list(seen(db, names, span, wanted.shifts_s))
    found = [_one_side(sums, rows, side, wanted.late_ms) for side in (here, there)]
    return compared(wanted.kind, *found)


def _one_side(
    sums: WindowSums, rows: Sequence[SeenRow], wanted: SideWanted, late_ms: float
) -> Side:
    mask = sums.within(wanted.span)
    if wanted.server:
        mask &= sums.of(1, wanted.server)
    if wanted.stamp:
        mask &= sums.of(2, wanted.stamp)
    requests = float(sums.numbers[mask, 0].sum())
    times = {f"p{round(100 * share)}": sums.p(mask, share) for share in (0.5, 0.95, 0.99)}
    times |= {f"mean {name}": value for name, value in sums.stages(mask).items()}
    shares = {"failed": Share(float(sums.numbers[mask, 1].sum()), requests)}
    if late_ms:
        late = float(sums.bad(late_ms)[mask].sum())
        shares["late or failed"] = Share(late, requests)
    seconds = max(wanted.span[1] - wanted.span[0], 1.0)
    figures = {
        "requests": (requests, ""),
        "throughput": (requests / seconds, "/s"),
        "rows of a batch": (
            float(sums.numbers[mask, 8].sum()) / requests if requests else math.nan, ""
        ),
    }  # fmt: skip
    mine = [row for row in rows if _belongs(row, wanted)]
    figures |= _confidence(mine)
    return Side(
        wanted.name,
        requests,
        shares | _row_shares(mine),
        times,
        {**figures, **wanted.figures},
        wanted.facts,
    )


def _belongs(row: SeenRow, wanted: SideWanted) -> bool:
    within = wanted.span[0] <= row.at_s < wanted.span[1]
    server = not wanted.server or row.server == wanted.server
    return within and server and (not wanted.stamp or row.stamp == wanted.stamp)


def _confidence(rows: Sequence[SeenRow]) -> dict[str, tuple[float, str]]:
    known = [row.confidence for row in rows if row.confidence == row.confidence]
    return {"mean confidence": (sum(known) / len(known), "")} if known else {}


def _row_shares(rows: Sequence[SeenRow]) -> dict[str, Share]:
    """Shares among the rows in the cache: wrong ones, and the most frequent answers, slices and
    clients."""
    labelled = [row for row in rows if row.wrong is not None]
    found = {}
    if labelled:
        wrong = sum(bool(row.wrong) for row in labelled)
        found["wrong, of the labelled"] = Share(wrong, len(labelled))
    for what, values in (
        ("answer", [[row.label] for row in rows if row.label]),
        ("slice", [[equals(slice_name(k), v) for k, v in row.slices.items()] for row in rows]),
        ("client", [[row.client] for row in rows if row.client]),
    ):
        counts = Counter(one for some in values for one in some)
        for text, count in counts.most_common(MOST_SHARES):
            found[f"{what} {text}"] = Share(count, len(rows))
    return found
