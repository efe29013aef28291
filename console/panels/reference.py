"""Reference against live: the distribution of one feature in one slice, as densities over the
bundle's own bins. The live side covers the whole hours that the window touches."""

from __future__ import annotations

import math

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QWidget

from console.panels.frame import Panel
from console.plots import paint
from console.plots.scale import caption, scale_top
from console.plots.style import Style
from console.state.dashboard import Board, ReferenceComparison
from console.state.timetext import clock_text
from console.state.units import number as number_text
from console.state.units import share, share_of, unit_text

FIGURES = 200.0  # pixels for the figures at the end of a bar


class Densities(QWidget):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.found: ReferenceComparison | None = None
        self.setMinimumHeight(70)
        self.setAccessibleName("Reference against live distribution")

    def show_comparison(self, found: ReferenceComparison | None) -> None:
        if found is not self.found:
            self.found = found
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, px = self._style.theme, self._style.px
        wide, high = max(self.width() - px(66), 10), max(self.height() - px(28), 10)
        area = QRectF(px(54), px(6), wide, high)
        found = self.found
        if found is None or len(found.reference) == 0:
            text = "no profile of this feature for these hours"
            paint.text(painter, area, text, theme.color("dim"), self._style.text_font, paint.CENTRE)
            return
        if found.labels:
            self._bars(painter, area, found)
        else:
            self._curves(painter, area, found)

    def _curves(self, painter: QPainter, area: QRectF, found: ReferenceComparison) -> None:
        theme = self._style.theme
        edges = found.edges
        # Open outer cells are drawn as a density too, but never set the scale.
        inner = np.concatenate([found.reference[1:-1], found.live[1:-1]])
        top, step = scale_top(float(inner.max(initial=0)) * 1.08 or 1.0)
        low, high = float(edges[0]), float(edges[-1])
        unit = unit_text(found.feature.unit)
        self._frame(painter, area, (low, high), (top, step), unit)
        painter.setClipRect(area.adjusted(0, -4, 1, 1))
        xs = area.left() + (edges - low) / max(high - low, 1e-12) * area.width()
        if found.n_live:
            outline = self._steps(xs, found.live, area, top)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("live", 120))
            painter.drawPolygon(QPolygonF(outline))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawPolyline(QPolygonF(outline))
        painter.setPen(QPen(theme.color("text"), 1, Qt.PenStyle.DashLine))
        painter.drawPolyline(QPolygonF(self._steps(xs, found.reference, area, top)))
        self._open_ends(painter, area, xs)
        named = f"density, 1/{unit}" if unit else "density"
        caption(painter, self._style, area, [(named, "dim")])

    def _open_ends(self, painter: QPainter, area: QRectF, xs: np.ndarray) -> None:
        """Mark the outer cells as open: they reach as far as the data, so their drawn width has no
        meaning."""
        theme = self._style.theme
        for left, right, text in ((xs[0], xs[1], "≤"), (xs[-2], xs[-1], "≥")):
            box = QRectF(left, area.top(), right - left, area.height())
            painter.fillRect(box, theme.color("panel", 130))
            if box.width() > 14:
                line = self._style.px(16)  # below the caption
                place = QRectF(box.left() + 2, box.top() + line, box.width() - 4, line)
                paint.text(
                    painter, place, text, theme.color("dim"), self._style.small, paint.CENTRE
                )

    @staticmethod
    def _steps(xs: np.ndarray, values: np.ndarray, area: QRectF, top: float) -> list[QPointF]:
        ys = area.bottom() - np.minimum(values / top, 1.5) * area.height()
        points = [QPointF(xs[0], area.bottom())]
        for index, y in enumerate(ys):
            points += [QPointF(xs[index], y), QPointF(xs[index + 1], y)]
        points.append(QPointF(xs[-1], area.bottom()))
        return points

    def _frame(
        self,
        painter: QPainter,
        area: QRectF,
        across: tuple[float, float],
        up: tuple[float, float],
        unit: str,
    ) -> None:
        theme, px = self._style.theme, self._style.px
        top, step = up
        for number in range(int(round(top / step)) + 1):
            y = area.bottom() - number * step / top * area.height()
            painter.setPen(QPen(theme.color("grid"), 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            place = QRectF(0, y - px(8), area.left() - px(6), px(16))
            text = number_text(number * step)
            self._style.axis_text(painter, place, text, paint.RIGHT)
        metrics = QFontMetricsF(self._style.small_number_font)
        low, high = across
        _, step = scale_top(high - low)
        value = math.ceil(low / step) * step
        while value <= high:
            x = area.left() + (value - low) / max(high - low, 1e-12) * area.width()
            text = number_text(0 if abs(value) < step / 1e6 else value, 4)
            text = f"{text} {unit}".strip() if value + step > high else text
            half = metrics.horizontalAdvance(text) / 2 + 1
            x = min(x, self.width() - half)  # the last label has the unit and must not be cut
            place = QRectF(x - half, area.bottom() + 3, 2 * half, px(16))
            self._style.axis_text(painter, place, text, paint.CENTRE)
            value += step

    def _bars(self, painter: QPainter, area: QRectF, found: ReferenceComparison) -> None:
        theme, font, px = self._style.theme, self._style.small_number_font, self._style.px
        count = len(found.labels)
        most = max(float(found.reference.max()), float(found.live.max()), 1e-9)
        height, room = min(area.height() / count, px(40)), px(FIGURES)
        for number, label in enumerate(found.labels):
            y = area.top() + number * height
            place = QRectF(px(4), y, area.left() + px(20), height)
            self._style.axis_text(painter, place, label, paint.RIGHT)
            width = (area.width() - px(30) - room) / most
            left = area.left() + px(30)
            live = QRectF(left, y + 3, found.live[number] * width, height - 6)
            painter.fillRect(live, theme.color("live"))
            painter.setPen(QPen(theme.color("text"), 1, Qt.PenStyle.DashLine))
            box = QRectF(left, y + 3, found.reference[number] * width, height - 6)
            painter.drawRect(box)
            live_text = share_of(float(found.live[number]), found.n_live)
            text = f"{live_text} ┄ {share(found.reference[number])}"
            place = QRectF(area.right() - room, y, room - px(2), height)
            paint.text(painter, place, text, theme.color("text"), font, paint.RIGHT)


class ReferencePanel(Panel):
    name = "reference"
    heading = "REFERENCE vs LIVE"

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self.plot = Densities(style)
        self.body.addWidget(self.plot, 1)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        found = board.comparison
        self.plot.show_comparison(found)
        if found is None:
            key = board.view.drift_key
            text = f"{key[0]} [{key[1] or 'all'}]" if key else "select a feature"
            self.title.show_legend([(text, "dim")])
            return
        unit = unit_text(found.feature.unit)
        unit = f" in {unit}" if unit else ""
        low, high = (clock_text(moment, "%H:%M") for moment in (found.from_s, found.to_s))
        measure = board.view.measure
        legend = []
        if measure in found.scores:
            legend.append((f"{measure.upper()} {found.scores[measure]:.2f}", "dim"))
        legend += [
            (f"┄ bundle n {found.n_reference:,.0f}", "text"),
            (f"■ {low}–{high} n {found.n_live:,}", "accent"),
        ]
        legend.append((f"{found.feature.name}{unit} [{found.slice or 'all'}]", "text"))
        self.title.show_legend(legend)
        self.plot.setAccessibleDescription(" ".join(text for text, _ in legend)[:300])

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        found = self.board.comparison if self.board is not None else None
        head = ["from", "to", "reference", "live"]
        if found is None:
            return head, []
        return head, [
            [f"{v:.6g}" for v in row]
            for row in zip(found.edges[:-1], found.edges[1:], found.reference, found.live,
                           strict=True)
        ]  # fmt: skip
