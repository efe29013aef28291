"""The charts of the quality page: realised against estimated over time, calibration, confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from console.plots import paint
from console.plots.scale import caption, scale_top
from console.plots.style import Style
from console.state.sanitize import thousands
from console.state.timetext import clock_text
from server.telemetry.rows import QualityRow


class QualityTrend(QWidget):
    """Realised against estimated over the buckets there are, with its own time labels."""

    def __init__(self, style: Style, name: str, fields: tuple[str, str], percent: bool) -> None:
        super().__init__()
        self._style = style
        self._name = name
        self._fields = fields
        self._percent = percent
        self.rows: Sequence[QualityRow] = ()
        self.setMinimumHeight(90)
        self.setAccessibleName(name)

    def show_rows(self, rows: Sequence[QualityRow]) -> None:
        self.rows = rows
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, font = self._style.theme, self._style.small_number_font
        area = QRectF(60, 8, max(self.width() - 72, 10), max(self.height() - 30, 10))
        if not self.rows:
            text = "no quality data yet: it needs predictions, and labels sent by Feedback"
            paint.text(painter, area, text, theme.color("dim"), self._style.text_font, paint.CENTRE)
            return
        times = np.array([row.bucket_unix_s + row.width_s / 2 for row in self.rows])
        lines = [np.array([getattr(row, name) for row in self.rows]) for name in self._fields]
        known = np.concatenate(lines)
        known = known[np.isfinite(known)]
        if not len(known):
            return
        low, high = float(known.min()), float(known.max())
        margin = max((high - low) * 0.25, abs(high) * 0.01, 1e-6)
        low, high = low - margin, high + margin
        _, step = scale_top(high - low)
        value = math.ceil(low / step) * step
        while value <= high:
            y = area.bottom() - (value - low) / (high - low) * area.height()
            painter.setPen(QPen(theme.color("grid"), 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            text = f"{value:.0%}" if self._percent and step >= 0.01 else f"{value:g}"
            text = f"{value:.1%}" if self._percent and step < 0.01 else text
            place = QRectF(0, y - 8, area.left() - 6, 16)
            paint.text(painter, place, text, theme.color("dim"), font, paint.RIGHT)
            value += step
        span = max(times[-1] - times[0], 1.0)
        xs = area.left() + (times - times[0]) / span * area.width()
        painter.setRenderHint(paint.SMOOTH)
        for values, tone, style in (
            (lines[1], "p50", Qt.PenStyle.DashLine),
            (lines[0], "p99", Qt.PenStyle.SolidLine),
        ):
            ys = area.bottom() - (values - low) / (high - low) * area.height()
            paint.line(painter, xs, ys, QPen(theme.color(tone), 1, style))
        middle = {len(times) // 2} if area.width() > 330 else set()
        for index in {0, len(times) - 1} | middle:
            place = QRectF(xs[index] - 50, area.bottom() + 3, 100, 16)
            place.moveLeft(min(max(place.left(), 0), self.width() - 100))
            text = clock_text(times[index], "%d %b %H:%M")
            paint.text(painter, place, text, theme.color("dim"), font, paint.CENTRE)
        legend = [(self._name, "text"), ("━ realised", "p99"), ("┄ estimated", "p50")]
        caption(painter, self._style, area, legend)


class Calibration(QWidget):
    """Confidence against how often it was right, and the confusion of the labels."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.row: QualityRow | None = None
        self.setMinimumHeight(140)
        self.setAccessibleName("Calibration and confusion")

    def show_row(self, row: QualityRow | None) -> None:
        self.row = row
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        row = self.row
        if row is None:
            return
        painter = QPainter(self)
        side = max(min(self.width() / 2 - 70, self.height() - 44), 30)
        self._curve(painter, QRectF(50, 20, side, side), row)
        self._confusion(painter, QRectF(self.width() / 2 + 60, 36, side * 0.94, side - 16), row)

    def _curve(self, painter: QPainter, area: QRectF, row: QualityRow) -> None:
        theme, font = self._style.theme, self._style.small_number_font
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(area)
        painter.setPen(QPen(theme.color("faint"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(area.bottomLeft(), area.topRight())
        top = QRectF(area.left() - 40, area.top() - 20, 260, 16)
        title = "accuracy at this confidence"
        paint.text(painter, top, title, theme.color("text"), self._style.small)
        under = QRectF(area.left(), area.bottom() + 3, area.width(), 16)
        text = "confidence 0 to 1"
        paint.text(painter, under, text, theme.color("dim"), font, paint.CENTRE)
        painter.setRenderHint(paint.SMOOTH)
        most = max((found.n for found in row.reliability), default=1) or 1
        for found in row.reliability:
            if not found.n:
                continue
            x = area.left() + found.sum_confidence / found.n * area.width()
            y = area.bottom() - found.sum_correct / found.n * area.height()
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("accent", 200))
            radius = 2 + 4 * math.sqrt(found.n / most)
            painter.drawEllipse(QPointF(x, y), radius, radius)
        painter.setBrush(Qt.BrushStyle.NoBrush)

    def _confusion(self, painter: QPainter, area: QRectF, row: QualityRow) -> None:
        theme, style = self._style.theme, self._style
        count = len(row.labels)
        if not count or len(row.confusion) != count * count or count > 24:
            return
        cells = np.array(row.confusion).reshape(count, count)
        shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        width, height = area.width() / count, area.height() / count
        top = QRectF(area.left() - 60, area.top() - 36, 300, 16)
        paint.text(painter, top, "true (down) × predicted", theme.color("text"), style.small)
        for y in range(count):
            place = QRectF(area.left() - 66, area.top() + y * height, 60, height)
            text = row.labels[y]
            paint.text(
                painter, place, text, theme.color("dim"), style.small_number_font, paint.RIGHT
            )
            place = QRectF(area.left() + y * width, area.top() - 18, width, 16)
            paint.text(
                painter, place, text, theme.color("dim"), style.small_number_font, paint.CENTRE
            )
            for x in range(count):
                box = QRectF(area.left() + x * width, area.top() + y * height, width, height)
                tone = "accent" if x == y else "warning"
                painter.fillRect(box.adjusted(1, 1, -1, -1), theme.color(
                    tone, int(30 + 190 * shares[y, x])))  # fmt: skip
                count_text = f"{cells[y, x]:,}" if width > 46 else thousands(int(cells[y, x]))
                paint.text(painter, box, count_text, theme.color("text"), style.small_number_font,
                           paint.CENTRE)  # fmt: skip
