"""Whether a row can be answered within its deadline, and when a refused one should come back.

The expected time of a row is that of the work before it, at the speed of the last second, plus its
own time, times a learned factor: FEW of the rows that are admitted take longer than that.
A promise that cannot be kept costs the pool the work of the row and the caller the answer, so a
row is refused early. Pure: no clock of its own.

Refused callers are asked to retry one after the other. RETURNING of the speed is reserved for them:
the rest is for new requests and for callers that were answered.
"""

from __future__ import annotations

from math import exp

from server.pool.service_time import ServiceTime

FEW = 0.01
LEAST_FACTOR, USUAL_FACTOR, MOST_FACTOR = 1.0, 1.25, 3.0
STEP = 0.02  # a row that took longer raises the factor by this
FORGET_S = 5.0  # the factor goes back to the usual one: few rows are admitted that could lower it
RETURNING = 0.5
WAY_BACK, MOST_WAY_BACK_S = 0.05, 0.05
SOONEST_S, LATEST_S = 0.05, 5.0
# A pool with nothing to do tries a row that is expected to take too long this often: what it
# expects was learned under load, and no answer would correct it.
TRIAL_S = 1.0


def way_back_s(left_s: float) -> float:
    """Kept free of what a deadline leaves: the answer has to reach the caller in time."""
    return min(WAY_BACK * left_s, MOST_WAY_BACK_S)


class Admission:
    def __init__(self) -> None:
        self.service_time = ServiceTime()
        self.factor = USUAL_FACTOR
        self._looked = 0.0
        self._booked = 0.0  # until when places are promised to those who were refused
        self._tried = 0.0

    def expected_s(self, mix: str, before_s: float, replicas: int) -> float | None:
        """Seconds from now to the answer of a row with `before_s` of work before it, without the
        factor; None while too little is known."""
        cost_s = self.service_time.cost_s(mix)
        if cost_s is None:
            return None
        return self.work_off_s(before_s, replicas) + self.work_off_s(cost_s, 1)

    def work_off_s(self, cost_s: float, replicas: int) -> float:
        return cost_s / (self.service_time.speed * max(replicas, 1))

    def took(self, expected_s: float, took_s: float, now: float) -> None:
        """Learn from a row that ended, also from one that was too late. The factor settles where
        FEW rows are above it (stochastic approximation of a quantile, Robbins and Monro 1951)."""
        kept = exp(-max(now - self._looked, 0.0) / FORGET_S)
        self.factor = USUAL_FACTOR + (self.factor - USUAL_FACTOR) * kept
        self._looked = now
        above = took_s > self.factor * expected_s
        step = STEP * (1 - FEW) if above else -STEP * FEW
        self.factor = min(max(self.factor + step, LEAST_FACTOR), MOST_FACTOR)

    def may_try(self, now: float) -> bool:
        """For a pool without any row: True now and then, and for a row whose time is not known."""
        if now - self._tried < TRIAL_S:
            return False
        self._tried = now
        return True

    def answered(self, now: float) -> None:
        self._tried = now

    def booked_s(self, now: float) -> float:
        """For one that is not promised a place: after those that are."""
        return min(max(self._booked - now, SOONEST_S), LATEST_S)

    def come_back_s(self, now: float, cost_s: float, until_room_s: float, replicas: int) -> float:
        """When a refused row should come back: after all that were refused before it."""
        first = now + max(until_room_s, 0.0)
        turn_s = self.work_off_s(cost_s, replicas) / RETURNING
        latest = now + LATEST_S
        self._booked = min(max(self._booked, first) + turn_s, latest)
        return max(self._booked - now, SOONEST_S)
