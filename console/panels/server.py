"""One server: its replicas with the evidence of their probes, and the choices it made."""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from console.board import Board, ServerLine
from console.panels import paint
from console.panels.frame import Panel
from console.panels.look import Look
from console.plain import duration, milliseconds, size
from console.status import rank

_SEVERITY = {"ready": "ok", "slow": "warning", "wrong": "critical", "dead": "critical"}
Lines = list[tuple[str, str, str]]  # (sign or "", words, tone)


def told(line: ServerLine, now_s: float) -> Lines:
    """What there is to say about a server, line by line."""
    found: Lines = []
    snapshot = line.snapshot
    if snapshot is None:
        return [("", line.why, "dim")]
    if snapshot.reason:
        found.append(("", snapshot.reason, line.severity if line.severity != "ok" else "dim"))
    for replica in snapshot.replicas:
        sign = _SEVERITY.get(replica.state, "unknown")
        words = f"#{replica.index} {replica.state} · {replica.device}"
        if replica.restarts:
            words += f" · {replica.restarts} restarts"
        if replica.rss_bytes:
            words += f" · {size(replica.rss_bytes)}"
        found.append((sign, words, "text" if sign == "ok" else sign))
        if sign == "ok":
            continue
        failed = [probe for probe in replica.evidence if not probe.ok]
        if replica.reason and not failed:
            found.append(("", f"   {replica.reason}", "dim"))
        for probe in failed:
            age = duration(now_s - probe.at_unix_ms / 1000)
            words = (
                f"{probe.source} {probe.mix}: p50 {milliseconds(probe.p50_ms)}, max"
                f" {milliseconds(probe.max_ms)}, limit {milliseconds(probe.limit_ms)},"
                f" {probe.runs} runs, {age} ago"
            )
            if probe.worst_difference > probe.tolerance:
                words += f", answers differ by {probe.worst_difference:.1e}"
            found.append(("", f"   {words}", "dim"))
    found += _facts(line)
    return found


def _facts(line: ServerLine) -> Iterator[tuple[str, str, str]]:
    snapshot = line.snapshot
    if snapshot is None:
        return
    yield "", f"{line.address} · version {snapshot.version}", "dim"
    offset = line.link.offset_ms
    if offset == offset:
        yield "", f"clock {offset:+.1f} ms ± {line.link.rtt_ms / 2:.1f}", "dim"
    yield (
        "",
        f"requests {snapshot.requests:,} · failed {snapshot.failed:,} · refused"
        f" {snapshot.refused:,}",
        "dim",
    )
    if snapshot.quarantined:
        yield "", f"{snapshot.quarantined} requests quarantined", "warning"
    for name, why in list(snapshot.reasons.items())[:6]:
        yield "", f"{name}: {why}", "dim"


class Replicas(QWidget):
    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self.lines: Lines = []

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        look, theme = self._look, self._look.theme
        y = 2.0
        for sign, words, tone in self.lines:
            if y > self.height() - 12:
                break
            left = 10.0
            if sign:
                paint.sign(painter, theme, sign, QPointF(left + 5, y + 8), 8)
                left += 16
            place = QRectF(left, y, self.width() - left - 8, 200)
            y += paint.wrapped(painter, place, words, theme.color(tone), look.small_figures)


class ServerPanel(Panel):
    name = "server"
    heading = "SERVER"

    def __init__(self, look: Look) -> None:
        super().__init__(look)
        self.address = ""
        self.view = Replicas(look)
        self.body.addWidget(self.view, 1)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        lines = board.servers
        chosen = next((line for line in lines if line.address == self.address), None)
        if chosen is None and lines:
            # Nobody chose: the one that needs attention most.
            chosen = min(lines, key=lambda line: rank(line.severity))
        if chosen is None:
            return
        self.view.lines = told(chosen, board.made_s)
        self.title.show_legend([(chosen.name, "text"), (chosen.word, chosen.severity)])
        self.setAccessibleDescription("; ".join(words for _, words, _ in self.view.lines)[:800])
        self.view.update()

    def select(self, key: str) -> None:
        self.address = key
        self.refresh()

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        return ["fact"], [[words.strip()] for _, words, _ in self.view.lines]
