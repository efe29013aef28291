"""A row of a server's deploy journal: its mark on the time axis, its severity, its sentence. Pure.
An action that this console does not know is shown under the server's name for it."""

from __future__ import annotations

import re

from server.telemetry.rows import DeployRow

SWITCHES = ("activate", "rollback", "canary")  # traffic moves: drawn through the plots as well
# Prefixes of words in an action, the decisive one first: "canary abort" is an end, not a canary.
_MEANINGS = (
    ("death", ("replica",)),
    ("refuse", ("refus", "reject", "fail", "abort", "deni")),
    ("rollback", ("rollback", "rolled", "roll", "revert")),
    ("activate", ("activat", "promot", "switch")),
    ("canary", ("canary", "canaries")),
    ("rehearse", ("rehears", "shadow")),
    ("load", ("load", "prepar")),
    ("start", ("start",)),
    ("stop", ("stop", "end", "drain")),
)


def mark_of(action: str) -> str:
    """One of the marks in _MEANINGS, or `other` for an action it does not know."""
    text = re.findall(r"[a-z]+", action.lower())
    for mark, beginnings in _MEANINGS:
        if any(word.startswith(beginnings) for word in text):
            return mark
    return "other"


def severity_of(action: str) -> str:
    """A refusal, a rollback or the death of a replica is a warning; everything else is
    information."""
    return "warning" if mark_of(action) in ("refuse", "rollback", "death") else "info"


def sentence(name: str, row: DeployRow) -> str:
    """`gpu-01 rollback 7f3a91c2e0b4 from 0ec7be93c298 by kim: p99 doubled`."""
    if mark_of(row.action) == "death" and row.detail:
        return f"{name} {row.detail}"
    stamp = row.stamp[:12] or row.stamp_name
    by = f" by {row.actor}" if row.actor else ""
    if row.from_stamp and mark_of(row.action) in ("activate", "rollback"):
        by = f" from {row.from_stamp[:12]}{by}"
    detail = f": {row.detail}" if row.detail else ""
    return " ".join(f"{name} {row.action or 'deploy'} {stamp}".split()) + by + detail


def tip(name: str, row: DeployRow, at_text: str) -> str:
    """Everything in the row, one line for each field."""
    lines = [f"{at_text} UTC", f"{name}: {row.action or 'deploy'}"]
    if row.stamp or row.stamp_name:
        lines.append(f"stamp {row.stamp_name or row.stamp[:12]}")
    if row.from_stamp:
        lines.append(f"previous stamp {row.from_stamp[:12]}")
    if row.actor:
        lines.append(f"by {row.actor}")
    if row.detail:
        lines.append(row.detail)
    return "\n".join(line[:300] for line in lines)
