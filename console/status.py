"""From what is known to one sentence of what is wrong, most severe first. Pure functions: the
rules of the status line are all here, and tests/test_console_status.py has them as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from console.board import AlertLine, DriftLine, Phrase, ServerLine, SkewLine, Verdict
from console.domain import STAMP_PARTS, Link, Server
from console.plain import duration, milliseconds

RANK = {"critical": 0, "high": 1, "warning": 2, "unknown": 3, "info": 4, "ok": 5}
LOST_AFTER_S = 30.0  # silence after which nothing is known of a server, whatever its link says
STALE_AFTER_S = 10.0
CLOCK_ODD_MS = 100.0  # above this, times of two servers cannot be put side by side unseen


@dataclass(frozen=True, slots=True)
class Burn:
    """The 99th percentile of a server above its objective, now."""

    server: str
    name: str
    p99_ms: float
    slo_ms: float
    since_s: float


def rank(severity: str) -> int:
    """0 is worst. A word this console does not know counts as a warning, never as fine."""
    return RANK.get(severity, RANK["warning"])


def server_state(server: Server, now_s: float) -> tuple[str, str, str]:
    """(severity, word, why) of one server. Absence of news is `unknown`, never `ok`."""
    link, found = server.link, server.snapshot
    age_s = now_s - link.heard_s if link.heard_s else math.inf
    if link.state in ("lost", "offline") or age_s > LOST_AFTER_S:
        return "unknown", *_unheard(link, age_s, now_s)
    if found is None:
        return "unknown", "no news", "connected, no snapshot yet"
    if link.state == "reconnecting" or age_s > STALE_AFTER_S:
        return "unknown", "reconnecting", f"{link.detail or 'quiet'} · heard {duration(age_s)} ago"
    why = found.reason
    if found.state == "ready":
        if found.warm_replicas < found.wanted_replicas:
            warm = f"{found.warm_replicas} of {found.wanted_replicas} replicas warm"
            return "warning", "thin", why or warm
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


def _unheard(link: Link, age_s: float, now_s: float) -> tuple[str, str]:
    if link.state == "offline":
        return "offline", f"last heard {duration(age_s)} ago" if age_s < math.inf else "never heard"
    if age_s == math.inf:
        word = "unreachable" if link.state == "lost" else "connecting"
        return word, link.detail or "never heard"
    return "lost", f"last heard {duration(age_s)} ago · {link.detail or 'silent'}"


def verdict(
    servers: Sequence[ServerLine],
    burns: Sequence[Burn],
    drift: Sequence[DriftLine],
    skew: Sequence[SkewLine],
    alerts: Sequence[AlertLine],
    now_s: float,
) -> Verdict:
    """The status line. Acknowledged and silenced alerts are counted, not shouted."""
    phrases = [
        *_unready(servers),
        *_burning(burns),
        *_skewed(skew),
        *_drifting(drift, alerts),
        *_others(alerts),
        *_oddities(servers),
        *_quiet(alerts),
        *_unknown(servers),
    ]
    phrases.sort(key=lambda phrase: rank(phrase.severity))
    worst = phrases[0] if phrases else None
    healthy = _healthy(servers)
    state, severity = _word(servers, worst)
    sentence = _sentence(state, worst, servers, now_s)
    since = worst.at_s if worst is not None and rank(worst.severity) < 4 else math.nan
    return Verdict(state, severity, sentence, (*phrases, healthy), since)


def _word(servers: Sequence[ServerLine], worst: Phrase | None) -> tuple[str, str]:
    if servers and all(line.link.state == "offline" for line in servers):
        return "OFFLINE", "unknown"
    if worst is not None and rank(worst.severity) <= 1:
        return "CRITICAL" if worst.severity == "critical" else "DEGRADED", worst.severity
    if not servers or all(line.severity == "unknown" for line in servers):
        return "UNKNOWN", "unknown"
    if worst is not None and worst.severity in ("warning", "unknown"):
        return "DEGRADED", "warning"
    return "HEALTHY", "ok"


def _sentence(state: str, worst: Phrase | None, servers: Sequence[ServerLine], now_s: float) -> str:
    if not servers:
        return "no server is configured: console HOST:PORT …"
    if worst is None or rank(worst.severity) >= 4:
        if state == "HEALTHY":
            return "every server is ready and heard from; nothing is above its threshold"
        return "nothing is known yet"
    words = worst.detail or worst.text
    if worst.at_s == worst.at_s:
        at = time.strftime("%H:%M:%S", time.gmtime(worst.at_s))
        words += f" · since {at} UTC ({duration(now_s - worst.at_s)})"
    if state == "OFFLINE":
        heard = min((line.age_s for line in servers), default=math.inf)
        return f"no server is asked; what is shown is {duration(heard)} old. Then: {words}"
    return words


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _unready(servers: Sequence[ServerLine]) -> list[Phrase]:
    found = []
    for severity in ("critical", "warning"):
        lines = [line for line in servers if line.severity == severity]
        if lines:
            first = lines[0]
            words = sorted({line.word for line in lines})
            found.append(
                Phrase(
                    severity,
                    _count(len(lines), "server ", "servers ").strip() + " " + "/".join(words),
                    "fleet",
                    first.address,
                    detail=f"{first.name} {first.word}: {first.why}",
                )
            )
    return found


def _burning(burns: Sequence[Burn]) -> list[Phrase]:
    if not burns:
        return []
    worst = max(burns, key=lambda burn: burn.p99_ms / burn.slo_ms)
    text = "SLO burning: p99" if len(burns) == 1 else f"{len(burns)} SLOs burning: p99"
    detail = f"{worst.name}: p99 {milliseconds(worst.p99_ms)} over {milliseconds(worst.slo_ms)}"
    return [Phrase("critical", text, "latency", worst.server, worst.since_s, detail)]


def _skewed(skew: Sequence[SkewLine]) -> list[Phrase]:
    odd = [line for line in skew if line.odd]
    if not odd:
        return []
    first = odd[0]
    parts = [p for p, cell in zip(STAMP_PARTS, first.cells, strict=True) if cell.differs]
    detail = f"{first.name}: {', '.join(parts)} differs from the fleet"
    text = _count(len(odd), "server skewed", "servers skewed")
    return [Phrase("high", text, "skew", first.address, first.since_s, detail)]


def _drifting(drift: Sequence[DriftLine], alerts: Sequence[AlertLine]) -> list[Phrase]:
    loud = [line for line in drift if line.row.level in ("critical", "high")]
    if not loud:
        return []
    worst = min(loud, key=lambda line: (rank(line.row.level), -line.row.excess_kl))
    opened = [
        line.opened_s
        for line in alerts
        if line.open and line.row.kind == "drift" and worst.row.feature in line.row.features
    ]
    place = worst.row.slice or "all"
    detail = f"{worst.row.feature} [{place}] drifts: excess KL {worst.row.excess_kl:.2f}"
    text = _count(len(loud), "slice drifting", "slices drifting")
    key = f"{worst.row.feature}\t{worst.row.slice}"
    at_s = min(opened, default=math.nan)
    return [Phrase(worst.row.level, text, "drift", key, at_s, detail)]


def _others(alerts: Sequence[AlertLine]) -> list[Phrase]:
    """Open alerts of the kinds that no line above speaks of."""
    told = ("drift", "latency", "skew", "readiness")
    loud = [line for line in alerts if line.open and line.row.kind not in told and not quiet(line)]
    if not loud:
        return []
    worst = min(loud, key=lambda line: rank(line.row.severity))
    text = _count(len(loud), f"{worst.row.kind or 'other'} alert", "more alerts")
    key = f"{worst.server}\t{worst.row.id}"
    severity = worst.row.severity if worst.row.severity in RANK else "warning"
    detail = f"{worst.name}: {worst.row.summary}"
    return [Phrase(severity, text, "alerts", key, worst.opened_s, detail)]


def quiet(line: AlertLine) -> bool:
    """Somebody has it in hand: acknowledged or silenced."""
    return bool(line.row.acknowledged_by) or line.row.silenced or line.silenced_until_s > 0


def _oddities(servers: Sequence[ServerLine]) -> list[Phrase]:
    found = []
    clocks = [line for line in servers if abs(line.link.offset_ms) > CLOCK_ODD_MS]
    if clocks:
        first = max(clocks, key=lambda line: abs(line.link.offset_ms))
        detail = f"{first.name}: clock {first.link.offset_ms:+.0f} ms against this machine"
        text = _count(len(clocks), "clock off", "clocks off")
        found.append(Phrase("warning", text, "fleet", first.address, detail=detail))
    refused = [line for line in servers if line.link.refused_rows]
    if refused:
        first = refused[0]
        detail = f"{first.name} sent {first.link.refused_rows} rows that cannot be true"
        text = _count(len(refused), "server sends garbage", "servers send garbage")
        detail = f"{detail}: {first.link.refused_why}"
        found.append(Phrase("warning", text, "fleet", first.address, detail=detail))
    losing = [s for s in servers if s.snapshot is not None and s.snapshot.telemetry_dropped]
    if losing:
        dropped = sum(s.snapshot.telemetry_dropped for s in losing if s.snapshot is not None)
        detail = f"{losing[0].name}: records lost before they were counted"
        text = f"{dropped:,} records lost"
        found.append(Phrase("warning", text, "fleet", losing[0].address, detail=detail))
    return found


def _quiet(alerts: Sequence[AlertLine]) -> list[Phrase]:
    """People forget what they silenced."""
    held = [line for line in alerts if line.open and quiet(line)]
    return [Phrase("info", f"{len(held)} in hand or silenced", "alerts")] if held else []


def _unknown(servers: Sequence[ServerLine]) -> list[Phrase]:
    lines = [line for line in servers if line.severity == "unknown"]
    if not lines:
        return []
    first = lines[0]
    at_s = first.link.heard_s or math.nan
    detail = f"{first.name} {first.word}: {first.why}"
    text = f"{len(lines)} unreachable" if first.word in ("lost", "unreachable") else ""
    text = text or f"{len(lines)} unknown"
    return [Phrase("unknown", text, "fleet", first.address, at_s, detail)]


def _healthy(servers: Sequence[ServerLine]) -> Phrase:
    good = sum(line.severity == "ok" and not line.odd_parts for line in servers)
    severity = "ok" if good else "unknown"
    return Phrase(severity, f"{good} of {len(servers)} healthy", "fleet")
