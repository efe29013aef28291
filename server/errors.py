"""What can go wrong in the front itself, and every fault the front can give a row.

ServerError
├── PoolRefused   the pool cannot serve: `check` is memory, device, start, or a bundle check
└── DeployRefused a bundle is not put into service: `check` is load, probe, speed, activate, ...

A row's own error is a Fault, never an exception; request/status.py maps its code to a status.
"""

from __future__ import annotations

from server.types import Fault


class ServerError(Exception):
    pass


class _CheckFailed(ServerError):
    """`check` names the refusing check, `message` has the evidence."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
        self.message = message


class PoolRefused(_CheckFailed):
    """`check` as in pipelines.errors.BundleRefused, or "memory", "device", "start"."""


class DeployRefused(_CheckFailed):
    """The bundle is not put into service; the previous one continues to serve."""


QUEUE_FULL, UNREACHABLE = "QUEUE_FULL", "DEADLINE_UNREACHABLE"
OVERLOAD = frozenset((QUEUE_FULL, UNREACHABLE))  # reasons that mean a temporary overload


def queue_full(rows: int, retry_after_s: float) -> Fault:
    message = f"the queue is full ({rows} rows); come back in {retry_after_s:.2f} s"
    return Fault("RESOURCE_EXHAUSTED", "", QUEUE_FULL, message, retry_after_s)


def deadline_passed() -> Fault:
    return Fault("DEADLINE_EXCEEDED", "", "DEADLINE_PASSED", "the deadline has passed")


def deadline_unreachable(left_s: float, expected_s: float, retry_after_s: float) -> Fault:
    """The refusal of a row before its deadline, so that its caller still has time for an
    alternative."""
    message = (
        f"{left_s:.3f} s are left and such a request now takes about {expected_s:.3f} s; "
        f"come back in {retry_after_s:.2f} s"
    )
    return Fault("RESOURCE_EXHAUSTED", "", UNREACHABLE, message, retry_after_s)


def expired_waiting(waited_s: float) -> Fault:
    message = f"the deadline passed after {waited_s:.3f} s in the queue"
    return Fault("DEADLINE_EXCEEDED", "", "EXPIRED_IN_QUEUE", message)


def expired_running() -> Fault:
    message = "the deadline passed while a replica had the row"
    return Fault("DEADLINE_EXCEEDED", "", "EXPIRED_IN_REPLICA", message)


def not_started(reason: str) -> Fault:
    return Fault("UNAVAILABLE", "", "WARMING", f"no replica serves yet: {reason}", 1.0)


def withheld(reason: str) -> Fault:
    return Fault("UNAVAILABLE", "", "NOT_EXPECTED_STAMP", reason, 1.0)


def draining() -> Fault:
    return Fault("UNAVAILABLE", "", "DRAINING", "this server is shutting down", 1.0)


def stamp_differs(serving: str) -> Fault:
    message = f"this server serves stamp {serving}"
    return Fault("FAILED_PRECONDITION", "expected_stamps", "STAMP_MISMATCH", message)


def stream_lost(cause: str) -> Fault:
    message = f"the replica {cause} after part of the text was sent; ask again"
    return Fault("INTERNAL", "", "REPLICA_LOST", message)


def quarantined(deaths: int, cause: str) -> Fault:
    message = f"{deaths} replicas died with this request, the last alone with it ({cause})"
    return Fault("INTERNAL", "", "QUARANTINED", message)


def quarantined_content() -> Fault:
    message = "a request with this content has killed two replicas; it is not tried again for now"
    return Fault("INTERNAL", "", "QUARANTINED", message)
