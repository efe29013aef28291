"""Decides whether a row can be answered within its deadline, and when a refused row should come
back.

The expected time of a row is the work before it, at the speed of the last second, plus its own
time, times a learned factor. The share FEW of the admitted rows takes longer than that. A promise
that is not kept costs the pool the work and the caller the answer, so a row is refused early. Pure:
it has no clock of its own.

Refused callers are asked to retry one after the other, in a burst at the share RETURNING of the
speed; the rest is left for new requests and for callers that were answered. In a lasting overload
those ask again at once and take nearly everything, and each refused caller that comes back meets a
full queue and costs another refusal. So the share is smaller then, LASTING.
"""

from __future__ import annotations

from math import exp

from server.pool.service_time import ServiceTime

FEW = 0.01
LEAST_FACTOR, USUAL_FACTOR, MOST_FACTOR = 1.0, 1.25, 3.0
STEP = 0.02  # step of the factor after a row that took longer
# The factor returns to its default within this time, as few rows are admitted that could lower it.
FORGET_S = 5.0
RETURNING, LASTING = 0.5, 0.25
# An overload lasts when rows have been refused for BURST_S without a pause of PAUSE_S.
BURST_S, PAUSE_S = 1.0, 1.0
WAY_BACK, MOST_WAY_BACK_S = 0.05, 0.05
SOONEST_S, LATEST_S = 0.05, 5.0
# An idle pool tries a row that is expected to take too long this often: the expectation was learned
# under load, and without an answer it would never be corrected.
TRIAL_S = 1.0


def way_back_s(left_s: float) -> float:
    """The part of the time left that is reserved for the answer's way to the caller."""
    return min(WAY_BACK * left_s, MOST_WAY_BACK_S)


class Admission:
    def __init__(self) -> None:
        self.service_time = ServiceTime()
        self.factor = USUAL_FACTOR
        self._looked = 0.0
        self._booked = 0.0  # until when places are promised to refused callers
        self._overloaded = self._refused = -PAUSE_S  # first and last refusal of this overload
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
        """Learn from a row that ended, even too late. The factor settles where the share FEW of the
        rows is above it (stochastic approximation of a quantile, Robbins and Monro 1951)."""
        kept = exp(-max(now - self._looked, 0.0) / FORGET_S)
        self.factor = USUAL_FACTOR + (self.factor - USUAL_FACTOR) * kept
        self._looked = now
        above = took_s > self.factor * expected_s
        step = STEP * (1 - FEW) if above else -STEP * FEW
        self.factor = min(max(self.factor + step, LEAST_FACTOR), MOST_FACTOR)

    def may_try(self, now: float) -> bool:
        """Whether an idle pool may try a row whose time is unknown or expected to be too long: True
        from time to time."""
        if now - self._tried < TRIAL_S:
            return False
        self._tried = now
        return True

    def answered(self, now: float) -> None:
        self._tried = now

    def booked_s(self, now: float) -> float:
        """Seconds until the promised places are used, for a caller without such a promise."""
        return min(max(self._booked - now, SOONEST_S), LATEST_S)

    def come_back_s(self, now: float, cost_s: float, until_room_s: float, replicas: int) -> float:
        """Seconds after which a refused row should come back: after all rows refused before it."""
        if now - self._refused >= PAUSE_S:
            self._overloaded = now
        self._refused = now
        share = RETURNING if now - self._overloaded < BURST_S else LASTING
        first = now + max(until_room_s, 0.0)
        turn_s = self.work_off_s(cost_s, replicas) / share
        latest = now + LATEST_S
        self._booked = min(max(self._booked, first) + turn_s, latest)
        return max(self._booked - now, SOONEST_S)
