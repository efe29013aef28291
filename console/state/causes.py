"""What happened to a server shortly before a problem with it: a deploy, the death of a replica, a
change of preprocessing. Such a cause makes one message, with its symptoms under it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from console.state.dashboard import SkewLine
from console.state.deploys import mark_of
from console.state.domain import STAMP_PARTS, ServerRecord
from console.state.units import duration
from server.telemetry.rows import DeployRow

WITHIN_S = 600.0  # longest time from a cause to the first sign of a symptom
_CHANGES = {
    "activate": "it activated",
    "rollback": "it went back to",
    "canary": "its canary began with",
    "start": "it started with",
    "death": "one of its replicas died",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """`text` completes "… after": "its preprocessing changed". `skew`: the cause is a difference
    from the fleet."""

    server: str  # address
    at_s: float
    text: str
    skew: bool = False


@dataclass(frozen=True, slots=True)
class Symptom:
    """A problem with a server. The text does not name the server."""

    server: str
    text: str
    at_s: float
    severity: str
    harm: int


def causes_of(
    skew: Sequence[SkewLine],
    deploys: Sequence[tuple[str, DeployRow]],
    servers: Mapping[str, ServerRecord],
) -> tuple[Cause, ...]:
    """All causes. Where a skew and the deploy behind it have the same time, only the skew is kept,
    as it explains more."""
    found = []
    for line in skew:
        if line.odd and not line.tied and line.since_s == line.since_s:
            found.append(Cause(line.address, line.since_s, f"its {parts_of(line)} changed", True))
    known = {(cause.server, round(cause.at_s)) for cause in found}
    for address, row in deploys:
        change = _CHANGES.get(mark_of(row.action))
        shift_s = servers[address].link.shift_s if address in servers else 0.0
        at_s = row.at_unix_ms / 1000 - shift_s
        if change is not None and (address, round(at_s)) not in known:
            what = change if mark_of(row.action) == "death" else f"{change} {row.stamp[:8]}"
            found.append(Cause(address, at_s, what))
    return tuple(found)


def parts_of(line: SkewLine) -> str:
    """`preprocessing and labels`: what differs from the fleet."""
    parts = [p for p, cell in zip(STAMP_PARTS, line.cells, strict=True) if cell.differs]
    return " and ".join(parts) if len(parts) < 3 else f"{parts[0]} and {len(parts) - 1} more parts"


def cause_of(symptom: Symptom, causes: Sequence[Cause]) -> Cause | None:
    """The last event of the same server, if it was shortly before the symptom."""
    near = [
        cause
        for cause in causes
        if cause.server == symptom.server and 0 <= symptom.at_s - cause.at_s <= WITHIN_S
    ]
    return max(near, key=lambda cause: (cause.at_s, cause.skew), default=None)


def sentence(name: str, cause: Cause, symptoms: Sequence[Symptom]) -> str:
    """`gpu-03: accuracy 79 %, 2.5 min after its preprocessing changed`; worst symptom first."""
    first = symptoms[0]
    text = first.text.removeprefix(f"{name}: ").removeprefix(f"{name} ")
    more = f" (and {len(symptoms) - 1} more)" if len(symptoms) > 1 else ""
    return f"{name}: {text}{more}, {_span(first.at_s - cause.at_s)} after {cause.text}"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if 90 <= seconds < 600 else duration(seconds)
