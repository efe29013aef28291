"""The plots of the latency panel: percentiles, stages, heat map, marks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QHelpEvent, QImage, QPainter, QPen, QPolygonF
from PySide6.QtWidgets import QToolTip

from console.board import Board, Happening, Latency
from console.cache.quantiles import BUCKETS, FIRST_MS, PER_OCTAVE, lower_ms
from console.domain import STAGES
from console.models.table import plain_tip
from console.panels import paint
from console.panels.look import Look
from console.panels.timeplot import TimePlot, caption, scale_top
from console.plain import milliseconds
from console.theme import lookup
from console.timeaxis import TimeAxis, clock_text


def column_at(found: Latency, at_s: float) -> int:
    """Index of the column that holds a moment; -1 outside."""
    if not len(found.starts):
        return -1
    index = int((at_s - found.starts[0]) // found.column_s)
    return index if 0 <= index < len(found.starts) else -1


class LinePlot(TimePlot):
    """A vertical scale from zero with labels; subclasses say what is drawn."""

    def axis_lines(
        self, painter: QPainter, area: QRectF, top: float, step: float, unit: str
    ) -> None:
        theme = self.look.theme
        font = self.look.small_figures
        for number in range(int(round(top / step)) + 1):
            value = number * step
            y = area.bottom() - value / top * area.height()
            if number:
                painter.setPen(QPen(theme.color("grid"), 1))
                painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            place = QRectF(0, min(y - 8, self.height() - 15), area.left() - 6, 16)
            words = f"{value:g}" + (f" {unit}" if number == round(top / step) else "")
            if y > area.top() + 4 or number:
                paint.text(painter, place, words, theme.color("dim"), font, paint.RIGHT)


class Percentiles(LinePlot):
    """p50, p95 and p99, or p95 by member; the part of p99 above the objective is red."""

    def __init__(self, look: Look, axis: TimeAxis) -> None:
        super().__init__(look, axis, "Latency percentiles over time")
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
        theme = self.look.theme
        if found.split:
            for number, (_, values) in enumerate(found.split):
                color = theme.color(theme.split[number % len(theme.split)])
                paint.line(painter, xs, self._ys(values, area), QPen(color, 1), area.top() - 40)
        else:
            for values, tone in ((found.p50, "p50"), (found.p95, "p95"), (found.p99, "p99")):
                pen = QPen(theme.color(tone), 1)
                paint.line(painter, xs, self._ys(values, area), pen, area.top() - 40)
        self._objective(painter, area, found, xs)

    def _reach(self, found: Latency) -> float:
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
        found: np.ndarray = area.bottom() - values / self._top * area.height()
        return found

    def _objective(self, painter: QPainter, area: QRectF, found: Latency, xs: np.ndarray) -> None:
        theme = self.look.theme
        highest = max(
            (float(np.nanmax(v)) for v in (found.p99,) if np.isfinite(v).any()), default=0.0
        )
        if highest > self._top:
            place = QRectF(area.right() - 160, area.top(), 154, 14)
            words = f"↑ {milliseconds(highest)}"
            paint.text(
                painter, place, words, theme.color("dim"), self.look.small_figures, paint.RIGHT
            )
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
        place = QRectF(area.left() + 6, y - 16, 200, 15)
        words = f"SLO {milliseconds(found.slo_ms)}"
        paint.text(painter, place, words, theme.color("critical"), self.look.small)

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0:
            return ()
        if found.split:
            theme = self.look.theme
            return [
                (f"{name[:28]} {milliseconds(values[index])}", theme.split[n % len(theme.split)])
                for n, (name, values) in enumerate(found.split)
            ]
        rate = found.rate[index]
        served = f"{rate:,.0f} req/s" if rate == rate else "nothing served"
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
        theme = self.look.theme
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
        errors = f"errors {share:.2%}" if share == share else "no requests"
        return [(f"{found.rate[index]:,.0f} req/s", "p95"), (errors, "critical")]


class Stages(LinePlot):
    """Where the mean request spends its time, stacked."""

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
        theme = self.look.theme
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
        words = [(f"■ {name}", theme.stages[n]) for n, name in enumerate(STAGES)]
        caption(painter, self.look, area, [("mean by stage", "dim"), *words])

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0 or not np.isfinite(found.stages[0, index]):
            return ()
        theme = self.look.theme
        lines = [
            (f"{name} {milliseconds(found.stages[n, index])}", theme.stages[n])
            for n, name in enumerate(STAGES)
        ]
        return [*lines, (f"batch {found.batch[index]:.1f} rows", "dim")]


class HeatMap(TimePlot):
    """Log buckets over time. Every column is scaled by its own largest bucket, so that a change of
    traffic does not look like a change of latency."""

    def __init__(self, look: Look, axis: TimeAxis) -> None:
        super().__init__(look, axis, "Latency heat map over time")
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
        words = "share of requests by duration, log scale · click: examples"
        caption(painter, self.look, area, [(words, "dim")])

    def _image(self, heat: np.ndarray) -> QImage:
        level = np.clip(np.sqrt(heat) * 255, 0, 255).astype(np.uint8)
        pixels = np.ascontiguousarray(lookup(self.look.theme)[level][::-1])
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
        theme = self.look.theme
        for value in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000):
            y = self.y_of(value)
            if not area.top() + 6 < y < area.bottom() - 4:
                continue
            painter.setPen(QPen(theme.color("border"), 1))
            painter.drawLine(QPointF(area.left() - 3, y), QPointF(area.left(), y))
            place = QRectF(0, y - 8, area.left() - 6, 16)
            words = f"{value} ms" if value == 100 else f"{value}"
            font = self.look.small_figures
            paint.text(painter, place, words, theme.color("dim"), font, paint.RIGHT)
        slo = self.board.latency.slo_ms if self.board and self.board.latency else 0
        if slo:
            painter.setPen(QPen(theme.color("critical", 150), 1, Qt.PenStyle.DashLine))
            painter.drawLine(
                QPointF(area.left(), self.y_of(slo)), QPointF(area.right(), self.y_of(slo))
            )

    def cell(self, at_s: float, y: float) -> tuple[float, float, float, float] | None:
        """(from, to, least ms, most ms) of the cell at a place, a little widened to be hit."""
        found = self.board.latency if self.board is not None else None
        index = column_at(found, at_s) if found is not None else -1
        if found is None or index < 0:
            return None
        start = float(found.starts[index])
        middle = self.ms(y)
        return start, start + found.column_s, middle / 2 ** (1 / 4), middle * 2 ** (1 / 4)


class Marks(TimePlot):
    """Alerts and deploys on the time axis, with its labels."""

    chosen = Signal(object)  # a Happening

    def __init__(self, look: Look, axis: TimeAxis) -> None:
        super().__init__(look, axis, "Alerts and deploys over time", time_labels=True)
        self.shows_readout = False
        self.setFixedHeight(60)
        self.picked.connect(self._pick)

    def _marks(self) -> list[tuple[float, float, Happening]]:
        area = self.area
        low, high = self.span
        rows = {
            "alert": area.top() + area.height() * 0.26,
            "link": area.top() + 0.26 * area.height(),
        }
        other = area.top() + area.height() * 0.74
        return [
            (self.x_of(happening.at_s), rows.get(happening.kind, other), happening)
            for happening in (self.board.happenings if self.board is not None else ())
            if low <= happening.at_s <= high
        ]

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        theme = self.look.theme
        font = self.look.small
        for words, part in (("alerts", 0.26), ("deploys", 0.74)):
            place = QRectF(0, area.top() + area.height() * part - 8, area.left() - 6, 16)
            paint.text(painter, place, words, theme.color("dim"), font, paint.RIGHT)
        for x, y, happening in reversed(self._marks()):
            severity = happening.severity
            if happening.kind == "deploy" and severity == "info":
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(theme.color("accent"))
                painter.setRenderHint(paint.SMOOTH)
                painter.drawPolygon(
                    QPolygonF([QPointF(x - 4, y - 4), QPointF(x + 5, y), QPointF(x - 4, y + 4)])
                )
            else:
                paint.sign(painter, theme, severity, QPointF(x, y), 8)

    def _near(self, x: float, y: float) -> Happening | None:
        found = [(abs(mx - x) + abs(my - y), mark) for mx, my, mark in self._marks()]
        distance, mark = min(found, key=lambda pair: pair[0], default=(99.0, None))
        return mark if distance < 12 else None

    def _pick(self, at_s: float, y: float) -> None:
        mark = self._near(self.x_of(at_s), y)
        if mark is not None:
            self.chosen.emit(mark)

    def event(self, event: object) -> bool:
        if isinstance(event, QHelpEvent):
            mark = self._near(event.pos().x(), event.pos().y())
            if mark is not None:
                words = f"{clock_text(mark.at_s)} {mark.text}"
                QToolTip.showText(event.globalPos(), plain_tip(words[:600]))
            return True
        return super().event(event)  # type: ignore[arg-type]


def shown_board(board: Board, *plots: TimePlot) -> None:
    for plot in plots:
        if plot.isVisible():
            plot.show_board(board)
        else:
            plot.board = board
            plot._layer = None
