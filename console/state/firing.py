"""Which drift rows a firing alert is about. A single evaluation proves little, and a server
requires three of four. A shift that is not confirmed is shown but is not loud. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from console.state.dashboard import AlertLine, DriftLine
from console.state.severity import rank

KINDS = ("drift", "structural")
SHIFTED = ("warning", "high", "critical")


def about(alert: AlertLine, feature: str, place: str) -> bool:
    """An alert names its features and slices; it covers the row of the whole traffic for each
    feature that it names."""
    return feature in alert.row.features and (not place or place in alert.row.slices)


def marked(
    lines: Sequence[DriftLine], alerts: Sequence[AlertLine], name_of: Callable[[str], str]
) -> tuple[DriftLine, ...]:
    """The same lines with names and with the servers where each fires; firing lines first."""
    loud = [alert for alert in alerts if alert.firing and alert.row.kind in KINDS]
    found = [_marked(line, loud) for line in lines]
    named = [replace(line, name=name_of(line.server)) for line in found]
    return tuple(sorted(named, key=lambda line: not line.firing))


def _marked(line: DriftLine, loud: Sequence[AlertLine]) -> DriftLine:
    """Among several servers, the worst one where the alert fires."""
    if line.source != "server":
        return line
    at = {alert.server for alert in loud if about(alert, *line.key)}
    own = [one for one in line.by_server or (line,) if one.server in at]
    own = sorted((one for one in own if one.row.level in SHIFTED), key=_level)
    if not own:
        return line
    where = tuple(one.server for one in own)
    return replace(own[0], servers=line.servers, by_server=line.by_server, firing_at=where)


def _level(line: DriftLine) -> int:
    return rank(line.row.level)


def since_s(levels: Sequence[tuple[float, str]]) -> float:
    """When the run of shifted evaluations at the end of `levels` (seconds, level) began; NaN if the
    last one is not shifted."""
    found = float("nan")
    for at_s, level in reversed(levels):
        if level not in SHIFTED:
            break
        found = at_s
    return found
