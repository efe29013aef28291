"""Quality: accuracy and value, realised where labels came and estimated for all, by slice; the
calibration, the confusion, and the worst slices in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSplitter, QWidget

from console.board import Board, QualityLine
from console.domain import QualityRow, SliceRow
from console.models.cells import Cell, Column
from console.models.table import RowsModel
from console.panels import paint
from console.panels.frame import Panel
from console.panels.look import Look
from console.panels.table import Table
from console.panels.timeplot import caption, scale_top
from console.plain import duration
from console.timeaxis import clock_text


def _share(value: float) -> str:
    return f"{value:.1%}" if value == value else "–"


def _money(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".strip() if value == value else "–"


def merged(lines: Sequence[QualityLine]) -> dict[str, list[QualityRow]]:
    """By slice: one row a bucket in time order, servers weighted by their predictions."""
    groups: dict[tuple[str, int], list[QualityRow]] = {}
    for line in lines:
        groups.setdefault((line.row.slice, line.row.bucket_unix_s), []).append(line.row)
    found: dict[str, list[QualityRow]] = {}
    for (place, _), rows in sorted(groups.items(), key=lambda item: item[0][1]):
        found.setdefault(place, []).append(_merge(rows))
    return found


def _merge(rows: Sequence[QualityRow]) -> QualityRow:
    if len(rows) == 1:
        return rows[0]
    best = max(rows, key=lambda row: row.predictions)
    bins = max((len(row.reliability) for row in rows), default=0)
    fitting = [row for row in rows if len(row.reliability) == bins]
    kind = type(fitting[0].reliability[0]) if bins else None
    reliability = tuple(
        kind(
            sum(row.reliability[i].n for row in fitting),
            sum(row.reliability[i].sum_confidence for row in fitting),
            sum(row.reliability[i].sum_correct for row in fitting),
        )
        for i in range(bins)
        if kind is not None
    )
    same = [r for r in rows if r.labels == best.labels and len(r.confusion) == len(best.confusion)]
    return QualityRow(
        bucket_unix_s=best.bucket_unix_s,
        width_s=best.width_s,
        stamp=best.stamp,
        slice=best.slice,
        predictions=sum(row.predictions for row in rows),
        labelled=sum(row.labelled for row in rows),
        accuracy=_mean(rows, "accuracy", "labelled"),
        estimated_accuracy=_mean(rows, "estimated_accuracy", "predictions"),
        value_per_1000=_mean(rows, "value_per_1000", "labelled"),
        estimated_value_per_1000=_mean(rows, "estimated_value_per_1000", "predictions"),
        ece=_mean(rows, "ece", "labelled"),
        median_label_delay_s=_mean(rows, "median_label_delay_s", "labelled"),
        reliability=reliability,
        labels=best.labels,
        confusion=tuple(sum(parts) for parts in zip(*(r.confusion for r in same), strict=True)),
        value_unit=best.value_unit,
        estimated_accuracy_labelled=_mean(rows, "estimated_accuracy_labelled", "labelled"),
    )


def _mean(rows: Sequence[QualityRow], name: str, weight: str) -> float:
    pairs = [(getattr(row, name), getattr(row, weight)) for row in rows]
    known = [(value, count) for value, count in pairs if value == value and count > 0]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else math.nan


def _slice_columns() -> tuple[Column, ...]:
    def figure(words: str, tone: str = "text") -> Cell:
        return Cell(words, tone, mono=True, right=True)

    def gap(row: QualityRow) -> Cell:
        difference = row.accuracy - row.estimated_accuracy_labelled
        odd = difference < -0.05
        words = f"{difference:+.1%}" if difference == difference else "–"
        return figure(words, "warning" if odd else "dim")

    def labelled(row: QualityRow) -> Cell:
        share = row.labelled / row.predictions if row.predictions else math.nan
        return figure(f"{row.labelled:,} ({_share(share)})", "dim")

    return (
        Column("slice", lambda r: Cell(r.slice or "all", mono=True), 0),
        Column("realised", lambda r: figure(_share(r.accuracy)), 70, right=True),
        Column("estimated", lambda r: figure(_share(r.estimated_accuracy), "dim"), 74, right=True),
        Column("real - est.", gap, 78, right=True, tip="on the labelled rows alone"),
        Column("value/1000", lambda r: figure(_money(r.value_per_1000, r.value_unit)), 92,
               right=True),
        Column("estimated", lambda r: figure(_money(r.estimated_value_per_1000, r.value_unit),
                                             "dim"), 92, right=True),
        Column("labelled", labelled, 110, right=True),
        Column("delay", lambda r: figure(duration(r.median_label_delay_s), "dim"), 64, right=True),
        Column("ECE", lambda r: figure(f"{r.ece:.3f}" if r.ece == r.ece else "–", "dim"), 56,
               right=True),
    )  # fmt: skip


class Course(QWidget):
    """Realised against estimated over the buckets there are, with its own time labels."""

    def __init__(self, look: Look, name: str, fields: tuple[str, str], percent: bool) -> None:
        super().__init__()
        self._look = look
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
        theme, font = self._look.theme, self._look.small_figures
        area = QRectF(60, 8, max(self.width() - 72, 10), max(self.height() - 30, 10))
        if not self.rows:
            words = "no quality rows yet: they need predictions, and labels by Feedback"
            paint.text(painter, area, words, theme.color("dim"), self._look.words, paint.CENTRE)
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
            words = f"{value:.0%}" if self._percent and step >= 0.01 else f"{value:g}"
            words = f"{value:.1%}" if self._percent and step < 0.01 else words
            place = QRectF(0, y - 8, area.left() - 6, 16)
            paint.text(painter, place, words, theme.color("dim"), font, paint.RIGHT)
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
        for index in {0, len(times) // 2, len(times) - 1}:
            place = QRectF(xs[index] - 50, area.bottom() + 3, 100, 16)
            place.moveLeft(min(max(place.left(), 0), self.width() - 100))
            words = clock_text(times[index], "%d %b %H:%M")
            paint.text(painter, place, words, theme.color("dim"), font, paint.CENTRE)
        legend = [(self._name, "text"), ("━ realised", "p99"), ("┄ estimated", "p50")]
        caption(painter, self._look, area, legend)


class Calibration(QWidget):
    """Confidence against how often it was right, and the confusion of the labels."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
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
        theme, font = self._look.theme, self._look.small_figures
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(area)
        painter.setPen(QPen(theme.color("faint"), 1, Qt.PenStyle.DashLine))
        painter.drawLine(area.bottomLeft(), area.topRight())
        top = QRectF(area.left() - 40, area.top() - 20, 260, 16)
        paint.text(painter, top, "right when so confident", theme.color("text"), self._look.small)
        under = QRectF(area.left(), area.bottom() + 3, area.width(), 16)
        words = "confidence 0 to 1"
        paint.text(painter, under, words, theme.color("dim"), font, paint.CENTRE)
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
        theme, look = self._look.theme, self._look
        count = len(row.labels)
        if not count or len(row.confusion) != count * count or count > 24:
            return
        cells = np.array(row.confusion).reshape(count, count)
        shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        width, height = area.width() / count, area.height() / count
        top = QRectF(area.left() - 60, area.top() - 36, 300, 16)
        paint.text(painter, top, "true (down) × predicted", theme.color("text"), look.small)
        for y in range(count):
            place = QRectF(area.left() - 66, area.top() + y * height, 60, height)
            words = row.labels[y]
            paint.text(painter, place, words, theme.color("dim"), look.small_figures, paint.RIGHT)
            place = QRectF(area.left() + y * width, area.top() - 18, width, 16)
            paint.text(painter, place, words, theme.color("dim"), look.small_figures, paint.CENTRE)
            for x in range(count):
                box = QRectF(area.left() + x * width, area.top() + y * height, width, height)
                tone = "accent" if x == y else "warning"
                painter.fillRect(box.adjusted(1, 1, -1, -1), theme.color(
                    tone, int(30 + 190 * shares[y, x])))  # fmt: skip
                paint.text(painter, box, f"{cells[y, x]:,}", theme.color("text"),
                           look.small_figures, paint.CENTRE)  # fmt: skip


def worst_by_expression(
    found: Sequence[tuple[str, SliceRow]],
) -> list[tuple[str, SliceRow]]:
    """One row a slice: servers of one stamp find the same ones. The largest error stays."""
    worst: dict[str, tuple[str, SliceRow]] = {}
    for pair in found:
        held = worst.get(pair[1].expression)
        if held is None or pair[1].error > held[1].error:
            worst[pair[1].expression] = pair
    return sorted(worst.values(), key=lambda pair: -pair[1].z)


def _worst_columns() -> tuple[Column, ...]:
    def words(pair: tuple[str, SliceRow]) -> Cell:
        row = pair[1]
        return Cell(row.words or row.expression, "text", tip=row.expression)

    def error(pair: tuple[str, SliceRow]) -> Cell:
        row = pair[1]
        loud = "critical" if row.error > 2 * max(row.error_elsewhere, 1e-9) else "text"
        return Cell(f"{row.error:.1%}", loud, mono=True, right=True)

    return (
        Column("the model is worst on", words, 0),
        Column("error", error, 62, right=True, order=lambda pair: pair[1].error),
        Column("else", lambda p: Cell(f"{p[1].error_elsewhere:.1%}", "dim", mono=True, right=True),
               62, right=True),
        Column("n", lambda p: Cell(f"{p[1].support:,}", "dim", mono=True, right=True), 62,
               right=True),
        Column("share", lambda p: Cell(f"{p[1].share:.1%}", "dim", mono=True, right=True), 58,
               right=True),
        Column("filter", lambda p: Cell(p[1].expression, "dim", mono=True), 220),
    )  # fmt: skip


class QualityPanel(Panel):
    name = "quality"
    heading = "QUALITY"

    def __init__(self, look: Look) -> None:
        super().__init__(look)
        self.slice = ""
        self._rows: dict[str, list[QualityRow]] = {}
        fields = ("accuracy", "estimated_accuracy")
        self.accuracy = Course(look, "accuracy", fields, True)
        fields = ("value_per_1000", "estimated_value_per_1000")
        self.value = Course(look, "value per 1,000 predictions", fields, False)
        self.calibration = Calibration(look)
        columns = _slice_columns()
        self.model = RowsModel(columns, lambda row: row.slice)
        self.table = Table(look, self.model, columns)
        self.table.setAccessibleName("Quality by slice")
        self.table.chosen.connect(self._choose)
        worst = _worst_columns()
        self.worst_model = RowsModel(worst, lambda pair: pair[1].expression)
        self.worst = Table(look, self.worst_model, worst)
        self.worst.setAccessibleName("Worst slices")
        self.worst.opened.connect(
            lambda pair: self.jump.emit("predictions", pair[1].expression, math.nan)
        )
        for table in (self.table, self.worst):
            self.watch_focus(table)
        left, right = QSplitter(Qt.Orientation.Vertical), QSplitter(Qt.Orientation.Vertical)
        for chart in (self.accuracy, self.value, self.calibration):
            left.addWidget(chart)
        for table in (self.table, self.worst):
            right.addWidget(table)
        whole = QSplitter(Qt.Orientation.Horizontal)
        whole.addWidget(left)
        whole.addWidget(right)
        whole.setSizes([500, 620])
        self.body.addWidget(whole, 1)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self._rows = merged(board.quality)
        self.model.show([rows[-1] for _, rows in sorted(self._rows.items())])
        self.worst_model.show(worst_by_expression(board.slices))
        self._show_slice()
        newest = max((line.at_s + line.row.width_s for line in board.quality), default=math.nan)
        legend = [("Enter on a slice: its predictions", "dim")]
        if newest == newest:
            age = max(0.0, board.made_s - newest)
            legend.insert(0, (f"last bucket ended {duration(age)} ago", "dim"))
        self.title.show_legend([(f"slice {self.slice or 'all'}", "text"), *legend])

    def _choose(self, row: QualityRow) -> None:
        self.slice = row.slice
        self._show_slice()

    def _show_slice(self) -> None:
        rows = self._rows.get(self.slice, [])
        self.accuracy.show_rows(rows)
        self.value.show_rows(rows)
        self.calibration.show_row(rows[-1] if rows else None)

    def focus_target(self) -> QWidget:
        return self.table

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        names = ["slice", "bucket_unix_s", "predictions", "labelled", "accuracy"]
        names += ["estimated_accuracy", "value_per_1000", "estimated_value_per_1000", "ece"]
        return names, [
            [str(getattr(row, name)) for name in names]
            for rows in self._rows.values()
            for row in rows
        ]
