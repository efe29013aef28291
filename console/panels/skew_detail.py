"""What exactly differs on one server: files and versions, its own skew alerts, clients that pin
another stamp, its last deploys, its environment, and the traffic by stamp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QWidget

from console.plots import paint
from console.plots.style import Style
from console.state import deploys as journal
from console.state.dashboard import Board, Floats, SkewLine
from console.state.sanitize import short
from console.state.timetext import clock_text
from console.state.units import share as share_text

TRAFFIC_PIXELS = 44.0
MOST_DEPLOYS = 6
KEY_PIXELS = 92.0
REDRAWN_S = 2.0  # how often the traffic by stamp is redrawn when nothing else has changed
DetailLine = tuple[str, str]  # text, tone; tone "title" is a heading


def lines_of(line: SkewLine | None, board: Board) -> list[DetailLine]:
    """The most important lines first, as there is little space."""
    if line is None:
        return [("select a server to see what differs", "title")]
    found: list[DetailLine] = [(line.name, "text"), (line.stamp_name or "stamp unknown", "dim")]
    if line.past:
        found.append((f"as of {clock_text(line.lost_s)} UTC: it does not answer", "critical"))
    if line.dirty:
        found.append(("dirty stamp: matches no pin", "warning"))
    for what, text, now in line.moved:
        found.append((f"≠ {what}", "critical" if now else "high"))
        found.append((f"   {text}: {when(now)}", "dim"))
    whose = "others" if line.tied else "fleet"
    for what, here, there in line.details:
        found.append((f"≠ {what}", "critical"))
        found.append((f"   {short(here)} · {whose} {short(there)}", "dim"))
    found += _watch(line, board)
    if line.pins:
        found.append(("clients that pin another stamp", "title"))
        found += [
            (f"{client} {stamp[:8]} refused {refused}", "warning")
            for client, stamp, refused, _ in line.pins
        ]
    found += _journal(line, board)
    if line.env:
        found.append(("environment, not part of the stamp", "title"))
        for what, here, there in line.env:
            found.append((f"{what} {here} · fleet {there}", "text"))
    if not line.details and line.stamp:
        found.insert(2, ("= all files and versions match the fleet", "dim"))
    return found


def when(now: bool) -> str:
    """Whether a change affects answers now or only after a restart."""
    return "answers may differ now" if now else "answers may differ after a restart"


def _watch(line: SkewLine, board: Board) -> Iterator[DetailLine]:
    """What the server found when it compared itself with its bundle and its neighbours."""
    mine = [alert for alert in board.alerts if alert.open and alert.server == line.address]
    for alert in [alert for alert in mine if alert.row.kind == "skew"][:3]:
        yield "reported by the server itself", "title"
        yield alert.row.summary, alert.row.severity


def _journal(line: SkewLine, board: Board) -> Iterator[DetailLine]:
    mine = [row for address, row in board.deploys if address == line.address][:MOST_DEPLOYS]
    if mine:
        yield "deploys", "title"
    for row in mine:
        at = clock_text(row.at_unix_ms / 1000, "%d %b %H:%M")
        severity = journal.severity_of(row.action)
        stamp = row.stamp_name.rpartition("+")[2] or row.stamp
        yield (
            f"{at} {row.action or 'deploy'} {stamp[:8]}",
            "text" if severity == "info" else severity,
        )
        if row.detail:
            yield f"   {row.detail}", "dim"


class SkewDetail(QWidget):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.lines: list[DetailLine] = []
        self._shares: tuple[tuple[str, Floats], ...] = ()
        self._drawn_s = 0.0
        self.setMinimumWidth(150)

    def show_line(self, line: SkewLine | None, board: Board) -> None:
        lines = lines_of(line, board)
        if lines == self.lines and board.made_s - self._drawn_s < REDRAWN_S:
            return
        self.lines, self._drawn_s = lines, board.made_s
        self._shares = board.latency.shares if board.latency is not None else ()
        self.setAccessibleName("; ".join(text for text, _ in self.lines)[:500])
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        style, theme, px = self._style, self._style.theme, self._style.px
        y = px(4)
        room = self.height() - px(TRAFFIC_PIXELS if self._shares else 4)
        for number, (text, tone) in enumerate(self.lines):
            if y > room - px(14):
                break
            font = style.small if tone == "title" else style.small_number_font
            font = style.strong if number == 0 else font
            deep = text.startswith("   ")
            left = px(22 if deep else 10)
            place = QRectF(left, y, self.width() - left - px(8), max(room - y, px(15)))
            color = theme.color("dim" if tone == "title" else tone)
            if " " in text.strip():
                y += paint.wrapped(painter, place, text.strip(), color, font, place.height()) - 1
            else:  # a name has no blank to break the line at
                place.setHeight(px(16))
                paint.text(painter, place, text.strip(), color, font)
                y += px(15)
        if self._shares and self.height() > px(70):
            area = QRectF(px(10), self.height() - px(36), self.width() - px(20), px(12))
            self._traffic(painter, area)

    def _traffic(self, painter: QPainter, area: QRectF) -> None:
        """Share of the requests by stamp over the window, stacked."""
        theme = self._style.theme
        step = max(int(len(self._shares[0][1]) / max(area.width() / 2, 1)), 1)
        base = np.zeros(len(self._shares[0][1][::step]))
        xs = area.left() + np.arange(len(base) + 1) / max(len(base), 1) * area.width()
        painter.setPen(Qt.PenStyle.NoPen)
        for number, (_, share) in enumerate(self._shares):
            top = base + np.nan_to_num(share[::step])
            points = [QPointF(xs[i], area.bottom() - top[i] * area.height())
                      for i in range(len(base))]  # fmt: skip
            points += [QPointF(xs[i], area.bottom() - base[i] * area.height())
                       for i in reversed(range(len(base)))]  # fmt: skip
            painter.setBrush(theme.color(theme.split[number % len(theme.split)]))
            painter.drawPolygon(QPolygonF(points))
            base = top
        self._traffic_keys(
            painter, QRectF(area.left(), area.bottom() + 4, area.width(), self._style.px(16))
        )

    def _traffic_keys(self, painter: QPainter, area: QRectF) -> None:
        """The names of the busiest stamps of the window, as many as fit. Not of its last interval:
        a server that has not yet reported it would be missing."""
        theme, style = self._style.theme, self._style
        wide = style.px(KEY_PIXELS)
        fit = max(int(area.width() // wide), 1)
        for place, (share, stamp, number) in enumerate(busiest(self._shares)[:fit]):
            box = QRectF(area.left() + place * wide, area.top(), wide, area.height())
            color = theme.split[number % len(theme.split)]
            text = f"■ {stamp[:6]} {share_text(share, 0)}"
            paint.keyed(painter, theme, box, (text, color), style.small)


def busiest(shares: Sequence[tuple[str, Floats]]) -> list[tuple[float, str, int]]:
    """(mean share, stamp, its place in `shares`), the largest first."""
    known = [(values[np.isfinite(values)], stamp) for stamp, values in shares]
    means = [(float(v.mean()) if len(v) else 0.0, stamp, n) for n, (v, stamp) in enumerate(known)]
    return sorted(means, reverse=True)
