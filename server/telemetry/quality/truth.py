"""The current truth about a prediction, derived from all feedback about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Truth:
    """`observed_at` is when the label was observed, if there is one."""

    label: str = ""
    value: float | None = None
    outcome: str = ""
    source: str = ""
    observed_at: float = 0.0
    received_at: float = 0.0

    @property
    def values(self) -> tuple[str, float | None, str]:
        return self.label, self.value, self.outcome

    def has(self, label: str, value: float | None, outcome: str) -> bool:
        """Whether all of this is already known."""
        return (
            label in ("", self.label)
            and value in (None, self.value)
            and outcome in ("", self.outcome)
        )

    def taken_back_by(self, now: Truth) -> bool:
        """Whether `now` replaces earlier feedback; adding a missing part is not a correction."""
        parts = zip(self.values, now.values, strict=True)
        return any(was not in ("", None) and was != holds for was, holds in parts)


def truth_of(rows: Iterable[tuple[str, float | None, str, str, float, float]]) -> Truth | None:
    """The latest value of each part; `rows` are in the order of observation."""
    holds: Truth | None = None
    for label, value, outcome, source, observed_at, received_at in rows:
        before = holds or Truth()
        dated = (observed_at, received_at)
        if before.label and label in ("", before.label):
            dated = (before.observed_at, before.received_at)  # known since the earlier one
        holds = Truth(
            label or before.label,
            before.value if value is None else value,
            outcome or before.outcome,
            source or before.source,
            *dated,
        )
    return holds
