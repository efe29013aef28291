"""The order of severities, by which lists are sorted, and of harm, for the headline."""

from __future__ import annotations

RANK = {"critical": 0, "high": 1, "warning": 2, "unknown": 3, "info": 4, "ok": 5}

# What a problem does to those who call the fleet, worst first. A short spike of latency is critical
# and still does less harm than answers that are wrong.
WRONG, FEWER, LATE, DOUBTFUL = range(4)
HARM_OF = {  # by kind of alert
    "value": WRONG,
    "skew": WRONG,
    "readiness": FEWER,
    "replica": FEWER,
    "latency": LATE,
    "telemetry": LATE,  # every call is answered: a replica that is gone or slow does more harm
}


def rank(severity: str) -> int:
    """0 is worst. An unknown severity counts as a warning, never as fine."""
    return RANK.get(severity, RANK["warning"])


def harm_of(kind: str) -> int:
    """What an alert of this kind is about; an unknown kind is in doubt."""
    return HARM_OF.get(kind, DOUBTFUL)
