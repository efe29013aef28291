"""The stages of one request one after the other, and those of the other requests in its forward."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QPainter, QPaintEvent

from console.plots import paint
from console.plots.style import Style
from console.plots.tipped import TippedWidget
from console.state import glossary
from console.state.domain import CachedPrediction
from console.state.units import milliseconds, share
from server.telemetry.outputs import STAGES, Timing, time_tuple

ROW = 17
NAMES = 84.0


def stages_of(timing: Timing) -> tuple[float, ...]:
    return time_tuple(timing)[:-1]


class Waterfall(TippedWidget):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.row: CachedPrediction | None = None
        self.batch_mates: tuple[CachedPrediction, ...] = ()
        self.setAccessibleName("Stages of the request")
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(self._style.whole(ROW * (7 + len(self.batch_mates)) + 8))

    def show_row(
        self, row: CachedPrediction | None, batch_mates: Sequence[CachedPrediction]
    ) -> None:
        self.row = row
        self.batch_mates = tuple(batch_mates)[:6]
        self._fit()
        if row is not None:
            text = [f"{s} {milliseconds(v)}" for s, v in zip(STAGES, stages_of(row.timing),
                                                              strict=True)]  # fmt: skip
            self.setAccessibleDescription(", ".join(text))
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(300, self.height())

    def tip_at(self, x: float, y: float) -> str:
        """What the stage at this height is."""
        place = int((y - 4.0) // self._style.px(ROW))
        if 0 <= place < len(STAGES):
            return glossary.fact(STAGES[place])
        batch = "The total, and the others that went through the model with it."
        return batch if place >= 0 else ""

    def paintEvent(self, event: QPaintEvent) -> None:
        row = self.row
        if row is None:
            return
        painter = QPainter(self)
        theme, font, px = self._style.theme, self._style.small_number_font, self._style.px
        line, names = px(ROW), px(NAMES)
        total = max(row.timing.total_ms, sum(stages_of(row.timing)), 1e-6)
        area = QRectF(names, 4, self.width() - names - px(118), line)
        done, y = 0.0, 4.0
        for number, (stage, value) in enumerate(zip(STAGES, stages_of(row.timing), strict=True)):
            value = value if value == value else 0.0
            name = QRectF(0, y, names - px(8), line)
            self._style.axis_text(painter, name, stage, paint.RIGHT)
            left = area.left() + done / total * area.width()
            bar = QRectF(left, y + px(3), max(value / total * area.width(), 1.0), line - px(6))
            painter.fillRect(bar, theme.color(theme.stages[number]))
            text = f"{milliseconds(value)}  {share(value / total, 0)}"
            place = QRectF(bar.right() + px(6), y, px(110), line)
            paint.text(painter, place, text, theme.color("text"), font)
            done += value
            y += line
        rows = "row" if row.batch_size == 1 else "rows"
        text = f"total {milliseconds(row.timing.total_ms)}, batch of {row.batch_size} {rows}"
        place = QRectF(area.left(), y, self.width() - area.left(), line)
        self._style.axis_text(painter, place, text)
        self._paint_batch_mates(painter, area, y + line, total)

    def _paint_batch_mates(self, painter: QPainter, area: QRectF, y: float, total: float) -> None:
        """Paint each of the other requests as one thin bar on the same scale."""
        theme, px = self._style.theme, self._style.px
        line, names = px(ROW), px(NAMES)
        for other in self.batch_mates:
            name = QRectF(0, y, names - px(8), line)
            self._style.axis_text(painter, name, other.prediction_id[:8], paint.RIGHT)
            left = area.left()
            for number, value in enumerate(stages_of(other.timing)):
                width = (value if value == value else 0.0) / total * area.width()
                bar = QRectF(left, y + px(5), width, line - px(10))
                painter.fillRect(bar, theme.color(theme.stages[number], 170))
                left += width
            place = QRectF(min(left + px(6), self.width() - px(130)), y, px(130), line)
            text = f"{milliseconds(other.timing.total_ms)} {other.label[:10]}"
            self._style.axis_text(painter, place, text)
            y += line
