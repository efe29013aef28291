"""One server: its replicas with the evidence of their probes, and the settings it chose at
start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPaintEvent

from console.looks import hosts
from console.panels.frame import Panel
from console.plots import paint
from console.plots.style import Style
from console.plots.tipped import TippedWidget
from console.state import glossary
from console.state.dashboard import Board, ServerLine
from console.state.domain import ProbeEvidence, ReplicaSnapshot, ServerSnapshot
from console.state.severity import rank
from console.state.status_messages import unencrypted
from console.state.timetext import clock_text
from console.state.units import duration, milliseconds, number, size
from server.telemetry.rows import refused_formats

MOST_EACH = 4  # up to this many replicas get a line each
_SEVERITY = {"ready": "ok", "slow": "warning", "wrong": "critical", "dead": "critical"}


@dataclass(frozen=True, slots=True)
class ServerFact:
    text: str
    tone: str = "dim"
    sign: str = ""
    deep: bool = False  # details of the line above


def facts_of(line: ServerLine, now_s: float) -> list[ServerFact]:
    """The facts about a server, most urgent first."""
    snapshot = line.snapshot
    if snapshot is None:
        return [ServerFact(line.why)]
    found: list[ServerFact] = []
    if line.past:
        return _past(line, snapshot, now_s)
    if snapshot.reason:
        found.append(ServerFact(snapshot.reason, line.severity if line.severity != "ok" else "dim"))
    if unencrypted(line):
        found.append(ServerFact(unencrypted(line), "warning", "warning"))
    for group in alike(snapshot.replicas):
        found += _of_group(group, now_s)
    found += _facts(line, snapshot)
    return found


def _past(line: ServerLine, snapshot: ServerSnapshot, now_s: float) -> list[ServerFact]:
    """What the server last reported: every line dim, without a sign of the present state."""
    found = [ServerFact(line.why, line.severity, line.severity)]
    if line.link.heard_s:
        then = clock_text(line.link.heard_s)
        found.append(ServerFact(f"last reported at {then} UTC, and not known since:"))
    for group in alike(snapshot.replicas):
        found += [replace(fact, tone="dim", sign="", deep=True) for fact in _of_group(group, now_s)]
    return found + list(_facts(line, snapshot))


def alike(replicas: Sequence[ReplicaSnapshot]) -> list[list[ReplicaSnapshot]]:
    """Replicas grouped by state and reason, worst first: eight that fail for one reason are one
    problem."""
    groups: dict[tuple[object, ...], list[ReplicaSnapshot]] = {}
    for replica in replicas:
        failed = tuple((e.mix, e.source, e.reason) for e in replica.evidence if not e.ok)
        groups.setdefault((replica.state, replica.reason, failed), []).append(replica)
    return sorted(groups.values(), key=lambda group: rank(_sign(group[0])))


def _sign(replica: ReplicaSnapshot) -> str:
    return _SEVERITY.get(replica.state, "unknown")


def _of_group(group: Sequence[ReplicaSnapshot], now_s: float) -> Iterator[ServerFact]:
    first, sign = group[0], _sign(group[0])
    numbers = " ".join(f"#{replica.index}" for replica in group[:12])
    numbers += " …" if len(group) > 12 else ""
    tone = "text" if sign == "ok" else sign
    yield ServerFact(f"{numbers} {first.state}", tone, sign)
    devices = " ".join(dict.fromkeys(replica.device for replica in group if replica.device))
    text = [devices]
    restarts = sum(replica.restarts for replica in group)
    text.append(f"{restarts} restarts" if restarts else "")
    text.append(_memory(group))
    if any(text):
        yield ServerFact(" · ".join(part for part in text if part), "dim", deep=True)
    yield from _each(group[:MOST_EACH], now_s)
    if sign == "ok":
        return
    failed = [probe for replica in group for probe in replica.evidence if not probe.ok]
    if failed:
        yield from _evidence(max(failed, key=lambda probe: probe.p50_ms), now_s)
    elif first.reason:
        yield ServerFact(first.reason, deep=True)


def _memory(group: Sequence[ReplicaSnapshot]) -> str:
    """The memory of the largest replica. An older server reports only resident memory, in which
    shared pages count in full."""
    largest = max(group, key=lambda replica: (replica.private_bytes, replica.rss_bytes))
    each = " each" if len(group) > 1 else ""
    if not largest.private_bytes:
        return f"{size(largest.rss_bytes)}{each}" if largest.rss_bytes else ""
    return f"{size(largest.private_bytes)} private + {size(largest.shared_bytes)} shared{each}"


def _each(group: Sequence[ReplicaSnapshot], now_s: float) -> Iterator[ServerFact]:
    """The load of each replica, and how its last process ended. An older server reports neither."""
    for replica in group:
        text = [f"p95 {milliseconds(replica.p95_ms)}" if replica.p95_ms else ""]
        text.append(f"{replica.in_flight} in flight" if replica.in_flight else "")
        if replica.in_flight and replica.last_progress_unix_ms:
            waits_s = max(0.0, now_s - replica.last_progress_unix_ms / 1000)
            text.append(f"last progress {duration(waits_s)} ago")
        if any(text):
            facts = " · ".join(part for part in text if part)
            yield ServerFact(f"#{replica.index} {facts}", "dim", deep=True)
        if replica.last_exit:
            at = clock_text(replica.last_exit_unix_ms / 1000)
            yield ServerFact(
                f"#{replica.index} died at {at}: {replica.last_exit}", "warning", deep=True
            )


def _evidence(probe: ProbeEvidence, now_s: float) -> Iterator[ServerFact]:
    """What the failed probe measured; of several replicas, the slowest."""
    age = duration(now_s - probe.at_unix_ms / 1000)
    yield ServerFact(f"{probe.source or 'probe'} {probe.mix}, {age} ago", deep=True)
    limit = f", limit {milliseconds(probe.limit_ms)}" if probe.limit_ms else ""
    yield ServerFact(f"p50 {milliseconds(probe.p50_ms)}{limit}", "text", deep=True)
    yield ServerFact(f"max {milliseconds(probe.max_ms)}, {probe.runs} runs", deep=True)
    if probe.worst_difference > probe.tolerance:
        least, most = number(probe.worst_difference, 2), number(probe.tolerance, 2)
        text = f"max diff {least}, tolerance {most}"
        yield ServerFact(text, "critical", deep=True)
    if probe.reason:
        yield ServerFact(probe.reason, deep=True)


def _facts(line: ServerLine, snapshot: ServerSnapshot) -> Iterator[ServerFact]:
    yield ServerFact(f"{line.address} · v{snapshot.version}" if snapshot.version else line.address)
    if snapshot.simulated_speed > 0:
        yield ServerFact(f"simulated time, {snapshot.simulated_speed:,.0f} times as fast")
    offset = line.link.offset_ms
    if offset == offset:
        trip = f" ± {line.link.rtt_ms / 2:.1f}" if line.link.rtt_ms >= 0 else ""
        yield ServerFact(f"clock {offset:+.1f}{trip} ms")
    for text, full in hosts.lines(snapshot.host):
        yield ServerFact(text, "warning" if full else "dim", "warning" if full else "")
    yield ServerFact(f"{snapshot.requests:,} requests")
    yield ServerFact(f"{snapshot.failed:,} failed · {snapshot.refused:,} refused")
    if snapshot.refused_formats:
        yield ServerFact(f"refused formats: {refused_formats(snapshot.refused_formats)}")
    if snapshot.parts_cut:
        yield ServerFact(f"{snapshot.parts_cut:,} parts of which some was not used")
    if snapshot.quarantined:
        yield ServerFact(f"{snapshot.quarantined} requests quarantined", "warning", "warning")
    if snapshot.telemetry_bytes:
        yield ServerFact(f"telemetry {size(snapshot.telemetry_bytes)}")
    for name, why in list(snapshot.reasons.items())[:6]:
        yield ServerFact(f"{name}: {why}")


class ServerFacts(TippedWidget):
    """Facts one below the other, as many as fit, each with a tool tip."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.facts: list[ServerFact] = []
        self._places: list[tuple[float, str]] = []  # where each fact ends, as painted

    def tip_at(self, x: float, y: float) -> str:
        """What the fact at this height means."""
        text = next((text for bottom, text in self._places if y < bottom), "")
        return glossary.fact(text) or text

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        style, theme, px = self._style, self._style.theme, self._style.px
        y = 2.0
        self._places = []
        for fact in self.facts:
            if y > self.height() - px(12):
                break
            left = px(26 if fact.sign or fact.deep else 10)
            if fact.sign:
                paint.sign(painter, theme, fact.sign, QPointF(px(15), y + px(8)), px(8))
            place = QRectF(left, y, self.width() - left - px(8), px(200))
            color = theme.color(fact.tone)
            y += paint.wrapped(painter, place, fact.text, color, style.small, px(48))
            self._places.append((y, fact.text))


class ServerPanel(Panel):
    name = "server"
    heading = "SERVER"

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self.address = ""
        self.chosen: ServerLine | None = None
        self.view = ServerFacts(style)
        self.body.addWidget(self.view, 1)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        lines = board.servers
        chosen = next((line for line in lines if line.address == self.address), None)
        if chosen is None and lines:
            # Without a selection: the server that needs attention most.
            chosen = min(lines, key=lambda line: rank(line.severity))
        self.chosen = chosen
        if chosen is None:
            return
        self.view.facts = facts_of(chosen, board.made_s)
        self.title.show_legend([(chosen.name, "text"), (chosen.state, chosen.severity)])
        text = "; ".join(fact.text for fact in self.view.facts)
        self.setAccessibleDescription(text[:800])
        self.view.update()

    def select(self, key: str) -> None:
        self.address = key
        self.refresh()

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        return ["fact"], [[fact.text] for fact in self.view.facts]
