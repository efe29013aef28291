"""The order of severities, by which lists are sorted, and of harm, which decides the headline."""

from __future__ import annotations

RANK = {"critical": 0, "high": 1, "warning": 2, "unknown": 3, "info": 4, "ok": 5}

# The effect of a problem on the callers of the fleet, worst first. A short spike of latency is
# critical, and still does less harm than wrong answers.
WRONG, FEWER, LATE, DOUBTFUL = range(4)
HARM_OF = {  # by kind of alert
    "value": WRONG,
    "skew": WRONG,
    "readiness": FEWER,
    "replica": FEWER,
    "latency": LATE,
    "telemetry": LATE,  # every call is answered, so a replica that is gone or slow does more harm
}


def rank(severity: str) -> int:
    """0 is worst. An unknown severity counts as a warning, never as ok."""
    return RANK.get(severity, RANK["warning"])


def harm_of(kind: str) -> int:
    """The harm of an alert of this kind; for an unknown kind, DOUBTFUL."""
    return HARM_OF.get(kind, DOUBTFUL)
