"""What changed between two windows, and how much of the change each candidate explains.

Rows are bad or good: late or failed, or wrong. The rise is the bad share after minus that before. A
group of rows (a client, a slice, a server since its deploy) contributes a part: its bad rows after
divided by all rows after, minus its bad rows before divided by all rows before. If groups divide
all rows between them, their parts add up to the rise. `explains` is the group's part of the rise
minus its share of the rows before: 0 for a group that is as bad as its size makes it, 1 for one
that was not there and brought all of it. The parts of the mean time a stage took are ranked by the
same measure. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from console.state.units import Z95, milliseconds, percent, percent_of

LEAST = 0.05  # entries that explain less, and whose share moves less, are not listed
NEW_LEAST = 20  # a client or a slice is called new from this many rows after
CHANCE_Z = Z95  # below this z, the difference of two shares may be chance
MOST = 40


@dataclass(frozen=True, slots=True)
class BadCounts:
    """Rows, and the bad ones among them, in the window before and in the window after."""

    rows_before: float = 0.0
    bad_before: float = 0.0
    rows_after: float = 0.0
    bad_after: float = 0.0

    @property
    def before(self) -> float:
        """Bad share before; NaN without rows."""
        return _share(self.bad_before, self.rows_before)

    @property
    def after(self) -> float:
        return _share(self.bad_after, self.rows_after)

    @property
    def rise(self) -> float:
        return self.after - self.before

    @property
    def z(self) -> float:
        """The z value of the difference of both shares, pooled; 0 where it cannot be computed."""
        rows = self.rows_before + self.rows_after
        if not self.rows_before or not self.rows_after:
            return 0.0
        pooled = (self.bad_before + self.bad_after) / rows
        spread = math.sqrt(pooled * (1 - pooled) * (1 / self.rows_before + 1 / self.rows_after))
        return self.rise / spread if spread else 0.0

    @property
    def rose(self) -> bool:
        """Whether the bad share rose by more than chance explains."""
        return self.z > CHANCE_Z


@dataclass(frozen=True, slots=True)
class Group:
    """A candidate. `what` is one of KINDS, `of` its display name. `panel`, `key` and `at_s` give
    the view that shows it."""

    what: str
    of: str
    counts: BadCounts
    panel: str = ""
    key: str = ""
    at_s: float = math.nan


KINDS = {
    "deploy": "deploy",
    "death": "replica died",
    "link": "connection",
    "client": "client",
    "slice": "slice",
    "server": "server",
    "stamp": "stamp",
    "mix": "mix",
    "label": "answer",
    "stage": "stage",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One line of the answer. `explains` is NaN when no rise needs an explanation. The shares are
    shares of all rows; for a stage, of the time."""

    what: str
    of: str
    measure: str  # "late or failed" | "wrong" | "time"
    explains: float
    share_before: float
    share_after: float
    text: str
    panel: str = ""
    key: str = ""
    at_s: float = math.nan
    share: str = ""  # "17 % → 25 %" of the rows or of the time; "new: 5 %"
    bad: str = ""  # "0.1 % → 9 %" of its rows late, failed or wrong; for a stage, its time
    rows: str = ""  # "704 → 708"

    @property
    def weight(self) -> float:
        """The sort key of the list."""
        if self.explains == self.explains:
            return self.explains
        return -1.0 + min(abs(self.share_after - self.share_before), 0.99)


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of bad rows over all known rows, with every candidate."""

    measure: str
    whole: BadCounts
    groups: tuple[Group, ...] = ()
    note: str = "of all requests"  # what was counted


@dataclass(frozen=True, slots=True)
class Stages:
    """Mean milliseconds of a request by stage before and after, and the number of requests."""

    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    requests_before: float = 0.0
    requests_after: float = 0.0


@dataclass(frozen=True, slots=True)
class WhatChanged:
    """The answer for two windows (unix seconds). `sentences` has one sentence for each measure, and
    one on what the figures are based on."""

    before: tuple[float, float]
    after: tuple[float, float]
    findings: tuple[Explained, ...] = ()
    sentences: tuple[str, ...] = ()


def explains(counts: BadCounts, whole: BadCounts) -> float:
    """The group's part of the rise minus its share of the rows before; NaN if there is no rise."""
    if not whole.rose:
        return math.nan
    gave = _part(counts.bad_after, whole.rows_after) - _part(counts.bad_before, whole.rows_before)
    return gave / whole.rise - _part(counts.rows_before, whole.rows_before)


def ranked(
    measured: Sequence[Measured],
    stages: Stages,
    before: tuple[float, float],
    after: tuple[float, float],
    known: str = "",
) -> WhatChanged:
    """Everything that explains or moved enough to be worth a look, the most first."""
    found: dict[tuple[str, str], Explained] = {}
    for one in measured:
        for group in one.groups:
            _keep(found, _finding(one, group))
    for finding in _stages(stages):
        _keep(found, finding)
    lines = sorted(found.values(), key=lambda line: (-line.weight, line.what, line.of))
    sentences = [_sentence(one) for one in measured] + _time_sentence(stages)
    return WhatChanged(
        before, after, tuple(lines[:MOST]), (*sentences, *([known] if known else ()))
    )


def _keep(found: dict[tuple[str, str], Explained], one: Explained | None) -> None:
    """Keep the measure that this candidate explains most of."""
    if one is None:
        return
    held = found.get((one.what, one.of))
    if held is None or one.weight > held.weight:
        found[one.what, one.of] = one


def _finding(of: Measured, group: Group) -> Explained | None:
    counts, whole = group.counts, of.whole
    value = explains(counts, whole)
    before = _part(counts.rows_before, whole.rows_before)
    after = _part(counts.rows_after, whole.rows_after)
    worth = value == value and value >= LEAST
    moved = group.what in ("client", "slice", "label", "stamp", "mix", "server") and (
        abs(after - before) >= LEAST
    )
    happened = group.what in ("deploy", "death", "link")
    if not (worth or moved or happened):
        return None
    share = _share_text(group, before, after)
    bad = f"{percent(counts.before)} → {percent(counts.after)}"
    rows = f"{counts.rows_before:,.0f} → {counts.rows_after:,.0f}"
    text = f"{share} of the rows; {of.measure} {_both(counts)} (n {rows})"
    if not counts.rows_after and not counts.rows_before:
        share, bad, rows, text = "", "", "0", "no rows of it in either window"
    place = (group.panel, group.key, group.at_s)
    return Explained(
        group.what, group.of, of.measure, value, before, after, text, *place, share, bad, rows
    )


def _both(counts: BadCounts) -> str:
    """The bad shares before and after, each with its 95 % interval."""
    before = percent_of(counts.before, counts.rows_before)
    return f"{before} → {percent_of(counts.after, counts.rows_after)}"


def _share_text(group: Group, before: float, after: float) -> str:
    """`17 % → 25 %`, or a note that the group is new or gone."""
    counts = group.counts
    named = group.what in ("client", "slice", "stamp", "server")
    if named and not counts.rows_before and counts.rows_after >= NEW_LEAST:
        return f"new: {percent(after)}"
    if named and not counts.rows_after:
        return f"gone: was {percent(before)}"
    return f"{percent(before)} → {percent(after)}"


def _stages(stages: Stages) -> list[Explained]:
    """A stage's part of the growth of the mean time minus its share of that time before."""
    total_before = sum(stages.before.values())
    total_after = sum(stages.after.values())
    grew = total_after - total_before
    found = []
    for name in stages.after:
        was, now = stages.before.get(name, 0.0), stages.after[name]
        if not stages.requests_before or grew <= max(0.05 * total_before, 1e-9):
            continue
        value = (now - was) / grew - _part(was, total_before)
        if value < LEAST:
            continue
        moved = f"{milliseconds(was)} → {milliseconds(now)}"
        shares = (_part(was, total_before), _part(now, total_after))
        found.append(
            Explained(
                *("stage", name, "time", value, *shares),
                f"{moved} of a request on average",
                "latency",
                share=" → ".join(map(percent, shares)),
                bad=moved,
                rows=f"{stages.requests_before:,.0f} → {stages.requests_after:,.0f}",
            )
        )
    return found


def _sentence(one: Measured) -> str:
    whole = one.whole
    n = f"n {whole.rows_before:,.0f} → {whole.rows_after:,.0f}"
    if not whole.rows_before or not whole.rows_after:
        which = "before" if not whole.rows_before else "in the window"
        return f"{one.measure} {one.note}: no rows {which}, nothing to compare ({n})"
    text = f"{one.measure} {one.note}: {_both(whole)} ({n})"
    if whole.rose:
        return text
    return f"{text}: {'within chance' if abs(whole.z) <= CHANCE_Z else 'it fell'}"


def _time_sentence(stages: Stages) -> list[str]:
    if not stages.requests_before or not stages.requests_after:
        return []
    before, after = sum(stages.before.values()), sum(stages.after.values())
    return [f"mean time: {milliseconds(before)} → {milliseconds(after)}"]


def windows(
    brush: tuple[float, float] | None, span: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(before, after): the brush, and the same length before it. Without a brush, the last quarter
    of the window against the rest."""
    if brush is not None:
        low, high = brush
        return (low - (high - low), low), (low, high)
    low, high = span
    cut = high - (high - low) / 4
    return (low, cut), (cut, high)


Key = TypeVar("Key", bound=Hashable)


def tallied(
    rows: Iterable[tuple[bool, bool, Sequence[Key]]],
) -> tuple[BadCounts, dict[Key, BadCounts]]:
    """Counts over all rows and over each group. A row is (whether it is after, whether it is bad,
    its groups)."""
    sums: dict[Key, list[float]] = {}
    whole = [0.0, 0.0, 0.0, 0.0]
    for after, bad, groups in rows:
        place = 2 if after else 0
        for one in (whole, *(sums.setdefault(name, [0.0, 0.0, 0.0, 0.0]) for name in groups)):
            one[place] += 1
            one[place + 1] += bad
    return BadCounts(*whole), {name: BadCounts(*values) for name, values in sums.items()}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _part(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
