"""What happened, newest first: alerts, deploys and lost connections as one list, and as marks on
the time axis. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from console.state import action_kinds
from console.state import deploys as journal
from console.state.dashboard import AlertLine, Note, TimelineEvent
from console.state.domain import Action, Link, ServerRecord
from console.state.timetext import clock_text
from console.state.units import duration
from server.telemetry.filters import BadFilter
from server.telemetry.filters import silences as silences_alert
from server.telemetry.rows import AlertRow, AnnotationRow, DeployRow, SilenceRow

PANEL_OF = {
    "drift": "drift",
    "structural": "drift",
    "latency": "latency",
    "readiness": "fleet",
    "replica": "server",
    "server": "server",
    "skew": "skew",
    "value": "quality",
}
MOST = 300


def alert_lines(
    rows: Sequence[tuple[str, AlertRow]],
    servers: Mapping[str, ServerRecord],
    silences: Sequence[tuple[str, SilenceRow]],
    pending: Mapping[tuple[str, str], str],
    now_s: float,
) -> tuple[AlertLine, ...]:
    """Alerts with their times on this machine's clock and the silence that covers each, open ones
    first."""
    lines = []
    for address, row in rows:
        server = servers.get(address)
        shift = server.link.shift_s if server is not None else 0.0
        until = max(
            (
                silence.until_unix_ms / 1000 - shift
                for owner, silence in silences
                if owner == address and _covers(silence, row)
            ),
            default=0.0,
        )
        lines.append(
            AlertLine(
                row=row,
                server=address,
                name=server.name if server is not None else address,
                opened_s=row.opened_unix_ms / 1000 - shift,
                closed_s=row.closed_unix_ms / 1000 - shift if row.closed_unix_ms else 0.0,
                offset_ms=shift * 1000,
                silenced_until_s=until if until > now_s else 0.0,
                pending=pending.get((address, row.id), ""),
            )
        )
    return tuple(sorted(lines, key=lambda line: (not line.open, -line.opened_s)))


def _covers(silence: SilenceRow, row: AlertRow) -> bool:
    """Whether the silence covers the alert, by the server's rules. A matcher that only a newer
    server understands covers nothing."""
    try:
        return silences_alert(silence.matcher, row)
    except BadFilter:
        return False


def timeline_events(
    alerts: Sequence[AlertLine],
    deploys: Sequence[tuple[str, DeployRow]],
    servers: Mapping[str, ServerRecord],
    links: Sequence[TimelineEvent],
    actions: Sequence[Action] = (),
    ahead_s: float = 0.0,
    notes: Sequence[Note] = (),
) -> tuple[TimelineEvent, ...]:
    """Newest first."""
    found = [*links, *(_of_note(note) for note in notes)]
    for action in actions:
        if action.kind in action_kinds.KINDS:
            names = [servers[a].name if a in servers else a for a in action.server.split()]
            found.append(action_kinds.event(action, names, ahead_s))
    for line in alerts:
        found += _of_alert(line)
    found += [_of_deploy(address, row, servers.get(address)) for address, row in deploys[:MOST]]
    found.sort(key=lambda entry: -entry.at_s)
    return tuple(found[:MOST])


def notes_of(
    rows: Sequence[tuple[str, AnnotationRow]],
    actions: Sequence[Action],
    servers: Mapping[str, ServerRecord],
) -> tuple[Note, ...]:
    """Each note once, however many servers keep it, and those not sent yet, newest first. A note
    that any server has removed is left out."""
    removed = {row.id for _, row in rows if row.removed}
    undone = [a for a in actions if a.kind == "annotate" and a.undo]
    removed |= {a.target.split(action_kinds.LABEL)[0] for a in undone}
    found: dict[str, Note] = {}
    for address, row in rows:
        if row.id not in removed:
            shift = servers[address].link.shift_s if address in servers else 0.0
            times = (row.at_unix_ms / 1000 - shift, row.to_unix_ms / 1000 - shift)
            found.setdefault(row.id, Note(row.id, *times, row.text, row.actor))
    for action in actions:
        if action.kind != "annotate" or action.undo or action.state != "waiting":
            continue
        identity, at_ms, to_ms = action.target.split(action_kinds.LABEL)
        if identity not in removed:
            times = (int(at_ms) / 1000, int(to_ms) / 1000)
            note = Note(identity, *times, action.note, action.actor, pending=True)
            found.setdefault(identity, note)
    return tuple(sorted(found.values(), key=lambda note: -note.at_s))


def _of_note(note: Note) -> TimelineEvent:
    lasts = duration(note.to_s - note.at_s) if note.to_s > note.at_s else ""
    state = " · no server has it yet" if note.pending else ""
    span = f" ({lasts})" if lasts else ""
    text = f"{note.actor or 'note'}: {note.text}{span}{state}"
    detail = f"{clock_text(note.at_s)} UTC{span}\n{note.text}\nby {note.actor}{state}"
    return TimelineEvent(
        note.at_s, "info", text, "", "note", note.id, "events", "note", detail, note.to_s
    )


def _of_deploy(address: str, row: DeployRow, server: ServerRecord | None) -> TimelineEvent:
    name = server.name if server is not None else address
    at_s = row.at_unix_ms / 1000 - (server.link.shift_s if server is not None else 0.0)
    return TimelineEvent(
        at_s=at_s,
        severity=journal.severity_of(row.action),
        text=journal.sentence(name, row),
        server=address,
        kind="deploy",
        id=f"{row.action} {row.stamp}",
        panel="skew",
        mark=journal.mark_of(row.action),
        detail=journal.tip(name, row, clock_text(at_s)),
    )


def _of_alert(line: AlertLine) -> list[TimelineEvent]:
    row = line.row
    panel = PANEL_OF.get(row.kind, "alerts")
    # The server's name goes in front, unless the server's sentence already starts with it.
    label = row.summary if row.summary.startswith(line.name) else f"{line.name} {row.summary}"
    label += "" if line.firing or not line.open else " · pending: not confirmed yet"
    handled = f" · acknowledged by {row.acknowledged_by}" if row.acknowledged_by else ""
    severity = row.severity if line.firing else "info"
    if handled and line.open:
        severity = "info"
    found = [
        TimelineEvent(line.opened_s, severity, label + handled, line.server, "alert", row.id, panel)
    ]
    if line.closed_s:
        lasted = duration(line.closed_s - line.opened_s)
        text = f"{line.name} resolved after {lasted}: {row.summary}"
        found.append(TimelineEvent(line.closed_s, "ok", text, line.server, "alert", row.id, panel))
    return found


def of_link(before: Link | None, now: Link, name: str, at_s: float) -> TimelineEvent | None:
    """The event for a change of a link: lost, back, a flood that began or ended. The first
    connection is not an event."""
    if before is not None and bool(before.flood) != bool(now.flood):
        text = f"{name} {now.flood}" if now.flood else f"{name} no longer floods the console"
        severity = "warning" if now.flood else "ok"
        at_s = now.heard_s or at_s
        return TimelineEvent(at_s, severity, text, now.address, "link", "flood", "fleet")
    if before is None or before.state == now.state:
        return None
    if now.state == "lost":
        text = f"{name} lost: {now.detail}"
        at_s = min(now.heard_s or at_s, at_s)  # as in the headline, not when this console noticed
        return TimelineEvent(at_s, "critical", text, now.address, "link", "lost", "fleet")
    if now.state in ("live", "catching up") and before.state in ("lost", "reconnecting"):
        text = f"{name} is back after {duration(at_s - before.since_s)}"
        return TimelineEvent(at_s, "ok", text, now.address, "link", "back", "fleet")
    return None
