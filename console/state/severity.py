"""How bad a word is. Everything that is ordered worst first is ordered by this."""

from __future__ import annotations

RANK = {"critical": 0, "high": 1, "warning": 2, "unknown": 3, "info": 4, "ok": 5}


def rank(severity: str) -> int:
    """0 is worst. A word this console does not know counts as a warning, never as fine."""
    return RANK.get(severity, RANK["warning"])
