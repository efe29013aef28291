"""Submits one row to one pool without the engine: not counted, not recorded."""

from __future__ import annotations

from server.pool.pool import Pool
from server.telemetry.outputs import Timing
from server.types import NO_REPLICA, Outcome, Work

# Faults of a full or ending pool, or of a caller that left: they are not evidence about the row.
PASSING = ("CANCELLED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")


def is_inconclusive(outcome: Outcome) -> bool:
    return outcome.fault is not None and outcome.fault.code in PASSING


async def submit(pool: Pool, work: Work) -> Outcome:
    """Never raises for a row's fault. Cancelling drops the row where it is."""
    fault = pool.refusal(work)
    if fault is not None:
        return Outcome(work.id, None, fault, Timing(), 0, "", NO_REPLICA)
    return await pool.answer(work)
