"""The line plots of the latency panel: percentiles, throughput, stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPen, QPolygonF

from console.app.theme import Theme
from console.app.timeaxis import TimeAxis
from console.plots import paint
from console.plots.scale import caption, column_at, scale_top
from console.plots.style import Style
from console.plots.timeplot import TimePlot
from console.state.dashboard import LatencyColumns
from console.state.units import milliseconds, percent_of
from console.state.units import number as number_text
from server.telemetry.outputs import STAGES

NAME_PIXELS = 14.0  # pixels between the names at the ends of lines
MOST_NAME_PIXELS = 150.0  # widest such name, in pixels
_DASHES = (
    Qt.PenStyle.SolidLine,
    Qt.PenStyle.DashLine,
    Qt.PenStyle.DotLine,
    Qt.PenStyle.DashDotLine,
)


def split_pen(theme: Theme, number: int, width: float = 1) -> QPen:
    """The pen for one of several lines: a colour, and dashes for readers who cannot tell the
    colours apart."""
    color = theme.color(theme.split[number % len(theme.split)])
    return QPen(color, width, _DASHES[number % len(_DASHES)])


def apart(places: Sequence[float], least: float, lowest: float) -> list[float]:
    """The same positions in order, none nearer than `least` to the next, none below `lowest`."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + least) if found else place)
    for index in range(len(found) - 1, -1, -1):
        limit = lowest if index == len(found) - 1 else found[index + 1] - least
        found[index] = min(found[index], limit)
    return found


class LinePlot(TimePlot):
    """A vertical scale from zero with labels; subclasses define what is drawn."""

    def axis_lines(
        self, painter: QPainter, area: QRectF, top: float, step: float, unit: str
    ) -> None:
        theme, px = self.ui_style.theme, self.ui_style.px
        for number in range(int(round(top / step)) + 1):
            value = number * step
            y = area.bottom() - value / top * area.height()
            if number:
                painter.setPen(QPen(theme.color("grid"), 1))
                painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            place = QRectF(0, min(y - px(8), self.height() - px(15)), area.left() - px(6), px(16))
            text = number_text(value).replace(",", "") + (
                f" {unit}" if number == round(top / step) else ""
            )
            if y > area.top() + 4 or number:
                self.ui_style.axis_text(painter, place, text, paint.RIGHT)

    def line_names(
        self, painter: QPainter, area: QRectF, ends: Sequence[tuple[float, int, str]]
    ) -> None:
        """Draw the names at the right ends of the lines. Each line is (height of its end, number,
        name). Where the plot is low, the names are closer together."""
        if not ends:
            return
        theme, font, px = self.ui_style.theme, self.ui_style.small, self.ui_style.px
        ends = sorted(ends)
        step = min(px(NAME_PIXELS), area.height() / len(ends))
        places = apart([y for y, _, _ in ends], step, area.bottom() - px(8))
        for y, (_, number, name) in zip(places, ends, strict=True):
            room = min(QFontMetricsF(font).horizontalAdvance(name) + 1, px(MOST_NAME_PIXELS))
            right = area.right() - px(22)
            ground = QRectF(right - room - px(6), y - px(7), room + px(28), px(14))
            painter.fillRect(ground, theme.color("panel", 200))
            place = QRectF(right - room, y - px(8), room, px(16))
            paint.text(painter, place, name, theme.color("text"), font, paint.RIGHT)
            painter.setPen(split_pen(theme, number, 2))
            painter.drawLine(QPointF(area.right() - px(20), y), QPointF(area.right() - 2, y))


class Percentiles(LinePlot):
    """p50, p95 and p99, or p95 by member; the part of p99 above the objective is red."""

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style, axis, "Latency percentiles over time")
        self._top = 1.0

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        found = self.board.latency if self.board is not None else None
        if found is None:
            return
        top, step = scale_top(self._reach(found))
        self._top = top
        self.axis_lines(painter, area, top, step, "ms")
        painter.setClipRect(area)
        painter.setRenderHint(paint.SMOOTH)
        xs = self.xs(found.starts + found.column_s / 2)
        theme = self.ui_style.theme
        if found.split:
            for number, (_, values) in enumerate(found.split):
                pen = split_pen(theme, number)
                paint.line(painter, xs, self._ys(values, area), pen, area.top() - 40)
            self._names(painter, area, found)
        else:
            for values, tone in ((found.p50, "p50"), (found.p95, "p95"), (found.p99, "p99")):
                pen = QPen(theme.color(tone), 1)
                paint.line(painter, xs, self._ys(values, area), pen, area.top() - 40)
        self._objective(painter, area, found, xs)

    def _names(self, painter: QPainter, area: QRectF, found: LatencyColumns) -> None:
        """Write each line's name at its end, so that the reader need not rely on colours."""
        ends = []
        for number, (name, values) in enumerate(found.split):
            known = np.flatnonzero(np.isfinite(values))
            if len(known):
                y = float(self._ys(values[known[-1:]], area)[0])
                name = self.board.name_of(name) if self.board is not None else name
                ends.append((max(y, area.top() + 8), number, name))
        self.line_names(painter, area, ends)

    def _reach(self, found: LatencyColumns) -> float:
        """The top of the scale: one spike must not flatten everything else."""
        lines = [values for _, values in found.split] or [found.p99]
        values = np.concatenate(lines) if lines else np.zeros(0)
        values = values[np.isfinite(values)]
        if not len(values):
            return max(found.slo_ms * 1.3, 1.0)
        usual = float(np.quantile(values, 0.97)) * 1.35
        reach = min(float(values.max()) * 1.05, max(usual, float(np.median(values)) * 3))
        return max(reach, found.slo_ms * 1.15, 1.0)

    def _ys(self, values: np.ndarray, area: QRectF) -> np.ndarray:
        return area.bottom() - values / self._top * area.height()

    def _objective(
        self, painter: QPainter, area: QRectF, found: LatencyColumns, xs: np.ndarray
    ) -> None:
        theme, px = self.ui_style.theme, self.ui_style.px
        highest = max(
            (float(np.nanmax(v)) for v in (found.p99,) if np.isfinite(v).any()), default=0.0
        )
        if highest > self._top:
            place = QRectF(area.right() - px(160), area.top(), px(154), px(14))
            text = f"↑ {milliseconds(highest)}"
            self.ui_style.axis_text(painter, place, text, paint.RIGHT)
        if not found.slo_ms:
            return
        y = area.bottom() - found.slo_ms / self._top * area.height()
        if not found.split:
            painter.save()
            painter.setClipRect(QRectF(area.left(), area.top(), area.width(), y - area.top()))
            pen = QPen(theme.color("critical"), 1.6)
            paint.line(painter, xs, self._ys(found.p99, area), pen, area.top() - 40)
            painter.restore()
        painter.setPen(QPen(theme.color("critical"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        place = QRectF(area.left() + px(6), y - px(16), px(200), px(15))
        text = f"SLO {milliseconds(found.slo_ms)}"
        paint.text(painter, place, text, theme.color("critical"), self.ui_style.small)

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0:
            return ()
        if found.split:
            name_of = self.board.name_of if self.board is not None else str
            tones = self.ui_style.theme.split
            return [
                (f"{name_of(name)[:28]} {milliseconds(values[index])}", tones[n % len(tones)])
                for n, (name, values) in enumerate(found.split)
            ]
        rate = found.rate[index]
        n = f"n {found.served[index]:,.0f}, {rate:,.0f} req/s"
        served = n if rate == rate else "no requests"
        return [
            (f"p50 {milliseconds(found.p50[index])}", "p50"),
            (f"p95 {milliseconds(found.p95[index])}", "p95"),
            (f"p99 {milliseconds(found.p99[index])}", "p99"),
            (served, "dim"),
        ]


class Throughput(LinePlot):
    """Requests a second, and errors as a red line on the same scale."""

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        found = self.board.latency if self.board is not None else None
        if found is None or not np.isfinite(found.rate).any():
            return
        top, step = scale_top(float(np.nanmax(found.rate)) * 1.05)
        self.axis_lines(painter, area, top, step, "/s")
        painter.setClipRect(area)
        painter.setRenderHint(paint.SMOOTH)
        theme = self.ui_style.theme
        xs = self.xs(found.starts + found.column_s / 2)
        ys = area.bottom() - found.rate / top * area.height()
        paint.line(painter, xs, ys, QPen(theme.color("p95"), 1))
        failed = area.bottom() - found.rate * found.errors / top * area.height()
        paint.line(painter, xs, failed, QPen(theme.color("critical"), 1))

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0:
            return ()
        share = found.errors[index]
        n = found.served[index]
        known = f"errors {percent_of(share, n)} n {n:,.0f}"
        errors = known if share == share else "no requests"
        return [(f"{found.rate[index]:,.0f} req/s", "p95"), (errors, "critical")]


class StageTimesPlot(LinePlot):
    """The mean time of a request by stage, stacked."""

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        found = self.board.latency if self.board is not None else None
        if found is None or not np.isfinite(found.stages).any():
            return
        stacked = np.cumsum(np.nan_to_num(found.stages), axis=0)
        known = np.isfinite(found.stages[0])
        high = stacked[-1][known]
        top, step = scale_top(max(float(np.quantile(high, 0.98)) * 1.2, 1e-3) if len(high) else 1.0)
        self.axis_lines(painter, area, top, max(step, top / 2), "ms")
        painter.setClipRect(area)
        theme = self.ui_style.theme
        xs = self.xs(found.starts)
        width = found.column_s / max(found.to_s - found.from_s, 1e-9) * area.width()
        edges = np.flatnonzero(np.diff(np.concatenate(([0], known.view(np.int8), [0]))))
        painter.setPen(Qt.PenStyle.NoPen)
        for number in range(len(STAGES) - 1, -1, -1):
            painter.setBrush(theme.color(theme.stages[number]))
            ys = area.bottom() - stacked[number] / top * area.height()
            for begin, end in zip(edges[::2], edges[1::2], strict=True):
                points = [QPointF(xs[begin], area.bottom())]
                points += [QPointF(xs[i] + width / 2, ys[i]) for i in range(begin, end)]
                points.append(QPointF(xs[end - 1] + width, ys[end - 1]))
                points.append(QPointF(xs[end - 1] + width, area.bottom()))
                painter.drawPolygon(QPolygonF(points))
        text = [(f"■ {name}", theme.stages[n]) for n, name in enumerate(STAGES)]
        label = [("mean by stage", "dim"), *text]
        self.captions = caption(painter, self.ui_style, area, label)

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0 or not np.isfinite(found.stages[0, index]):
            return ()
        theme = self.ui_style.theme
        lines = [
            (f"{name} {milliseconds(found.stages[n, index])}", theme.stages[n])
            for n, name in enumerate(STAGES)
        ]
        return [*lines, (f"batch {found.batch[index]:.1f} rows", "dim")]
