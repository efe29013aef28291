"""A plot over the shared time axis. What changes only with new data is painted once into a pixmap;
the brush, the cross-hair and the read-out are painted over it. The data has at most one point for
each pixel: the UI thread never thins it out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import (
    QFontMetricsF,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)

from console.app.timeaxis import TimeAxis
from console.plots import paint
from console.plots.style import Style
from console.plots.tipped import TippedWidget
from console.state import glossary
from console.state.dashboard import Board
from console.state.deploys import SWITCHES
from console.state.timetext import clock_text, ticks

LEFT_MARGIN = 54.0
RIGHT_MARGIN = 10.0
DRAG_PIXELS = 4


def _content(board: Board) -> object:
    """What a plot shows besides the passing time. In a live view new rows appear with the next half
    pixel of movement; in a fixed view every new row counts as a change."""
    newest = board.timeline_events[0] if board.timeline_events else None
    found = board.latency
    requests = found.requests if found is not None and not board.view.live else 0
    held = tuple(
        (a.row.state, a.row.acknowledged_by, a.silenced_until_s) for a in board.alerts[:60]
    )
    return len(board.timeline_events), newest, requests, found is None, held, board.host


class TimePlot(TippedWidget):
    """Subclasses paint `paint_layer` and may return a `readout`."""

    picked = Signal(float, float)  # a click without a drag: (unix seconds, y in pixels)

    def __init__(self, style: Style, axis: TimeAxis, name: str, time_labels: bool = False) -> None:
        super().__init__()
        self.ui_style = style
        self.axis = axis
        self.board: Board | None = None
        self.time_labels = time_labels
        self.shows_readout = True
        self.shows_switches = True  # marks the moments when traffic moved to another stamp
        self.speaks_first = False  # shows its read-out while the cross-hair is locked
        self._layer: QPixmap | None = None
        self.captions: list[tuple[QRectF, str]] = []  # the legend inside the plot, as painted
        self._pressed: QPointF | None = None
        self._panning = False
        self._inside = False
        self.setMouseTracking(True)
        self.setMinimumHeight(40)
        self.setAccessibleName(name)
        self.setCursor(Qt.CursorShape.CrossCursor)
        axis.cursorChanged.connect(self.update)
        axis.brushChanged.connect(self.update)
        style.changed.connect(self.repaint_layer)

    @property
    def area(self) -> QRectF:
        px = self.ui_style.px
        bottom = px(18) if self.time_labels else 5.0
        wide = max(self.width() - px(LEFT_MARGIN) - RIGHT_MARGIN, 10)
        return QRectF(px(LEFT_MARGIN), px(4), wide, max(self.height() - px(4) - bottom, 10))

    @property
    def span(self) -> tuple[float, float]:
        if self.board is not None:
            return self.board.from_s, self.board.to_s
        return self.axis.span

    def x_of(self, at_s: float) -> float:
        low, high = self.span
        area = self.area
        return area.left() + (at_s - low) / max(high - low, 1e-9) * area.width()

    def xs(self, moments: np.ndarray) -> np.ndarray:
        low, high = self.span
        area = self.area
        return area.left() + (moments - low) / max(high - low, 1e-9) * area.width()

    def at(self, x: float) -> float:
        low, high = self.span
        area = self.area
        return low + (x - area.left()) / area.width() * (high - low)

    def show_board(self, board: Board) -> None:
        """Repaint when something would move by half a pixel or more, or when the content
        changed."""
        if not self._looks_the_same(board):
            self.board = board
            self.repaint_layer()

    def _looks_the_same(self, board: Board) -> bool:
        old = self.board
        if old is None or self._layer is None or board.view != old.view:
            return False
        pixel_s = (board.to_s - board.from_s) / self.area.width()
        still = abs(board.to_s - old.to_s) < pixel_s / 2
        return still and _content(board) == _content(old)

    def repaint_layer(self) -> None:
        self._layer = None
        self.update()

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        """Paint what changes only with new data."""

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        """Lines (text, tone) beside the cross-hair."""
        return ()

    def tip_at(self, x: float, y: float) -> str:
        """What a piece of the legend means; empty elsewhere, where the read-out is shown."""
        found = (text for place, text in self.captions if place.contains(x, y))
        return next((glossary.fact(text) for text in found), "")

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._layer = None
        super().resizeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self._layer is None:
            self._layer = self._draw_layer()
        painter.drawPixmap(0, 0, self._layer)
        area = self.area
        painter.setClipRect(area.adjusted(0, -4, 0, 0))
        self._paint_brush(painter, area)
        self._paint_cursor(painter, area)

    def _draw_layer(self) -> QPixmap:
        ratio = self.devicePixelRatioF()
        layer = QPixmap(round(self.width() * ratio), round(self.height() * ratio))
        layer.setDevicePixelRatio(ratio)
        layer.fill(Qt.GlobalColor.transparent)
        painter = QPainter(layer)
        self.paint_all(painter)
        painter.end()
        return layer

    def paint_all(self, painter: QPainter) -> None:
        """Paint everything that the pixmap holds."""
        area = self.area
        self._paint_grid(painter, area)
        self._paint_unknown(painter, area)
        self.paint_layer(painter, area)
        if self.shows_switches:
            self._paint_switches(painter, area)

    def _paint_grid(self, painter: QPainter, area: QRectF) -> None:
        theme = self.ui_style.theme
        low, high = self.span
        moments, form = ticks(low, high, int(area.width() / self.ui_style.px(78)))
        painter.setPen(QPen(theme.color("grid"), 1))
        for moment in moments:
            x = math.floor(self.x_of(moment)) + 0.5
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.topLeft(), area.bottomLeft())
        if not self.time_labels:
            return
        painter.setFont(self.ui_style.small_number_font)
        for moment in moments:
            x = self.x_of(moment)
            px = self.ui_style.px
            place = QRectF(x - px(40), area.bottom() + 2, px(80), px(16))
            if place.left() < area.left() - px(30) or place.right() > self.width():
                continue
            text = clock_text(moment, form)
            self.ui_style.axis_text(painter, place, text, paint.CENTRE)

    def _paint_switches(self, painter: QPainter, area: QRectF) -> None:
        """Draw a thin line where a stamp took traffic, so that before and after can be compared."""
        low, high = self.span
        found = self.board.timeline_events if self.board is not None else ()
        places: dict[int, str] = {}
        for entry in found:
            if entry.mark in SWITCHES and low <= entry.at_s <= high:
                x = math.floor(self.x_of(entry.at_s))
                tone = "accent" if entry.severity == "info" else entry.severity
                near = next((held for held in places if abs(held - x) < 3), x)
                places[near] = tone if places.get(near, "accent") == "accent" else places[near]
        painter.setClipRect(area)
        for x, tone in places.items():
            painter.setPen(QPen(self.ui_style.theme.color(tone, 130), 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(x + 0.5, area.top()), QPointF(x + 0.5, area.bottom()))

    def _paint_unknown(self, painter: QPainter, area: QRectF) -> None:
        """Hatch the times without data: silence does not mean health."""
        latency = self.board.latency if self.board is not None else None
        if latency is None or not latency.newest_s == latency.newest_s:
            return
        late = max(3 * latency.width_s, 8.0)
        if latency.to_s - latency.newest_s > late:
            left = max(self.x_of(latency.newest_s), area.left())
            box = QRectF(left, area.top(), area.right() - left, area.height())
            paint.hatch(painter, box, self.ui_style.theme.color("border"))

    def _paint_brush(self, painter: QPainter, area: QRectF) -> None:
        theme = self.ui_style.theme
        for marker in self.axis.markers:
            painter.setPen(QPen(theme.color("text"), 1, Qt.PenStyle.DotLine))
            x = self.x_of(marker)
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        brush = self.axis.view.brush
        if brush is None:
            return
        left, right = self.x_of(brush[0]), self.x_of(brush[1])
        box = QRectF(left, area.top(), right - left, area.height())
        painter.fillRect(box, theme.color("accent", 34))
        painter.setPen(QPen(theme.color("accent"), 1))
        painter.drawLine(box.topLeft(), box.bottomLeft())
        painter.drawLine(box.topRight(), box.bottomRight())

    def _paint_cursor(self, painter: QPainter, area: QRectF) -> None:
        at_s = self.axis.cursor_s
        low, high = self.span
        if not low <= at_s <= high:
            return
        theme = self.ui_style.theme
        x = math.floor(self.x_of(at_s)) + 0.5
        style = Qt.PenStyle.SolidLine if self.axis.locked else Qt.PenStyle.DashLine
        painter.setPen(QPen(theme.color("accent"), 1, style))
        painter.drawLine(QPointF(x, area.top() - 4), QPointF(x, area.bottom()))
        if self.shows_readout and (self._inside or (self.axis.locked and self.speaks_first)):
            self._paint_readout(painter, area, x, at_s)

    def _paint_readout(self, painter: QPainter, area: QRectF, x: float, at_s: float) -> None:
        lines = [(clock_text(at_s) + " UTC", "dim"), *self.readout(at_s)]
        if len(lines) == 1:
            return
        metrics = QFontMetricsF(self.ui_style.small_number_font)
        line = self.ui_style.px(15)
        width = max(metrics.horizontalAdvance(text) for text, _ in lines) + 14
        height = line * len(lines) + 8
        left = x + 10 if x + 10 + width < area.right() else x - 10 - width
        box = QRectF(max(left, area.left()), area.top() + 2, width, height)
        theme = self.ui_style.theme
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(theme.color("raised", 235))
        painter.drawRoundedRect(box, 3, 3)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for number, (text, tone) in enumerate(lines):
            place = QRectF(box.left() + 7, box.top() + 4 + line * number, width, line)
            paint.text(painter, place, text, theme.color(tone), self.ui_style.small_number_font)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._pressed = event.position()
        middle = event.button() == Qt.MouseButton.MiddleButton
        self._panning = middle or bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        place = event.position()
        self._inside = True
        self.axis.set_cursor(self.at(place.x()))
        if self._pressed is None or abs(place.x() - self._pressed.x()) < DRAG_PIXELS:
            return
        if self._panning:
            self.axis.pan((self._pressed.x() - place.x()) / self.area.width())
            self._pressed = place
        else:
            area = self.area
            begin = min(max(self._pressed.x(), area.left()), area.right())
            end = min(max(place.x(), area.left()), area.right())
            self.axis.brush(self.at(begin), self.at(end))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        pressed, self._pressed = self._pressed, None
        if pressed is None or self._panning:
            return
        if abs(event.position().x() - pressed.x()) < DRAG_PIXELS:
            self.picked.emit(self.at(pressed.x()), pressed.y())

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if self.axis.view.brush is not None:
            self.axis.zoom_to_brush()

    def wheelEvent(self, event: QWheelEvent) -> None:
        turns = event.angleDelta()
        if abs(turns.x()) > abs(turns.y()):
            self.axis.pan(-turns.x() / 1200)
        elif turns.y():
            factor = 0.8 ** (turns.y() / 120)
            self.axis.zoom(factor, self.at(event.position().x()))
        event.accept()

    def leaveEvent(self, event: object) -> None:
        self._inside = False
        self.axis.set_cursor(math.nan)
        self.update()
