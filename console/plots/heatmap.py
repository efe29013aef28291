"""The latency heat map: log buckets over time."""

from __future__ import annotations

import math

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QImage, QPainter, QPen

from console.app.theme import lookup
from console.app.timeaxis import TimeAxis
from console.cache.quantiles import BUCKETS, FIRST_MS, PER_OCTAVE, lower_ms
from console.plots import paint
from console.plots.scale import caption, column_at
from console.plots.style import Style
from console.plots.timeplot import TimePlot

MARKS_MS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


class HeatMap(TimePlot):
    """Every column is scaled by its own largest bucket, so that a change of traffic does not look
    like a change of latency."""

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style, axis, "Latency heat map over time")
        self._low, self._high = 8, 48

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        found = self.board.latency if self.board is not None else None
        if found is None or not len(found.starts):
            return
        used = np.flatnonzero(found.heat.max(axis=1) > 0)
        if len(used):
            self._low = max(int(used[0]) - 2, 0)
            self._high = min(int(used[-1]) + 3, BUCKETS)
        image = self._image(found.heat[self._low : self._high])
        left = self.x_of(found.starts[0])
        right = self.x_of(found.starts[-1] + found.column_s)
        painter.save()
        painter.setClipRect(area)
        painter.drawImage(QRectF(left, area.top(), right - left, area.height()), image)
        painter.restore()
        self._labels(painter, area)
        text = "share of requests by duration, log scale · click: examples"
        self.captions = caption(painter, self.ui_style, area, [(text, "dim")])

    def _image(self, heat: np.ndarray) -> QImage:
        level = np.clip(np.sqrt(heat) * 255, 0, 255).astype(np.uint8)
        pixels = np.ascontiguousarray(lookup(self.ui_style.theme)[level][::-1])
        height, width = pixels.shape
        form = QImage.Format.Format_ARGB32_Premultiplied
        return QImage(pixels.tobytes(), width, height, width * 4, form).copy()

    def y_of(self, ms: float) -> float:
        bucket = math.log2(max(ms, FIRST_MS) / FIRST_MS) * PER_OCTAVE
        area = self.area
        part = (bucket - self._low) / max(self._high - self._low, 1)
        return area.bottom() - part * area.height()

    def ms(self, y: float) -> float:
        area = self.area
        part = (area.bottom() - y) / area.height()
        return lower_ms(self._low + part * (self._high - self._low))

    def _labels(self, painter: QPainter, area: QRectF) -> None:
        theme, px = self.ui_style.theme, self.ui_style.px
        marks = [(value, self.y_of(value)) for value in MARKS_MS]
        seen = [mark for mark in marks if area.top() + px(6) < mark[1] < area.bottom() - px(4)]
        for value, y in seen:
            painter.setPen(QPen(theme.color("border"), 1))
            painter.drawLine(QPointF(area.left() - 3, y), QPointF(area.left(), y))
            place = QRectF(0, y - px(8), area.left() - px(6), px(16))
            text = f"{value} ms" if value == seen[-1][0] else f"{value}"
            self.ui_style.axis_text(painter, place, text, paint.RIGHT)
        slo = self.board.latency.slo_ms if self.board and self.board.latency else 0
        if slo:
            painter.setPen(QPen(theme.color("critical", 150), 1, Qt.PenStyle.DashLine))
            painter.drawLine(
                QPointF(area.left(), self.y_of(slo)), QPointF(area.right(), self.y_of(slo))
            )

    def cell(self, at_s: float, y: float) -> tuple[float, float, float, float] | None:
        """(from, to, lowest ms, highest ms) of the cell at this position, slightly widened so that
        it is easier to hit."""
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0:
            return None
        start = float(found.starts[index])
        middle = self.ms(y)
        return start, start + found.column_s, middle / 2 ** (1 / 4), middle * 2 ** (1 / 4)
