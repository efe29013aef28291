"""Drift by feature and slice, worst first. For a brushed window, the scores of the hours it
touches."""

from __future__ import annotations

import math

from PySide6.QtGui import QResizeEvent

from console.app.timeaxis import TimeAxis
from console.models import drift as model
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.table import Table
from console.plots.style import Style
from console.state.dashboard import MEASURES, Board, DriftLine
from console.state.firing import SHIFTED
from console.state.timetext import clock_text
from console.state.units import duration
from server.telemetry.filters import equals, slice_name

WIDE = 620
EMPTY = "no drift scores in this window: servers compute them every few minutes"


class DriftPanel(Panel):
    name = "drift"
    heading = "DRIFT"

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self._shape: tuple[str, bool, bool] = ("", False, False)
        self.table: Table | None = None
        self.model = RowsModel((), model.key, model.face)
        self._build("psi", False, False)

    def _build(self, measure: str, wide: bool, fleet: bool) -> None:
        if (measure, wide, fleet) == self._shape:
            return
        self._shape = (measure, wide, fleet)
        rows = self.model.rows
        self.model = RowsModel(model.columns(measure, wide, fleet), model.key, model.face)
        self.model.show(rows)
        old = self.table
        name = "Drift by feature and slice"
        self._target = self.table = None
        self.table = self.make_table(self.model, name, EMPTY, self._choose, self._open)
        self.body.addWidget(self.table)
        if old is not None:
            self.table.show()  # now, because a hidden widget cannot take the focus
            if old.hasFocus():
                self.table.setFocus()
            self.body.removeWidget(old)
            old.deleteLater()

    def _roomy(self) -> bool:
        return self.width() > self.ui_style.px(WIDE)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self._build(board.view.measure, self._roomy(), len(board.servers) > 1)
        known = [line for line in board.drift if line.row.level not in model.INSUFFICIENT]
        self.model.show(known)
        if self.table is not None:
            # A hundred rows without a score are shown as one sentence.
            self.table.empty = model.learning(board.drift) if board.drift else EMPTY
        key = board.view.drift_key
        if key is not None and self.table is not None:
            place = self.model.place_of(key)
            if self.table.currentIndex().row() != place:
                self.table.select_row(place)
        self.title.show_legend(self._legend(board))

    def _legend(self, board: Board) -> list[tuple[str, str]]:
        few = sum(line.row.level in model.INSUFFICIENT for line in board.drift)
        legend: list[tuple[str, str]] = []
        shifted = sum(
            not line.firing and line.row.level in SHIFTED and line.source == "server"
            for line in board.drift
        )
        if shifted:
            legend.append((f"{shifted} not confirmed", "dim"))
        if few:
            legend.append((f"{few} learning", "dim"))
        if board.drift_span is not None:
            low, high = (clock_text(moment, "%H:%M") for moment in board.drift_span)
            legend.append((f"computed for {low}–{high}", "accent"))
        elif board.drift:
            newest = max(line.at_s for line in board.drift)
            age = board.made_s - newest
            legend.append((f"evaluated {duration(age)} ago", "warning" if age > 900 else "dim"))
        else:
            legend.append(("no drift rows yet", "dim"))
        legend.append(("worst first · T: measure", "dim"))
        return legend

    def cycle(self) -> None:
        """Show the next measure: PSI, KS, KL, JS."""
        place = MEASURES.index(self.axis.view.measure)
        self.axis.change(measure=MEASURES[(place + 1) % len(MEASURES)])

    def _choose(self, line: DriftLine) -> None:
        self.axis.change(drift_key=line.key)

    def _open(self, line: DriftLine) -> None:
        """Show the predictions of this slice."""
        if line.row.slice:
            key, _, value = line.row.slice.partition("=")
            self.jump.emit("predictions", equals(slice_name(key), value), math.nan)

    def select(self, key: str) -> None:
        feature, _, place = key.partition("\t")
        self.axis.change(drift_key=(feature, place))
        if self.table is not None:
            self.table.select_row(self.model.place_of((feature, place)))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._build(self._shape[0], self._roomy(), self._shape[2])

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["feature", "slice", "level", "ks", "kl", "js", "psi", "excess_kl", "p", "q", "n",
                "n_effective", "window_s", "stamp", "source"]  # fmt: skip
        return head, [
            [row.feature, row.slice, row.level]
            + [f"{v:.6g}" for v in (row.ks, row.kl, row.js, row.psi, row.excess_kl, row.p, row.q,
                                    row.n, row.n_effective)]
            + [str(row.window_s), row.stamp, line.source]
            for line in (self.board.drift if self.board is not None else ())
            for row in (line.row,)
        ]  # fmt: skip
