"""The stages of one request after one another, and those of the others in its forward."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from console.plots import paint
from console.plots.style import Style
from console.state.domain import CachedPrediction
from console.state.sanitize import milliseconds
from server.telemetry.outputs import STAGES, Timing, time_tuple

ROW = 17
NAMES = 84.0


def stages_of(timing: Timing) -> tuple[float, ...]:
    return time_tuple(timing)[:-1]


class Waterfall(QWidget):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.row: CachedPrediction | None = None
        self.batch_mates: tuple[CachedPrediction, ...] = ()
        self.setAccessibleName("Stages of the request")
        self.setFixedHeight(ROW * 6 + 10)

    def show_row(
        self, row: CachedPrediction | None, batch_mates: Sequence[CachedPrediction]
    ) -> None:
        self.row = row
        self.batch_mates = tuple(batch_mates)[:6]
        self.setFixedHeight(ROW * (7 + len(self.batch_mates)) + 8)
        if row is not None:
            text = [f"{s} {milliseconds(v)}" for s, v in zip(STAGES, stages_of(row.timing),
                                                              strict=True)]  # fmt: skip
            self.setAccessibleDescription(", ".join(text))
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(300, self.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        row = self.row
        if row is None:
            return
        painter = QPainter(self)
        theme, font = self._style.theme, self._style.small_number_font
        total = max(row.timing.total_ms, sum(stages_of(row.timing)), 1e-6)
        area = QRectF(NAMES, 4, self.width() - NAMES - 118, ROW)
        done, y = 0.0, 4.0
        for number, (stage, value) in enumerate(zip(STAGES, stages_of(row.timing), strict=True)):
            value = value if value == value else 0.0
            name = QRectF(0, y, NAMES - 8, ROW)
            paint.text(painter, name, stage, theme.color("dim"), font, paint.RIGHT)
            left = area.left() + done / total * area.width()
            bar = QRectF(left, y + 3, max(value / total * area.width(), 1.0), ROW - 6)
            painter.fillRect(bar, theme.color(theme.stages[number]))
            text = f"{milliseconds(value)}  {value / total:.0%}"
            place = QRectF(bar.right() + 6, y, 110, ROW)
            paint.text(painter, place, text, theme.color("text"), font)
            done += value
            y += ROW
        text = f"total {milliseconds(row.timing.total_ms)}, batch of {row.batch_size} rows"
        place = QRectF(area.left(), y, self.width() - area.left(), ROW)
        paint.text(painter, place, text, theme.color("dim"), font)
        self._paint_batch_mates(painter, area, y + ROW, total)

    def _paint_batch_mates(self, painter: QPainter, area: QRectF, y: float, total: float) -> None:
        """The others, each as one thin bar on the same scale."""
        theme, font = self._style.theme, self._style.small_number_font
        for other in self.batch_mates:
            name = QRectF(0, y, NAMES - 8, ROW)
            paint.text(
                painter, name, other.prediction_id[:8], theme.color("dim"), font, paint.RIGHT
            )
            left = area.left()
            for number, value in enumerate(stages_of(other.timing)):
                width = (value if value == value else 0.0) / total * area.width()
                bar = QRectF(left, y + 5, width, ROW - 10)
                painter.fillRect(bar, theme.color(theme.stages[number], 170))
                left += width
            place = QRectF(min(left + 6, self.width() - 130), y, 130, ROW)
            text = f"{milliseconds(other.timing.total_ms)} {other.label[:10]}"
            paint.text(painter, place, text, theme.color("dim"), font)
            y += ROW
