"""`server status` in fifteen lines: state, replicas, queue, latency, what is served, alerts."""

from __future__ import annotations

from collections.abc import Sequence

from proto import observe_pb2 as pb
from server.commands.output.status_report import age, printable
from server.ops.event_log import PLAIN
from server.telemetry.rows import refused_formats

MOST_REPLICAS, MOST_ALERTS = 3, 2
GREEN, YELLOW, RED = "\033[32m", "\033[33m", "\033[31m"
OF_STATE = {pb.READY: GREEN, pb.NOT_READY: RED}  # all other states are transitional: yellow
ORDER = ("critical", "high", "warning")


def summary(
    snapshot: pb.ServerSnapshot, alerts: Sequence[pb.AlertRow], at: float, colours: bool
) -> str:
    """`alerts`: the firing ones. `at` is unix seconds by the server's clock."""
    state = pb.ServerState.Name(snapshot.state)
    shown = _coloured(state, OF_STATE.get(snapshot.state, YELLOW), colours)
    why = f": {snapshot.reason}" if snapshot.reason else ""
    up = age(at - snapshot.started_unix_ms / 1000)
    formats = refused_formats(snapshot.refused_formats)
    lines = [
        f"{snapshot.server}  {shown}{why}",
        f"  trefoil  {snapshot.version}, up {up}"
        + (", plaintext beyond this host" if snapshot.insecure else ""),
        f"  stamp    {snapshot.stamp_name or 'none yet'}" + (" DIRTY" if snapshot.dirty else ""),
        f"           {snapshot.stamp}",
        *_replicas(snapshot),
        f"  queue    {snapshot.queued} of {snapshot.queue_limit}",
        f"  p95      {_p95(snapshot)}",
        f"  rows     {snapshot.requests} asked, {snapshot.failed} failed, "
        f"{snapshot.refused} refused, {snapshot.quarantined} quarantined",
        *([f"  formats  refused: {formats}"] if formats else []),
        *_alerts(alerts, at, colours),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _replicas(snapshot: pb.ServerSnapshot) -> list[str]:
    """One line for each replica that is not ready: the others do not differ in anything that
    matters here."""
    replicas = snapshot.replicas
    in_flight = sum(one.in_flight for one in replicas)
    head = f"{snapshot.warm_replicas} of {snapshot.wanted_replicas} warm, {in_flight} rows in them"
    odd = [one for one in replicas if one.state != "ready"]
    lines = [f"  replicas {head}"]
    for one in odd[:MOST_REPLICAS]:
        lines.append(f"           {one.index} {one.state}{': ' if one.reason else ''}{one.reason}")
    if len(odd) > MOST_REPLICAS:
        lines[-1] += f" (and {len(odd) - MOST_REPLICAS + 1} more)"
    return lines


def _p95(snapshot: pb.ServerSnapshot) -> str:
    slowest = max((one.p95_ms for one in snapshot.replicas), default=0.0)
    if not slowest:
        return "no row yet"
    goal = f"; the objective is {snapshot.slo_ms:g} ms" if snapshot.slo_ms else ""
    return f"{slowest:.1f} ms of the slowest replica, the queue included{goal}"


def _alerts(alerts: Sequence[pb.AlertRow], at: float, colours: bool) -> list[str]:
    """The most severe first; within one severity the newest first."""
    worst = sorted(alerts, key=lambda one: (ORDER.index(one.severity), -one.opened_unix_ms))
    lines = [f"  alerts   {len(alerts) or 'none'}"]
    for one in worst[:MOST_ALERTS]:
        severity = _coloured(one.severity, RED if one.severity == "critical" else YELLOW, colours)
        since = age(at - one.opened_unix_ms / 1000)
        lines.append(f"           {severity}, {since}: {printable(one.summary)}")
    if len(worst) > MOST_ALERTS:
        lines[0] += f", the worst {MOST_ALERTS}:"
    return lines


def _coloured(text: str, colour: str, colours: bool) -> str:
    return f"{colour}{text}{PLAIN}" if colours else text
