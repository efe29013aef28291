"""Makes one sentence on what is wrong from all that is known, most severe first. Pure.
status_messages.py has the messages it is made of, and tests/console/test_console_status.py the
rules as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from console.state import program, status_messages
from console.state.causes import Cause
from console.state.dashboard import (
    AlertLine,
    FleetState,
    ServerLine,
    SkewLine,
    StatusMessage,
)
from console.state.domain import Link, ServerRecord
from console.state.severity import rank
from console.state.status_messages import GONE, LOST, UNREACHABLE, Burn
from console.state.timetext import clock_text
from console.state.units import duration
from server.telemetry.rows import DeployRow

# After this much silence nothing is known of a server, whatever the state of its link.
LOST_AFTER_S = 30.0
STALE_AFTER_S = 10.0
NOTHING_LISTENS = "connection refused"  # as the feed writes it


def server_state(server: ServerRecord, now_s: float) -> tuple[str, str, str]:
    """(severity, state, reason) of one server. Absence of data is `unknown`, never `ok`."""
    link, found = server.link, server.snapshot
    age_s = now_s - link.heard_s if link.heard_s else math.inf
    if link.state in ("lost", "offline") or age_s > LOST_AFTER_S:
        return _unheard(server, age_s)
    if found is None:
        return "unknown", "no data", "connected, no snapshot yet"
    if link.state == "reconnecting" or age_s > STALE_AFTER_S:
        why = f"{link.detail or 'no messages'} · last contact {duration(age_s)} ago"
        return "unknown", "reconnecting", why
    why = found.reason
    if found.state == "ready":
        if found.warm_replicas < found.wanted_replicas:
            warm = f"{found.warm_replicas} of {found.wanted_replicas} replicas warm"
            return "warning", "replicas missing", why or warm
        if found.telemetry_state not in ("", "ok"):
            return "warning", "telemetry", found.telemetry_state
        return "ok", "ready", why
    severity = {
        "degraded": "warning",
        "starting": "warning",
        "draining": "info",
        "not_ready": "critical",
    }.get(found.state, "unknown")
    return severity, found.state.replace("_", " "), why or "no reason given"


def _unheard(server: ServerRecord, age_s: float) -> tuple[str, str, str]:
    """A server that answered before and no longer does is lost capacity, whatever it last reported.
    A server that was draining is where its operator wanted it."""
    link, found = server.link, server.snapshot
    known = age_s < math.inf
    if link.state == "offline":
        why = f"last contact {duration(age_s)} ago" if known else "no contact yet"
        return "unknown", "offline", why
    why = _silence_of(link)
    if not known:
        if link.state == "lost":
            return "critical", UNREACHABLE, why
        return "unknown", "connecting", link.detail or "no contact yet"
    if found is not None and found.state == "draining":
        return "warning", "stopped", f"{why} after it drained"
    return "critical", LOST, why


def _silence_of(link: Link) -> str:
    """`nothing listens since 23:48:18 (connection refused)`."""
    since = f" since {clock_text(link.heard_s)}" if link.heard_s else ""
    if link.detail == NOTHING_LISTENS:
        return f"nothing listens{since} ({link.detail})"
    return f"no answer{since} ({link.detail or 'no messages'})"


def fleet_state(
    servers: Sequence[ServerLine],
    burns: Sequence[Burn],
    skew: Sequence[SkewLine],
    alerts: Sequence[AlertLine],
    now_s: float,
    causes: Sequence[Cause] = (),
    deploys: Sequence[tuple[str, DeployRow]] = (),
) -> FleetState:
    """The status line. Acknowledged, silenced and pending alerts are only counted. The last report
    of a lost server describes the past, so it makes no message. The headline is the problem that
    does most harm, and a cause goes before its symptoms."""
    gone = {line.address for line in servers if line.state in (*GONE, "stopped")}
    burns = [burn for burn in burns if burn.server not in gone]
    skew = [line for line in skew if line.address not in gone]
    alerts = [line for line in alerts if line.server not in gone]
    reported = status_messages.already_reported(servers, skew)
    groups, alerts, plain_skew = status_messages.grouped(causes, alerts, skew)
    found = [
        *groups,
        *status_messages.lost(servers),
        *status_messages.died(servers, now_s),
        *status_messages.unready(servers),
        *status_messages.burning(burns),
        *status_messages.skewed(plain_skew),
        *status_messages.moved(skew),
        *status_messages.drifting(alerts),
        *status_messages.others(alerts, reported),
        *status_messages.rolled_back(servers, deploys, now_s),
        *status_messages.oddities(servers),
        *status_messages.plaintext(servers),
        *status_messages.in_hand(alerts),
        *status_messages.pending(alerts),
        *status_messages.unknown(servers),
    ]
    found.sort(key=_order)
    worst = next((message for message in found if not message.standing), None)
    gravest = min(
        (m for m in found if not m.standing), key=lambda m: rank(m.severity), default=None
    )
    state, severity = _word(servers, gravest)
    sentence = _sentence(state, worst, servers, now_s)
    standing = next((message for message in found if message.standing), None)
    if standing is not None and severity == "ok":
        sentence = f"{sentence}; but {standing.detail}"
    return FleetState(state, severity, sentence, (*found, status_messages.healthy(servers)))


def _order(message: StatusMessage) -> tuple[bool, int, int]:
    """The sort key: by harm; messages that only count come last."""
    place = rank(message.severity)
    counted = message.standing or place >= rank("unknown")
    return counted, 0 if counted else message.harm, place


def _word(servers: Sequence[ServerLine], worst: StatusMessage | None) -> tuple[str, str]:
    if servers and all(line.link.state == "offline" for line in servers):
        return "OFFLINE", "unknown"
    if worst is not None and rank(worst.severity) <= 1:
        return "CRITICAL" if worst.severity == "critical" else "DEGRADED", worst.severity
    if not servers or all(line.severity == "unknown" for line in servers):
        return "UNKNOWN", "unknown"
    if worst is not None and worst.severity in ("warning", "unknown"):
        return "DEGRADED", "warning"
    return "HEALTHY", "ok"


def _sentence(
    state: str, worst: StatusMessage | None, servers: Sequence[ServerLine], now_s: float
) -> str:
    if not servers:
        return f"no server is configured: {program.name()} HOST:PORT …"
    if worst is None or rank(worst.severity) >= 4:
        if state == "HEALTHY":
            return "every server is ready and connected; everything is within its thresholds"
        return "no data yet"
    text = worst.detail or worst.text
    if worst.at_s == worst.at_s:
        at, ago = clock_text(worst.at_s), duration(now_s - worst.at_s)
        text += f" · {ago} ago" if f"since {at}" in text else f" · since {at} UTC ({ago})"
    if state == "OFFLINE":
        heard = min((line.age_s for line in servers), default=math.inf)
        return f"no server is contacted; the data is {duration(heard)} old. Last state: {text}"
    return text
