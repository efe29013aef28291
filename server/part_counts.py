"""Counts, since start, parts in formats that are not decoded, parts that were cut, and warnings.
Every name comes from a replica's own lists, never from a caller."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from server.telemetry.rows import FormatCount
from server.types import Outcome, PartFigures, Work

FOREIGN = "UNSUPPORTED_"  # prefix of the reason for a part in a format that is not decoded
MEDIA = ("audio", "image")
MOST_NAMES = 128
OTHER = "_OTHER"


@dataclass(slots=True)
class PartCounts:
    """Counts every row that reached a replica."""

    _rows: Counter[str] = field(default_factory=Counter, init=False)  # by mix
    _foreign: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)  # format, mix
    _warnings: Counter[str] = field(default_factory=Counter, init=False)
    _cut: int = field(default=0, init=False)

    def add(self, work: Work, outcome: Outcome) -> None:
        mix, fault = outcome.mix or work.mix, outcome.fault
        self._rows[mix] += 1
        if fault is not None and fault.reason.startswith(FOREIGN):
            name = fault.reason.removeprefix(FOREIGN)
            known = len(self._foreign) < MOST_NAMES or (name, mix) in self._foreign
            self._foreign[name if known else OTHER, mix] += 1
        for part in outcome.parts_used:
            self._cut += part.cut
            if part.warning:
                self._warnings[part.warning] += 1

    def figures(self) -> PartFigures:
        formats = sorted({name for name, _ in self._foreign})
        counts = sorted(map(self._of, formats), key=lambda found: -found.rows)
        return PartFigures(tuple(counts), self._cut, dict(sorted(self._warnings.items())))

    def _of(self, name: str) -> FormatCount:
        """The count of one format. A refusal names only the row's mix, so the part can only be of a
        medium that all these rows have. If that is one medium, the share is of the rows with it,
        otherwise of all rows."""
        mixes = [set(mix.split("+")) for form, mix in self._foreign if form == name]
        shared = set.intersection(*mixes).intersection(MEDIA)
        medium = shared.pop() if len(shared) == 1 else ""
        of = sum(n for mix, n in self._rows.items() if not medium or medium in mix.split("+"))
        rows = sum(n for (form, _), n in self._foreign.items() if form == name)
        return FormatCount(name, rows, medium, of)
