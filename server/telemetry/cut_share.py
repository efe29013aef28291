"""The share of rows whose answer is based on only a part of the input (longer texts, animations,
sounds without an end), as one structural alert for each stamp.

It is counted from the answers (`parts_cut`), so a bundle needs no reference for it: a row of the
reference counts as cut only if the reference itself knows of a truncated text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from server.telemetry.drift.profile import Reference
from server.telemetry.drift.structural import ENOUGH_ROWS, share_change
from server.telemetry.drift.windows import HOUR_S
from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.record import Record

KNOWN = "text.truncated"  # the feature of the reference that is 1 for a text that was cut
SLOT_S = 10.0
HOLD_S = 3600.0
WHAT = "have parts that were cut or have a warning"


@dataclass(slots=True)
class CutShare:
    """The rows of the last hour by stamp; the memory is limited to 361 slots for each stamp."""

    _slots: dict[str, deque[tuple[float, int, int]]] = field(default_factory=dict, init=False)

    def add(self, records: Iterable[Record], now: float) -> None:
        """Count answered rows only: a refused row was not cut."""
        begin = now // SLOT_S * SLOT_S
        for record in records:
            if record.error:
                continue
            slots = self._slots.setdefault(record.stamp, deque())
            if slots and slots[-1][0] >= begin:
                at, rows, cut = slots.pop()
            else:
                at, rows, cut = begin, 0, 0
            slots.append((at, rows + 1, cut + (record.parts_cut > 0)))

    def finding(self, stamp: str, reference: Reference, deff: float, now: float) -> Finding:
        """`deff` is the design effect of the traffic. The finding is None while there is no
        reference."""
        rows, cut = self._last_hour(stamp, now)
        before, of = cut_in(reference)
        key = f"structural/{stamp[:12]}/cut"
        if rows < ENOUGH_ROWS or not of:
            return Finding(key, "structural", "", "", stamp, hold_s=HOLD_S)
        change = share_change(WHAT, cut, rows, before, of, deff)
        severity = SEVERITIES[change.level]
        return Finding(key, "structural", severity, change.message, stamp, hold_s=HOLD_S)

    def _last_hour(self, stamp: str, now: float) -> tuple[int, int]:
        slots = self._slots.get(stamp)
        while slots and slots[0][0] < now - HOUR_S:
            slots.popleft()
        if not slots:
            self._slots.pop(stamp, None)
            return 0, 0
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)


def cut_in(reference: Reference) -> tuple[int, int]:
    """(rows of the reference known to be cut, its rows)."""
    for feature in reference.features:
        if feature.name == KNOWN and len(feature.edges):
            whole, cut = np.searchsorted(feature.edges, (0.0, 1.0), side="right").tolist()
            return (int(feature.counts[cut]) if cut != whole else 0), reference.rows
    return 0, reference.rows
