"""Shows what changed from the time before the brush to the brush: what explains most of the rise in
late, failed or wrong rows."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QVBoxLayout

from console.app.timeaxis import TimeAxis
from console.looks import changes
from console.looks.changes import Explained, WhatChanged
from console.models.cells import Cell, TableColumn, mono, number_column
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.status_bar import TextLine
from console.plots.style import Style
from console.state.access import ConnectionAccess
from console.state.dashboard import Board
from console.state.query_types import ReadChanges
from console.state.timetext import clock_text
from console.state.units import UNKNOWN, share

MEASURE = (
    "explains: its part of the rise minus its share of the rows before. 0 %: as bad as its size "
    "makes it. 100 %: all of the rise, and none of the rows before."
)
EMPTY = "brush a time that went wrong: it is compared with as long a time before it"
NOTHING = "nothing explains or moved as much as 5 % between these two windows"
LINES = 6


def _explains(row: Explained) -> Cell:
    if row.explains != row.explains:
        return mono(UNKNOWN, tip="nothing rose that it could explain; its share moved")
    tone = "critical" if row.explains >= 0.5 else "warning" if row.explains >= 0.2 else "text"
    return mono(share(row.explains, 0), tone, tip=MEASURE)


def _bar(row: Explained) -> Cell:
    value = row.explains if row.explains == row.explains else 0.0
    tone = "critical" if value >= 0.5 else "warning" if value >= 0.2 else "dim"
    return Cell("", tone, "bar", value=(min(max(value, 0.0), 1.0), ()), tip=MEASURE)


def _when(row: Explained) -> Cell:
    return mono(clock_text(row.at_s) if row.at_s == row.at_s else "")


COLUMNS = (
    number_column("explains", _explains, 66, order=lambda row: row.weight),
    TableColumn("", _bar, 76, spare=2),
    TableColumn("what", lambda row: Cell(changes.KINDS.get(row.what, row.what), "dim"), 92),
    TableColumn("which", lambda row: Cell(row.of, tip=row.of[:600]), 0, least=170),
    TableColumn("share of rows", lambda row: mono(row.share, tip=row.text), 122),
    TableColumn("measure", lambda row: Cell(row.measure, "dim"), 108, spare=4),
    TableColumn("before → after", lambda row: mono(row.bad, "text", tip=row.text), 128),
    number_column("n", lambda row: mono(row.rows, tip=row.text), 136, spare=3),
    TableColumn("UTC", _when, 72, spare=1),
)


class ChangesPanel(Panel):
    name = "changes"
    heading = "WHAT CHANGED"
    asked = Signal(object)  # ReadChanges

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.found: WhatChanged | None = None
        self.lines = [TextLine(style, "dim", 11) for _ in range(LINES)]
        above = QVBoxLayout()
        above.setContentsMargins(10, 0, 8, 4)
        above.setSpacing(0)
        for line in self.lines:
            above.addWidget(line)
        self.body.addLayout(above)
        self.model = RowsModel(COLUMNS, lambda row: (row.what, row.of, row.at_s))
        self.table = self.make_table(self.model, "What changed", EMPTY, opened=self._open)
        self.body.addWidget(self.table, 1)
        axis.brushChanged.connect(self.ask)

    def question(self) -> ReadChanges | None:
        """The question about the brush; without a brush, about the last quarter of the window
        against the rest."""
        board = self.board
        if board is None:
            return None
        before, after = changes.windows(self.axis.view.brush, self.axis.span)
        return ReadChanges(
            before,
            after,
            {line.address: line.name for line in board.servers},
            board.shifts_s,
            board.strictest_slo_ms,
            tuple(e for e in board.timeline_events if before[0] <= e.at_s < after[1]),
        )

    def ask(self) -> None:
        wanted = self.question()
        if wanted is not None and self.isVisible():
            self.asked.emit(wanted)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.ask()

    def show_board(self, board: Board) -> None:
        first = self.board is None
        super().show_board(board)
        if first:
            self.ask()
        brushed = self.axis.view.brush is not None
        text = "brushed" if brushed else "the last quarter of the window · brush to choose"
        legend = [(text, "accent" if brushed else "dim"), ("Enter: look at it", "dim")]
        self.title.show_legend(legend)

    def show_found(self, found: WhatChanged) -> None:
        self.found = found
        self.table.empty = NOTHING
        texts = [_windows(found), *found.sentences]
        for place, line in enumerate(self.lines):
            text = texts[place] if place < len(texts) else ""
            line.show_text(text, "text" if 0 < place < len(texts) - 1 else "dim")
            line.setToolTip(text)
            line.setVisible(bool(text))
        self.model.show(found.findings)
        self.setAccessibleDescription("; ".join(texts)[:800])

    def _open(self, row: Explained) -> None:
        if row.panel:
            self.jump.emit(row.panel, row.key, row.at_s)

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["explains", "what", "which", "measure", "share_before", "share_after", "text"]
        return head, as_rows(self.model.rows)

    def copy_command(self, access: ConnectionAccess) -> str:
        return ""


def as_rows(rows: Sequence[Explained]) -> list[list[str]]:
    return [
        [f"{row.explains:.4f}" if row.explains == row.explains else "", row.what, row.of]
        + [row.measure, f"{row.share_before:.4f}", f"{row.share_after:.4f}", row.text]
        for row in rows
    ]


def _windows(found: WhatChanged) -> str:
    before, after = (
        f"{clock_text(low, form)} to {clock_text(high)}"
        for (low, high), form in ((found.before, "%d %b %H:%M:%S"), (found.after, "%H:%M:%S"))
    )
    return f"from {before} before, to {after} UTC"
