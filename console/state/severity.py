"""The order of severities: everything sorted worst first is sorted by this."""

from __future__ import annotations

RANK = {"critical": 0, "high": 1, "warning": 2, "unknown": 3, "info": 4, "ok": 5}


def rank(severity: str) -> int:
    """0 is worst. An unknown severity counts as a warning, never as fine."""
    return RANK.get(severity, RANK["warning"])
