"""Chooses the payloads to keep: a share of all, and more of those that are worth inspection.

The choice compares a hash of the prediction's id with a probability, so that servers with the same
probability choose alike. The probability is stored with the row, so that figures over kept payloads
can be reweighted (Horvitz and Thompson 1952). The payloads worth inspection share a budget: a flood
of errors, or a day of doubtful answers, must not fill the disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from server.telemetry.record import Record

LOW_MARGIN = 0.2  # between the best and the second-best label
UNCERTAIN_SHARE = 0.5
MOST_SHARE = 0.10  # of all payloads, or twice `share` if that is more
RECENT_ROWS = 500
MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """`probability` is that of the row's stratum; 0 if nothing in it could be kept."""

    keep: bool
    probability: float
    stratum: str  # error | firing | uncertain | plain | off | opted-out | too-large


class Sampler:
    """`share` is the sampling probability of plain rows, usually 0.01 to 0.10; with 0 nothing is
    kept."""

    def __init__(self, share: float, most_bytes: int = MOST_BYTES) -> None:
        self.share = share
        self.most_bytes = most_bytes
        self._budget = max(MOST_SHARE, 2 * share) - share
        self._wanted = 0.0  # the mean probability wanted beyond `share`, over recent rows

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
        """The stratum, and its probability without the budget."""
        if record.error:
            return "error", 1.0
        more = max(UNCERTAIN_SHARE, self.share)
        if firing:
            return "firing", more
        if record.task == "classify" and record.margin < LOW_MARGIN:
            return "uncertain", more
        return "plain", self.share


def uniform(prediction_id: str) -> float:
    """A number in [0, 1) that depends only on the id."""
    digest = hashlib.blake2b(prediction_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
