"""Which payloads are kept: a share of all, and more of those worth looking at.

The choice is a hash of the prediction's id against a probability, so that servers with the same
probability choose alike, and the probability is stored with the row, so that figures over kept
payloads can be weighted back (Horvitz and Thompson 1952). Those worth looking at share what
a budget leaves them: a flood of errors, or a day on which everything is doubtful, must not fill the
disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from server.telemetry.record import Record

LOW_MARGIN = 0.2  # between the first and the second label
UNCERTAIN_SHARE = 0.5
MOST_SHARE = 0.10  # of all payloads, or twice the plain share when that is more
RECENT_ROWS = 500
MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """`probability` is that of the row's stratum; 0 when nothing of it could be kept."""

    keep: bool
    probability: float
    stratum: str  # error | firing | uncertain | plain | off | opted-out | too-large


class Sampler:
    """`share` is that of plain rows, 0.01 to 0.10 as a rule; 0 keeps nothing at all."""

    def __init__(self, share: float, most_bytes: int = MOST_BYTES) -> None:
        self.share = share
        self.most_bytes = most_bytes
        self._budget = max(MOST_SHARE, 2 * share) - share
        self._wanted = 0.0  # beyond `share`, of a recent row on average

    def choose(self, record: Record, firing: bool = False) -> SampleChoice:
        """`firing`: an alert is open for one of the row's features or slices."""
        if self.share <= 0:
            return SampleChoice(False, 0.0, "off")
        if not record.payload:
            return SampleChoice(False, 0.0, "opted-out")
        if len(record.payload) > self.most_bytes:
            return SampleChoice(False, 0.0, "too-large")
        stratum, wanted = self._stratum(record, firing)
        more = wanted - self.share
        if self._wanted > self._budget:
            wanted = self.share + more * self._budget / self._wanted
        self._wanted += (more - self._wanted) / RECENT_ROWS
        return SampleChoice(uniform(record.prediction_id) < wanted, wanted, stratum)

    def _stratum(self, record: Record, firing: bool) -> tuple[str, float]:
        """With the probability it would have without a budget."""
        if record.error:
            return "error", 1.0
        more = max(UNCERTAIN_SHARE, self.share)
        if firing:
            return "firing", more
        if record.task == "classify" and record.margin < LOW_MARGIN:
            return "uncertain", more
        return "plain", self.share


def uniform(prediction_id: str) -> float:
    """A number in [0, 1) that only the id decides."""
    digest = hashlib.blake2b(prediction_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
