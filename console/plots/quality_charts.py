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
from console.state.timetext import clock_text
from console.state.units import number, share, thousands, wilson
from server.telemetry.rows import QualityRow


class QualityTrend(QWidget):
    """Realised against estimated quality over the buckets, with its own time labels."""

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
        theme, px = self._style.theme, self._style.px
        wide, high = max(self.width() - px(72), 10), max(self.height() - px(30), 10)
        area = QRectF(px(60), px(8), wide, high)
        if not self.rows:
            text = "no quality data yet: it needs predictions, and labels sent by Feedback"
            paint.text(painter, area, text, theme.color("dim"), self._style.text_font, paint.CENTRE)
            return
        times = np.array([row.bucket_unix_s + row.width_s / 2 for row in self.rows])
        lines = [np.array([getattr(row, name) for row in self.rows]) for name in self._fields]
        bands = self._bands(lines)
        known = np.concatenate([*lines, *(side for band in bands for side in band)])
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
            text = share(value) if self._percent else number(value, 4)
            place = QRectF(0, y - px(8), area.left() - px(6), px(16))
            self._style.axis_text(painter, place, text, paint.RIGHT)
            value += step
        span = max(times[-1] - times[0], 1.0)
        xs = area.left() + (times - times[0]) / span * area.width()
        painter.setRenderHint(paint.SMOOTH)
        for band, look in zip(bands, (("live", 150, 5.0), ("p50", 255, 1.5)), strict=False):
            sides = [area.bottom() - (side - low) / (high - low) * area.height() for side in band]
            self._paint_band(painter, xs, sides, look)
        for values, tone, style in (
            (lines[1], "p50", Qt.PenStyle.DashLine),
            (lines[0], "p99", Qt.PenStyle.SolidLine),
        ):
            ys = area.bottom() - (values - low) / (high - low) * area.height()
            paint.line(painter, xs, ys, QPen(theme.color(tone), 1, style))
        middle = {len(times) // 2} if area.width() > px(330) else set()
        for index in {0, len(times) - 1} | middle:
            place = QRectF(xs[index] - px(50), area.bottom() + 3, px(100), px(16))
            place.moveLeft(min(max(place.left(), 0), self.width() - px(100)))
            text = clock_text(times[index], "%d %b %H:%M")
            self._style.axis_text(painter, place, text, paint.CENTRE)
        labelled = sum(row.labelled for row in self.rows)
        every = sum(row.predictions for row in self.rows)
        unit = "" if self._percent else self.rows[-1].value_unit
        name = f"{self._name}, {unit}" if unit else self._name
        legend = [(name, "text"), (f"━ realised, n {labelled:,}", "p99"),
                  (f"┄ estimated, n {every:,}", "p50")]  # fmt: skip
        if bands:
            legend.append(("■ where it lies with 95 %", "live"))
        caption(painter, self._style, area, legend)

    def _bands(self, lines: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """The interval of each share, realised and estimated. A value has none, as its spread is
        not known."""
        if not self._percent:
            return []
        numbers = ([row.labelled for row in self.rows], [row.predictions for row in self.rows])
        return [_intervals(shares, n) for shares, n in zip(lines, numbers, strict=True)]

    def _paint_band(
        self,
        painter: QPainter,
        xs: np.ndarray,
        band: list[np.ndarray],
        look: tuple[str, int, float],
    ) -> None:
        tone, alpha, wide = look
        painter.setPen(QPen(self._style.theme.color(tone, alpha), self._style.px(wide)))
        for x, low, high in zip(xs, *band, strict=True):
            if low == low:
                painter.drawLine(QPointF(x, low), QPointF(x, high))


def _intervals(shares: np.ndarray, numbers: Sequence[int]) -> list[np.ndarray]:
    pairs = [wilson(float(share) * n, n) if share == share else (math.nan, math.nan)
             for share, n in zip(shares, numbers, strict=True)]  # fmt: skip
    return [np.array(side) for side in zip(*pairs, strict=True)]


class Calibration(QWidget):
    """Confidence against how often it was right, and the confusion matrix of the labels."""

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
        px = self._style.px
        side = max(min(self.width() / 2 - px(70), self.height() - px(44)), px(30))
        self._curve(painter, QRectF(px(50), px(20), side, side), row)
        place = QRectF(self.width() / 2 + px(60), px(36), side * 0.94, side - px(16))
        self._confusion(painter, place, row)

    def _curve(self, painter: QPainter, area: QRectF, row: QualityRow) -> None:
        theme, font, px = self._style.theme, self._style.small_number_font, self._style.px
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(area)
        painter.setPen(QPen(theme.color("faint"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(area.bottomLeft(), area.topRight())
        top = QRectF(area.left() - px(40), area.top() - px(20), self.width() / 2 - px(20), px(16))
        labelled = sum(found.n for found in row.reliability)
        title = f"accuracy by confidence, n {labelled:,}"
        paint.text(painter, top, title, theme.color("text"), self._style.small)
        under = QRectF(area.left(), area.bottom() + 3, area.width(), px(16))
        self._style.axis_text(painter, under, "confidence", paint.CENTRE)
        for mark in (0.0, 0.5, 1.0):
            text, color = share(mark, 0), theme.color("dim")
            y = area.bottom() - mark * area.height()
            place = QRectF(0, y - px(8), area.left() - px(4), px(16))
            paint.text(painter, place, text, color, font, paint.RIGHT)
            if mark != 0.5:
                x = area.left() + mark * area.width()
                place = QRectF(x - px(30), area.bottom() + 3, px(60), px(16))
                paint.text(painter, place, text, color, font, paint.CENTRE)
        painter.setRenderHint(paint.SMOOTH)
        most = max((found.n for found in row.reliability), default=1) or 1
        for found in row.reliability:
            if not found.n:
                continue
            x = area.left() + found.sum_confidence / found.n * area.width()
            y = area.bottom() - found.sum_correct / found.n * area.height()
            low, high = wilson(found.sum_correct, found.n)
            painter.setPen(QPen(theme.color("live"), px(2)))
            painter.drawLine(QPointF(x, area.bottom() - low * area.height()),
                             QPointF(x, area.bottom() - high * area.height()))  # fmt: skip
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("accent", 200))
            radius = px(2) + px(4) * math.sqrt(found.n / most)
            painter.drawEllipse(QPointF(x, y), radius, radius)
        painter.setBrush(Qt.BrushStyle.NoBrush)

    def _confusion(self, painter: QPainter, area: QRectF, row: QualityRow) -> None:
        theme, style, px = self._style.theme, self._style, self._style.px
        count = len(row.labels)
        if not count or len(row.confusion) != count * count or count > 24:
            return
        cells = np.array(row.confusion).reshape(count, count)
        shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        width, height = area.width() / count, area.height() / count
        top = QRectF(area.left() - px(60), area.top() - px(36), px(300), px(16))
        paint.text(
            painter,
            top,
            f"true (down) × predicted, n {int(cells.sum()):,}",
            theme.color("text"),
            style.small,
        )
        for y in range(count):
            place = QRectF(area.left() - px(66), area.top() + y * height, px(60), height)
            text = row.labels[y]
            self._style.axis_text(painter, place, text, paint.RIGHT)
            place = QRectF(area.left() + y * width, area.top() - px(18), width, px(16))
            self._style.axis_text(painter, place, text, paint.CENTRE)
            for x in range(count):
                box = QRectF(area.left() + x * width, area.top() + y * height, width, height)
                tone = "accent" if x == y else "warning"
                painter.fillRect(box.adjusted(1, 1, -1, -1), theme.color(
                    tone, int(30 + 190 * shares[y, x])))  # fmt: skip
                count_text = f"{cells[y, x]:,}" if width > px(46) else thousands(int(cells[y, x]))
                paint.text(painter, box, count_text, theme.color("text"), style.small_number_font,
                           paint.CENTRE)  # fmt: skip
