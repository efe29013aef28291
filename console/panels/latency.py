"""Latency: percentiles, stages, heat map and marks on one axis. A click on a cell of the heat map
lists the requests kept as its examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QVBoxLayout

from console.app.timeaxis import TimeAxis
from console.panels.frame import Panel
from console.plots.charts import Percentiles, StageTimesPlot, Throughput
from console.plots.event_marks import EventMarks
from console.plots.heatmap import HeatMap
from console.plots.hostplot import HostPlot
from console.plots.style import Style
from console.state.dashboard import SPLITS, Board, ExampleRequest
from console.state.timetext import span_text
from console.state.units import duration, milliseconds
from console.state.units import number as number_text
from server.telemetry.outputs import STAGES

NARROW = 430  # below this height (pixels) the stages are hidden
_SPLIT_LABELS = {"": "not split", "server": "by server", "stamp": "by stamp", "mix": "by mix",
                "replica": "by replica"}  # fmt: skip


class LatencyPanel(Panel):
    name = "latency"
    heading = "LATENCY"
    exemplars = Signal(object)  # tuple[Exemplary, ...], slowest first

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.percentiles = Percentiles(style, axis)
        self.throughput = Throughput(style, axis, "Throughput over time")
        self.stages = StageTimesPlot(style, axis, "Mean stage times over time")
        self.host = HostPlot(style, axis, "What the hosts use over time")
        self.heat = HeatMap(style, axis)
        self.event_marks = EventMarks(style, axis)
        self.plots = (
            *(self.percentiles, self.throughput, self.stages, self.host),
            *(self.heat, self.event_marks),
        )
        self._scope, self._split, self._mix = QComboBox(), QComboBox(), QComboBox()
        self.body.addLayout(self._controls())
        column = self._column = QVBoxLayout()
        column.setContentsMargins(0, 0, 0, 2)
        column.setSpacing(2)
        for plot, share in zip(self.plots, (50, 0, 18, 0, 46, 0), strict=True):
            plot.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
            column.addWidget(plot, share)
        self.throughput.hide()
        self.host.hide()
        self.percentiles.speaks_first = True
        self.event_marks.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.body.addLayout(column)
        self.heat.picked.connect(self._pick)
        self.event_marks.chosen.connect(lambda h: self.jump.emit(h.panel, _key(h), h.at_s))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def show_examples(self) -> None:
        """What a click on the heat map does, at the cross-hair's time and for all durations."""
        found = self.board.latency if self.board is not None else None
        if found is None:
            return
        at_s = self.axis.cursor_s if self.axis.cursor_s == self.axis.cursor_s else found.newest_s
        near = sorted(found.exemplars, key=lambda e: abs(e.at_s - at_s))
        column = [e for e in near if abs(e.at_s - at_s) <= found.column_s] or near[:6]
        self.exemplars.emit(tuple(sorted(column, key=lambda e: -e.total_ms)))

    def _controls(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(8, 0, 8, 2)
        row.setSpacing(6)
        for box, name in ((self._scope, "Servers shown"), (self._mix, "Modality mix shown"),
                          (self._split, "Split lines")):  # fmt: skip
            box.setAccessibleName(name)
            box.setObjectName("flat")
            box.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            box.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            box.setMinimumContentsLength(9)
            row.addWidget(box)
        row.addStretch(1)
        self._scope.addItem("all servers", "")
        self._mix.addItem("all mixes", "")
        for split in SPLITS:
            self._split.addItem(_SPLIT_LABELS[split], split)
        self._scope.activated.connect(lambda _: self.axis.change(scope=self._scope.currentData()))
        self._mix.activated.connect(lambda _: self.axis.change(mix=self._mix.currentData()))
        self._split.activated.connect(lambda _: self.axis.change(split=self._split.currentData()))
        return row

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        for plot in self.plots:
            plot.show_board(board)
        self._fill(board)
        self.title.show_legend(self._legend(board))
        found = board.latency
        if found is not None:
            p50, p95, p99 = (milliseconds(value) for value in found.total)
            self.setAccessibleDescription(
                f"p50 {p50}, p95 {p95}, p99 {p99}, {found.requests} requests"
            )

    def _fill(self, board: Board) -> None:
        """Fill the lists of choices when they changed; an open list is left alone."""
        servers = [("all servers", "")] + [(line.name, line.address) for line in board.servers]
        mixes = [("all mixes", "")]
        mixes += [(mix or "(none)", mix) for mix in (board.latency.mixes if board.latency else ())]
        for box, wanted, chosen in (
            (self._scope, servers, board.view.scope),
            (self._mix, mixes, board.view.mix),
        ):
            held = [(box.itemText(i), box.itemData(i)) for i in range(box.count())]
            if not box.view().isVisible():
                if held != wanted:
                    box.clear()
                    for text, data in wanted:
                        box.addItem(text[:60], data)
                box.setCurrentIndex(max(0, box.findData(chosen)))
        self._split.setCurrentIndex(max(0, self._split.findData(board.view.split)))

    def _legend(self, board: Board) -> list[tuple[str, str]]:
        found = board.latency
        if found is None or not found.requests:
            if found is not None and found.newest_s == found.newest_s:
                return [(f"last data {duration(board.made_s - found.newest_s)} ago", "warning")]
            return [("no requests in this window", "dim")]
        legend = []
        if found.split:
            for number, (name, _) in enumerate(found.split):
                theme = self.ui_style.theme
                sign = "━" if number % 4 == 0 else "┄"
                legend.append(
                    (f"{sign} {board.name_of(name)[:22]}", theme.split[number % len(theme.split)])
                )
            return legend
        for name, value in zip(("p50", "p95", "p99"), found.total, strict=True):
            legend.append((f"━ {name} {milliseconds(value)}", name))
        seconds = (
            board.view.brush[1] - board.view.brush[0] if board.view.brush else board.view.window_s
        )
        rate = f"{number_text(found.requests / max(seconds, 1), 2)} req/s"
        legend += [(f"n {found.requests:,}", "dim"), (rate, "dim")]
        age = board.made_s - found.newest_s
        if age > max(3 * found.width_s, 10) and board.view.live:
            legend.append((f"last data {duration(age)} ago", "warning"))
        what = "brushed" if board.view.brush else "last" if board.view.live else "paused,"
        legend.append((f"{what} {span_text(seconds)}", "accent" if board.view.brush else "dim"))
        return legend

    def cycle(self) -> None:
        """Step through: percentiles, throughput, percentiles with what the hosts use, and back."""
        host, throughput = self.axis.view.host, self.throughput.isVisible()
        self._show(throughput=not throughput and not host, host=throughput)

    def show_hosts(self) -> None:
        """Show what the hosts use under the percentiles, or hide it."""
        self._show(throughput=False, host=not self.axis.view.host)

    def _show(self, throughput: bool, host: bool) -> None:
        self.throughput.setVisible(throughput)
        self.percentiles.setVisible(not throughput)
        self.host.setVisible(host)
        self.stages.setVisible(not host and self.height() > self.ui_style.px(NARROW))
        for place, share in enumerate((0 if throughput else 50, 50 if throughput else 0, 18,
                                       42 if host else 0)):  # fmt: skip
            self._column.setStretch(place, share)
        self.axis.change(host=host)
        if self.board is not None:
            (self.throughput if throughput else self.percentiles).show_board(self.board)

    def resizeEvent(self, event: QResizeEvent) -> None:
        tall = event.size().height() > self.ui_style.px(NARROW)
        self.stages.setVisible(tall and not self.axis.view.host)
        columns = int(self.percentiles.area.width())
        if abs(columns - self.axis.view.columns) > 8 and columns > 50:
            self.axis.change(columns=columns)
        super().resizeEvent(event)

    def select(self, key: str) -> None:
        if self.board is not None and any(s.address == key for s in self.board.servers):
            self.axis.change(scope="" if self.axis.view.scope == key else key)

    def _pick(self, at_s: float, y: float) -> None:
        cell = self.heat.cell(at_s, y)
        if cell is None or self.board is None or self.board.latency is None:
            return
        self.exemplars.emit(examples_in(self.board.latency.exemplars, cell))

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        found = self.board.latency if self.board is not None else None
        head = ["unix_s", "p50_ms", "p95_ms", "p99_ms", "requests", "requests_per_s"]
        head.append("error_share")
        head += [f"{stage}_ms" for stage in STAGES]
        if found is None:
            return head, []
        table = np.vstack(
            [found.starts, found.p50, found.p95, found.p99, found.served, found.rate]
            + [found.errors, found.stages]
        ).T
        return head, [
            [f"{row[0]:.1f}", *("" if v != v else f"{v:.6g}" for v in row[1:])] for row in table
        ]


def examples_in(
    exemplars: tuple[ExampleRequest, ...], cell: tuple[float, float, float, float]
) -> tuple[ExampleRequest, ...]:
    """The examples of a cell, slowest first; an empty cell gives its nearest neighbours."""
    begin, end, least, most = cell
    inside = [e for e in exemplars if begin <= e.at_s < end and least <= e.total_ms <= most]
    if not inside:
        middle = math.sqrt(max(least, 1e-3) * max(most, 1e-3))

        def distance(e: ExampleRequest) -> float:
            columns = abs(e.at_s - begin) / max(end - begin, 1e-3)
            return columns / 8 + abs(math.log2(max(e.total_ms, 1e-3) / middle))

        inside = sorted(exemplars, key=distance)[:6]
    return tuple(sorted(inside, key=lambda e: -e.total_ms))


def _key(entry: Any) -> str:
    if entry.kind == "alert":
        return f"{entry.server}\t{entry.id}"
    return str(entry.server)
