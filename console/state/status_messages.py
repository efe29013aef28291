"""The messages of the status line: one function for each kind of problem. Each message links to its
subject. Pure."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from console.state.causes import Cause, Symptom, cause_of, parts_of, sentence
from console.state.dashboard import AlertLine, ServerLine, SkewLine, StatusMessage
from console.state.deploys import mark_of
from console.state.firing import KINDS
from console.state.sanitize import short
from console.state.severity import DOUBTFUL, FEWER, LATE, RANK, WRONG, harm_of, rank
from console.state.units import milliseconds
from server.telemetry.rows import DeployRow

OWN_SKEW = "skew/loaded"  # key of the alert that a server changed after it loaded its bundle
LOST, UNREACHABLE = "lost", "unreachable"
GONE = (LOST, UNREACHABLE)  # states of a server that does not answer
DIED_S = 300.0  # the death of a replica is shown for this long, even after it is replaced
TAKEN_BACK_S = 900.0  # the end of a canary is shown for this long
CLOCK_ODD_MS = 100.0  # above this offset, times of two servers cannot be compared without a warning


@dataclass(frozen=True, slots=True)
class Burn:
    """A server whose 99th percentile is above its objective now."""

    server: str
    name: str
    p99_ms: float
    slo_ms: float
    since_s: float


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def lost(servers: Sequence[ServerLine]) -> list[StatusMessage]:
    """Servers that do not answer, the most recently lost first."""
    lines = [line for line in servers if line.state in GONE]
    if not lines:
        return []
    first = max(lines, key=lambda line: line.link.heard_s)
    at_s = first.link.heard_s or math.nan
    text = f"{_count(len(lines), 'server', 'servers')} {first.state}"
    detail = f"{first.name}: {first.why}"
    found = StatusMessage("critical", text, "fleet", first.address, at_s, detail, harm=FEWER)
    return [replace(found, kind="lost")]


def died(servers: Sequence[ServerLine], now_s: float) -> list[StatusMessage]:
    """Replicas whose process ended recently, and why: a replica may be replaced before an operator
    looks."""
    found = []
    for line in servers:
        shift_s = line.link.shift_s
        for replica in line.snapshot.replicas if line.snapshot and line.state not in GONE else ():
            at_s = replica.last_exit_unix_ms / 1000 - shift_s
            if replica.last_exit and 0 <= now_s - at_s < DIED_S:
                what = f"{line.name}: replica {replica.index} died: {replica.last_exit}"
                found.append((at_s, line.address, what))
    if not found:
        return []
    at_s, key, detail = max(found)
    text = _count(len(found), "replica died", "replicas died")
    message = StatusMessage("warning", text, "server", key, at_s, detail, harm=FEWER)
    return [replace(message, kind="replica")]


def unready(servers: Sequence[ServerLine]) -> list[StatusMessage]:
    found = []
    for severity in ("critical", "warning"):
        lines = [line for line in servers if line.severity == severity and line.state not in GONE]
        if lines:
            first = max(lines, key=lambda line: line.since_s if line.since_s == line.since_s else 0)
            text = sorted({line.state for line in lines})
            found.append(
                StatusMessage(
                    severity,
                    f"{_count(len(lines), 'server', 'servers')} {'/'.join(text)}",
                    "fleet",
                    first.address,
                    first.since_s,
                    f"{first.name} {first.state}: {first.why}",
                    harm=FEWER,
                    kind="readiness",
                )
            )
    return found


def burning(burns: Sequence[Burn]) -> list[StatusMessage]:
    if not burns:
        return []
    worst = max(burns, key=lambda burn: burn.p99_ms / burn.slo_ms)
    text = "p99 above SLO" if len(burns) == 1 else f"{len(burns)} servers with p99 above SLO"
    detail = f"{worst.name}: p99 {milliseconds(worst.p99_ms)}, SLO {milliseconds(worst.slo_ms)}"
    # Shown for information only: a few slow requests in one minute are not a burn rate. The
    # server's alert is loud, and it has a history.
    found = StatusMessage("info", text, "latency", worst.server, worst.since_s, detail, harm=LATE)
    return [replace(found, kind="latency")]


def skewed(skew: Sequence[SkewLine]) -> list[StatusMessage]:
    odd = [line for line in skew if line.odd]
    if not odd:
        return []
    first = next((line for line in odd if line.details), odd[0])
    detail, side = f"{first.name}: {parts_of(first)} differs from the fleet", ", fleet"
    other = next((line for line in odd if line.cells != first.cells), None)
    if first.tied and other is not None:
        detail = f"{first.name} and {other.name} differ in {parts_of(first)}, none has the majority"
        side = " and"
    if first.details:
        what, here, there = first.details[0]
        detail += f" ({what} {short(here)}{side} {short(there)})"
    text = _count(len(odd), "server with version skew", "servers with version skew")
    found = StatusMessage("high", text, "skew", first.address, first.since_s, detail)
    return [replace(found, harm=WRONG, kind="skew")]


def grouped(
    causes: Sequence[Cause],
    alerts: Sequence[AlertLine],
    skew: Sequence[SkewLine],
) -> tuple[list[StatusMessage], list[AlertLine], list[SkewLine]]:
    """(a message for each cause with its symptoms; the alerts and skew lines without a cause)."""
    groups: dict[Cause, list[Symptom]] = {}
    names: dict[str, str] = {}
    left_alerts = []
    for line in alerts:
        names[line.server] = line.name
        row = line.row
        found = Symptom(line.server, row.summary, line.opened_s, row.severity, harm_of(row.kind))
        loud = line.firing and not quiet(line) and row.kind != "skew"
        if not loud or not _put(groups, found, causes):
            left_alerts.append(line)
    messages = [_group(names[cause.server], cause, found) for cause, found in groups.items()]
    reported = {cause.server for cause in groups if cause.skew}
    return messages, left_alerts, [line for line in skew if line.address not in reported]


def _put(groups: dict[Cause, list[Symptom]], symptom: Symptom, causes: Sequence[Cause]) -> bool:
    cause = cause_of(symptom, causes)
    if cause is not None:
        groups.setdefault(cause, []).append(symptom)
    return cause is not None


def _group(name: str, cause: Cause, symptoms: list[Symptom]) -> StatusMessage:
    symptoms = sorted(symptoms, key=lambda one: (one.harm, rank(one.severity), one.at_s))
    severities = [one.severity for one in symptoms] + (["high"] if cause.skew else [])
    severity = min(severities, key=rank)
    count = _count(len(symptoms), "problem", "problems")
    died = "died" in cause.text
    text = f"{count} after {'version skew' if cause.skew else 'a death' if died else 'a deploy'}"
    return StatusMessage(
        severity if severity in RANK else "warning",
        text,
        "skew",
        cause.server,
        cause.at_s,
        sentence(name, cause, symptoms),
        harm=WRONG if cause.skew else symptoms[0].harm,
        kind="skew" if cause.skew else "replica" if died else "deploy",
    )


def moved(skew: Sequence[SkewLine]) -> list[StatusMessage]:
    """Servers that changed since they loaded their bundle."""
    lines = sorted((s for s in skew if s.moved), key=lambda line: line.severity != "critical")
    if not lines:
        return []
    first = lines[0]
    what, label, now = first.moved[0]
    when = "answers may differ now" if now else "answers may differ after a restart"
    text = _count(len(lines), "server changed since load", "servers changed since load")
    detail = f"{first.name}: {what} {label}; {when}"
    found = StatusMessage("critical" if now else "high", text, "skew", first.address, detail=detail)
    return [replace(found, harm=WRONG if now else DOUBTFUL, kind="skew")]


def drifting(alerts: Sequence[AlertLine]) -> list[StatusMessage]:
    """The features that firing alerts are about. Rows of a single evaluation are shown in the table
    only."""
    loud = [line for line in alerts if line.firing and not quiet(line) and line.row.kind in KINDS]
    if not loud:
        return []
    worst = min(loud, key=lambda line: (rank(line.row.severity), line.opened_s))
    features = {feature for line in loud for feature in line.row.features}
    text = _count(max(len(features), 1), "feature drifting", "features drifting")
    first, place = (next(iter(names), "") for names in (worst.row.features, worst.row.slices))
    detail = f"{worst.name}: {worst.row.summary}{_beside(worst, loud)}"
    severity = worst.row.severity if worst.row.severity in RANK else "warning"
    found = StatusMessage(severity, text, "drift", f"{first}\t{place}", worst.opened_s, detail)
    return [replace(found, kind=worst.row.kind)]


def _beside(worst: AlertLine, loud: Sequence[AlertLine]) -> str:
    """`; image.brightness there too`: a server has an alert for each modality, and a site whose
    camera and microphone drift has one fault, or two."""
    there = [
        line.row.features[0]
        for line in loud
        if line.server == worst.server
        and line.row.features
        and not {*line.row.slices}.isdisjoint(worst.row.slices)
    ]
    names = [name for name in dict.fromkeys(there) if name not in worst.row.features]
    return f"; {' and '.join(names)} there too" if names else ""


def already_reported(
    servers: Sequence[ServerLine],
    skew: Sequence[SkewLine],
) -> set[tuple[str, str]]:
    """(kind, server) of the alerts that another message covers. The console detects most problems
    itself. A problem that it cannot see (a neighbour it does not watch, a spike that is over) needs
    its own message."""
    found = {("skew", line.address) for line in skew if line.odd or line.moved}
    found |= {("readiness", s.address) for s in servers if s.severity in ("critical", "warning")}
    return found


def others(
    alerts: Sequence[AlertLine], reported: Container[tuple[str, str]]
) -> list[StatusMessage]:
    """Firing alerts that no other message covers, one message for each kind."""
    groups: dict[str, list[AlertLine]] = {}
    for line in alerts:
        if line.row.kind in KINDS or not line.firing or quiet(line):
            continue
        if (line.row.kind, line.server) not in reported:
            groups.setdefault(line.row.kind, []).append(line)
    return [_of_kind(kind, lines) for kind, lines in groups.items()]


def _of_kind(kind: str, lines: Sequence[AlertLine]) -> StatusMessage:
    worst = min(lines, key=lambda line: rank(line.row.severity))
    word = "SLO burning" if kind == "latency" else f"{kind or 'other'} alert"
    severity = worst.row.severity if worst.row.severity in RANK else "warning"
    detail = f"{worst.name}: {worst.row.summary}"
    if kind == "skew" and worst.row.key != OWN_SKEW:
        detail = f"{worst.name} reports it about its neighbours: {worst.row.summary}"
    key = f"{worst.server}\t{worst.row.id}"
    many = "SLOs burning" if kind == "latency" else f"{word}s"
    text = _count(len(lines), word, many)
    found = StatusMessage(severity, text, "alerts", key, worst.opened_s, detail)
    return replace(found, harm=harm_of(kind), kind=kind)


def quiet(line: AlertLine) -> bool:
    """Whether the alert is acknowledged or silenced."""
    return bool(line.row.acknowledged_by) or line.row.silenced or line.silenced_until_s > 0


def rolled_back(
    servers: Sequence[ServerLine], deploys: Sequence[tuple[str, DeployRow]], now_s: float
) -> list[StatusMessage]:
    """Canaries that their servers ended recently: nothing is wrong any more, but someone is waiting
    for that deploy."""
    lines = {line.address: line for line in servers}
    found = []
    for address, row in deploys:
        line = lines.get(address)
        if line is None or "canary" not in row.action or mark_of(row.action) != "rollback":
            continue
        at_s = row.at_unix_ms / 1000 - line.link.shift_s
        if 0 <= now_s - at_s < TAKEN_BACK_S:
            what = f"canary {row.stamp[:8]} was rolled back: {row.detail}"
            found.append((at_s, address, f"{line.name}: {what}"))
    if not found:
        return []
    at_s, key, detail = max(found)
    text = _count(len(found), "canary rolled back", "canaries rolled back")
    return [StatusMessage("warning", text, "skew", key, at_s, detail, kind="deploy")]


def oddities(servers: Sequence[ServerLine]) -> list[StatusMessage]:
    found = []
    clocks = [line for line in servers if abs(line.link.offset_ms) > CLOCK_ODD_MS]
    if clocks:
        first = max(clocks, key=lambda line: abs(line.link.offset_ms))
        detail = f"{first.name}: clock offset {first.link.offset_ms:+.0f} ms from this machine"
        text = _count(len(clocks), "clock differs", "clocks differ")
        found.append(_odd("clock", text, first.address, detail))
    flooding = [line for line in servers if line.link.flood]
    if flooding:
        first = flooding[0]
        detail = f"{first.name} {first.link.flood}"
        text = _count(len(flooding), "server floods the console", "servers flood the console")
        found.append(_odd("rows", text, first.address, detail))
    refused = [line for line in servers if line.link.refused_rows]
    if refused:
        first = refused[0]
        detail = f"{first.name} sent {first.link.refused_rows} invalid rows"
        text = _count(len(refused), "server sends invalid rows", "servers send invalid rows")
        detail = f"{detail}: {first.link.refused_why}"
        found.append(_odd("rows", text, first.address, detail))
    losing = [s for s in servers if s.snapshot is not None and s.snapshot.telemetry_dropped]
    if losing:
        dropped = sum(s.snapshot.telemetry_dropped for s in losing if s.snapshot is not None)
        detail = f"{losing[0].name}: telemetry records were dropped before they were counted"
        text = f"{dropped:,} records dropped"
        found.append(_odd("telemetry", text, losing[0].address, detail))
    return found


def _odd(kind: str, text: str, server: str, detail: str) -> StatusMessage:
    return StatusMessage("warning", text, "fleet", server, detail=detail, kind=kind)


def plaintext(servers: Sequence[ServerLine]) -> list[StatusMessage]:
    """Servers whose traffic others on the network can read and change. That is not an outage: the
    message is always shown and does not change the state."""
    found = [line for line in servers if unencrypted(line)]
    if not found:
        return []
    first = found[0]
    detail = f"{first.name}: {unencrypted(first)}"
    text = _count(len(found), "server in plaintext", "servers in plaintext")
    return [replace(_odd("plaintext", text, first.address, detail), standing=True)]


def unencrypted(line: ServerLine) -> str:
    """Why this server's traffic is not protected; empty if it is."""
    if line.snapshot is not None and line.snapshot.insecure:
        return "runs with --insecure: it accepts plaintext from other hosts"
    if line.link.plaintext:
        return "this console connects in plaintext over the network (use --tls)"
    return ""


def in_hand(alerts: Sequence[AlertLine]) -> list[StatusMessage]:
    """A reminder of what is acknowledged or silenced: people forget it."""
    held = [line for line in alerts if line.open and quiet(line)]
    text = f"{len(held)} acknowledged or silenced"
    return [StatusMessage("info", text, "alerts", kind="held")] if held else []


def pending(alerts: Sequence[AlertLine]) -> list[StatusMessage]:
    """Alerts that were not seen often enough yet to be more than chance."""
    held = [line for line in alerts if line.open and not line.firing and not quiet(line)]
    text = f"{len(held)} pending"
    return [StatusMessage("info", text, "alerts", kind="pending")] if held else []


def unknown(servers: Sequence[ServerLine]) -> list[StatusMessage]:
    lines = [line for line in servers if line.severity == "unknown"]
    if not lines:
        return []
    first = lines[0]
    at_s = first.link.heard_s or math.nan
    detail = f"{first.name} {first.state}: {first.why}"
    text = f"{len(lines)} unknown"
    return [StatusMessage("unknown", text, "fleet", first.address, at_s, detail, kind="lost")]


def healthy(servers: Sequence[ServerLine]) -> StatusMessage:
    good = sum(line.severity == "ok" and not line.odd_parts for line in servers)
    severity = "ok" if good else "unknown"
    text = f"{good} of {len(servers)} healthy"
    return StatusMessage(severity, text, "fleet", kind="healthy")
