"""Alerts as bars over the time axis, from when each opened to when it closed: which came first, and
which came together."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QMouseEvent, QPainter, QPen

from console.app.timeaxis import TimeAxis
from console.plots import paint
from console.plots.style import Style
from console.plots.timeplot import TimePlot
from console.state.dashboard import AlertLine
from console.state.severity import RANK
from console.state.status_messages import quiet

ROW_PIXELS = 20.0


def in_window(alerts: tuple[AlertLine, ...], span: tuple[float, float]) -> list[AlertLine]:
    """The alerts that were open at some moment of the span, the oldest first."""
    low, high = span
    found = [a for a in alerts if a.opened_s <= high and (a.open or a.closed_s >= low)]
    return sorted(found, key=lambda alert: alert.opened_s)


class AlertTimeline(TimePlot):
    opened = Signal(object)  # an AlertLine

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style, axis, "Alerts over time")
        self.shows_readout = False
        self.setMinimumHeight(60)
        self.picked.connect(self._pick)

    def _rows(self) -> list[tuple[QRectF, AlertLine]]:
        """The bars of the alerts, as many as fit; the newest stay."""
        area = self.area
        alerts = in_window(self.board.alerts if self.board is not None else (), self.span)
        line = self.ui_style.px(ROW_PIXELS)
        fit = max(int(area.height() // line), 1)
        rows = []
        for number, alert in enumerate(alerts[-fit:]):
            left = max(self.x_of(alert.opened_s), area.left())
            end_s = self.span[1] if alert.open else alert.closed_s
            right = min(max(self.x_of(end_s), left + 3), area.right())
            top = area.top() + number * line + 3
            rows.append((QRectF(left, top, right - left, line - 5), alert))
        return rows

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        rows = self._rows()
        if not rows:
            text = "no alert was open in this window"
            color = self.ui_style.theme.color("dim")
            paint.text(painter, area, text, color, self.ui_style.text_font, paint.CENTRE)
        for box, alert in rows:
            self._band(painter, area, box, alert)

    def _band(self, painter: QPainter, area: QRectF, box: QRectF, alert: AlertLine) -> None:
        theme = self.ui_style.theme
        severity = alert.row.severity if alert.row.severity in RANK else "warning"
        tone = severity if alert.firing and not quiet(alert) else "dim"
        painter.fillRect(box, theme.color(tone, 60))
        if quiet(alert):
            paint.hatch(painter, box, theme.color("dim", 120))
        painter.fillRect(QRectF(box.left(), box.top(), 3, box.height()), theme.color(tone))
        if not alert.open:
            painter.setPen(QPen(theme.color(tone), 1))
            painter.drawLine(box.topRight(), box.bottomRight())
        text = f"{alert.name} · {alert.row.kind or 'alert'} · {alert.row.summary}"
        place = box.adjusted(8, 0, -4, 0)
        side = paint.LEFT
        if box.width() < self.ui_style.px(330):  # beside the bar there is more space
            room_left, room_right = box.left() - area.left(), area.right() - box.right()
            if room_left > room_right:
                place = QRectF(area.left() + 4, box.top(), room_left - 10, box.height())
                side = paint.RIGHT
            else:
                place = QRectF(box.right() + 6, box.top(), room_right - 8, box.height())
        color = theme.color("text" if tone != "dim" else "dim")
        paint.text(painter, place, text, color, self.ui_style.small, side)

    def _pick(self, at_s: float, y: float) -> None:
        for box, alert in self._rows():
            if box.top() - 2 <= y <= box.bottom() + 2:
                self.opened.emit(alert)
                return

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        over = any(box.contains(event.position()) for box, _ in self._rows())
        self.setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.CrossCursor)
