"""Compares two servers, two stamps or two windows. The largest certain differences come first, then
those that may be chance, then what is equal. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from console.looks.changes import CHANCE_Z, BadCounts
from console.state.units import UNKNOWN, milliseconds, percent_of, quantity, thousands

KINDS = ("servers", "stamps", "windows")
LEAST_APART = 0.005  # numbers that differ by less count as equal
LEAST_ROWS = 20  # with fewer rows on a side, its shares are not compared
MOST_SHARES = 12  # labels and slice values shown of a side


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of` rows."""

    count: float
    of: float

    @property
    def value(self) -> float:
        return self.count / self.of if self.of else math.nan


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of one side. `times` are in milliseconds, `figures` numbers with their unit,
    `facts` texts that are either equal or not."""

    name: str
    requests: float = 0.0
    shares: Mapping[str, Share] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """`size` is 0 for equal values and grows with the difference, up to 1. `sure`: chance alone
    makes such a difference less than once in twenty, or it is a fact."""

    name: str
    here: str
    there: str
    difference: str
    size: float
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Compared:
    kind: str  # one of KINDS
    here: str
    there: str
    lines: tuple[ComparedLine, ...] = ()
    note: str = ""


def compared(kind: str, here: Side, there: Side) -> Compared:
    """Sure differences by size, then those that may be chance, then what is equal."""
    # Of a server that never answered nothing is known, which is no difference.
    unknown = ""
    if kind == "servers" and bool(here.facts) != bool(there.facts):
        unknown = here.name if there.facts else there.name
    facts = () if unknown else _names(here.facts, there.facts)
    lines = [
        *(_fact(name, here.facts, there.facts) for name in facts),
        *(_time(name, here.times, there.times) for name in _names(here.times, there.times)),
        *(_figure(name, here.figures, there.figures)
          for name in _names(here.figures, there.figures)),
        *(_shared(name, here.shares, there.shares) for name in _names(here.shares, there.shares)),
    ]  # fmt: skip
    lines.sort(key=lambda line: (line.size == 0, not line.sure, -line.size, line.name))
    empty = [side.name for side in (here, there) if not side.requests]
    note = f"no requests of {' and '.join(empty)} in this window" if empty else ""
    if unknown:
        note = f"nothing is known of {unknown}: no answer yet"
    return Compared(kind, here.name, there.name, tuple(lines), note)


def _names(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys((*here, *there)))


def _fact(name: str, here: Mapping[str, str], there: Mapping[str, str]) -> ComparedLine:
    a, b = here.get(name, UNKNOWN), there.get(name, UNKNOWN)
    return ComparedLine(name, a, b, "" if a == b else "differs", 0.0 if a == b else 1.0)


def _time(name: str, here: Mapping[str, float], there: Mapping[str, float]) -> ComparedLine:
    a, b = here.get(name, math.nan), there.get(name, math.nan)
    return ComparedLine(name, milliseconds(a), milliseconds(b), _ratio(a, b), _apart(a, b))


def _figure(
    name: str, here: Mapping[str, tuple[float, str]], there: Mapping[str, tuple[float, str]]
) -> ComparedLine:
    (a, unit), (b, unit_there) = here.get(name, (math.nan, "")), there.get(name, (math.nan, ""))
    here_text, there_text = (quantity(value, unit or unit_there) for value in (a, b))
    return ComparedLine(name, here_text, there_text, _ratio(a, b), _apart(a, b))


def _shared(name: str, here: Mapping[str, Share], there: Mapping[str, Share]) -> ComparedLine:
    """Compare two shares. A share that one side lacks counts as none of its rows."""
    totals = [max((s.of for s in side.values()), default=0.0) for side in (here, there)]
    a, b = here.get(name, Share(0, totals[0])), there.get(name, Share(0, totals[1]))
    if min(a.of, b.of) < LEAST_ROWS:
        return ComparedLine(name, _with_n(a), _with_n(b), "too few rows", 0.0, sure=False)
    both = BadCounts(a.of, a.count, b.of, b.count)
    gap, sure = both.rise, abs(both.z) > CHANCE_Z
    text = f"{100 * gap:+.1f} points" + ("" if sure else " (chance)") if gap else ""
    return ComparedLine(name, _with_n(a), _with_n(b), text, _apart(a.value, b.value), sure)


def _with_n(share: Share) -> str:
    return f"{percent_of(share.value, share.of)} n {thousands(round(share.of))}"


def _ratio(a: float, b: float) -> str:
    """`x 2.10`: how many times the other side's value; empty where one is not known."""
    if _apart(a, b) == 0:
        return ""
    return f"x {b / a:.2f}" if a else "from none"


def _apart(a: float, b: float) -> float:
    """|difference| divided by the larger value: 0 means equal, 1 means one of them is 0."""
    if a != a or b != b:
        return 0.0
    largest = max(abs(a), abs(b))
    apart = abs(b - a) / largest if largest else 0.0
    return apart if apart >= LEAST_APART else 0.0
