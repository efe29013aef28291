"""Predictions: a filter line, a table of up to a million rows, and one prediction in detail."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QLineEdit

from console.app.timeaxis import TimeAxis
from console.finding import finder
from console.models.predictions import PredictionEntry, PredictionsModel
from console.panels.frame import Panel
from console.panels.status_bar import TextLine
from console.plots.style import Style
from console.state import command_lines
from console.state.access import ConnectionAccess
from console.state.dashboard import Board, ExampleRequest
from console.state.query_types import (
    FindPredictions,
    FoundPredictions,
    PredictionPage,
    ReadPage,
    Searched,
)
from console.state.timetext import span_text
from server.telemetry.filters import BadFilter, Clause, parse_filter

EMPTY = "no prediction in the cache matches the filter and the window"


class PredictionsPanel(Panel):
    name = "predictions"
    heading = "PREDICTIONS"
    asked = Signal(object)  # Question
    picked = Signal(str, str)  # server, prediction id

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.line = QLineEdit()
        self.line.setPlaceholderText("site=b conf<0.6 label!=ok error mix~audio server=gpu-03.lon")
        self.line.setAccessibleName("Filter of the predictions")
        self.line.setClearButtonEnabled(True)
        self.line.returnPressed.connect(self.search)
        self.result_line = TextLine(style, "dim", 11)
        self.model = PredictionsModel(self._name, self._need)
        self.table = self.make_table(self.model, "Predictions", EMPTY, self._choose, self._choose)
        self.body.addWidget(self.line)
        self.body.addWidget(self.result_line)
        self.body.addWidget(self.table, 1)
        self._clauses: tuple[Clause, ...] = ()
        self._stale = True
        axis.brushChanged.connect(self._outdated)
        self._rows = 0
        self._source = ""  # where the rows come from, and what is missing

    def _name(self, address: str) -> str:
        return self.board.name_of(address) if self.board is not None else address

    def _need(self, numbers: list[int]) -> None:
        self.asked.emit(ReadPage(tuple(numbers)))

    def _outdated(self) -> None:
        self._stale = True
        if self.isVisible():
            self.search()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self.search()

    def search(self) -> None:
        """Ask for the rows that match the filter in the shown window."""
        if self.board is None:
            return
        try:
            self._clauses = parse_filter(self.line.text())
        except BadFilter as error:
            self.result_line.show_text(str(error), "warning")
            return
        self._stale = False
        span = self.axis.view.brush or self.axis.span
        aliases = {line.name: line.address for line in self.board.servers}
        self._source = "asking the servers"
        self.result_line.show_text("searching …", "dim")
        self.asked.emit(FindPredictions(self._clauses, span, aliases))

    def show_found(self, found: FoundPredictions) -> None:
        self._rows = len(found.numbers)
        self.model.show(found.numbers)
        if found.trouble:
            self.result_line.show_text(found.trouble, "warning")
            return
        if not self._rows and self.board is not None:
            slices = finder.slices_of(self.board)
            if unknown := finder.misspelt(self.line.text(), slices):
                self.result_line.show_text(f"{unknown} · {self._source}", "warning")
                return
        view = self.axis.view
        low, high = view.brush or self.axis.span
        what = "brushed" if view.brush else "window of"
        text = f"{self._count()}, {what} {span_text(high - low)}, newest first"
        self.result_line.show_text(f"{text} · {self._source}", "dim")
        if self._rows:
            self.table.select_row(0)

    def _count(self) -> str:
        """`156 kept of 2,013 requests`: the table does not hold every request."""
        verb = "found" if self._clauses else "kept"
        shown = self.board.latency if self.board is not None else None
        if shown is None or shown.requests < self._rows:
            return f"{self._rows:,} {verb}"
        return f"{self._rows:,} {verb} of {shown.requests:,} requests"

    def show_searched(self, answer: Searched) -> None:
        """Show that the servers have answered; the rows they sent are read from the cache."""
        many = "s" if answer.servers != 1 else ""
        self._source = f"{answer.servers} server{many} asked"
        if answer.full:
            self._source += ", the newest 1,000 of each: choose a shorter window for the rest"
        failed = (f"{self._name(address)}: {why}" for address, why in answer.failed)
        if trouble := answer.trouble or "; ".join(failed)[:300]:
            self._source += f"; {trouble}"

    def show_page(self, page: PredictionPage) -> None:
        self.model.fill(page.rows)
        if self.table.currentIndex().row() == 0:
            entry = self.model.entry(0)
            if entry is not None:
                self.picked.emit(entry[0], entry[1].prediction_id)

    def show_board(self, board: Board) -> None:
        first = self.board is None
        super().show_board(board)
        if (first or self._stale) and self.isVisible():
            self.search()
        self.title.show_legend([("Enter: search · /: filter · J/K: rows", "dim")])

    def show_examples(self, examples: tuple[ExampleRequest, ...]) -> None:
        """Show the requests behind a cell of the heat map."""
        if not examples:
            self.result_line.show_text("no example request was kept there", "dim")
            return
        slowest = examples[0]
        self.line.setText(f"id={slowest.prediction_id}")
        self._stale = False
        self.picked.emit(slowest.server, slowest.prediction_id)
        self.search()

    def _choose(self, entry: PredictionEntry | None) -> None:
        if entry is not None:
            self.picked.emit(entry[0], entry[1].prediction_id)

    def select(self, key: str) -> None:
        """`key` is a filter line."""
        self.line.setText(key)
        self.search()

    def focus_filter(self) -> None:
        self.line.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.line.selectAll()

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        """Only the rows that have been read."""
        head = [column.title for column in self.model.columns]
        return head, [
            [str(self.model.index(place, c).data() or "") for c in range(len(head))]
            for place in self.model.read()
        ]

    def left_out(self) -> str:
        read = len(self.model.read())
        return f"{read:,} of {self._rows:,}: only the rows scrolled to" if read < self._rows else ""

    def copy_command(self, access: ConnectionAccess) -> str:
        return command_lines.export(self._clauses, self.axis.view.brush or self.axis.span)
