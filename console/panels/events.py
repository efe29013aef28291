"""Events of all servers, newest first."""

from __future__ import annotations

from console.app.timeaxis import TimeAxis
from console.models.cells import Cell, TableColumn, mono
from console.models.table import RowsModel
from console.panels.frame import NO_SCROLL, Panel
from console.plots.style import Style
from console.state.dashboard import Board, TimelineEvent
from console.state.timetext import clock_text


def _at(row: TimelineEvent) -> Cell:
    tip = clock_text(row.at_s, "%Y-%m-%d %H:%M:%S")
    return mono(clock_text(row.at_s), tip=tip)


def _what(row: TimelineEvent) -> Cell:
    tone = "dim" if row.severity in ("info", "unknown") else row.severity
    if row.kind == "deploy":
        return Cell(row.text, tone, "deploy", value=(row.mark, row.severity), tip=row.detail)
    return Cell(row.text, tone, "sign", value=row.severity, tip=row.text[:600])


LEAST_PIXELS = 180  # below this width a sentence does not fit beside its time
COLUMNS = (TableColumn("UTC", _at, 72), TableColumn("what", _what, 0))


class EventsPanel(Panel):
    name = "events"
    heading = "EVENTS"

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.model = RowsModel(COLUMNS, lambda row: (row.at_s, row.kind, row.server, row.id))
        self.table = self.make_table(
            self.model, "Events", "no events in the cache", self._choose, self._open
        )
        self.table.horizontalHeader().hide()
        self.table.setHorizontalScrollBarPolicy(NO_SCROLL)
        self.body.addWidget(self.table, 1)
        self.setMinimumWidth(LEAST_PIXELS)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self.model.show(board.timeline_events)
        waiting = sum(action.state == "waiting" for action in board.actions)
        legend = [("Enter: go to its time", "dim")]
        if waiting:
            legend.insert(0, (f"{waiting} actions waiting for their server", "warning"))
        self.title.show_legend(legend)

    def _choose(self, row: TimelineEvent) -> None:
        self.axis.set_cursor(row.at_s, lock=True)

    def _open(self, row: TimelineEvent) -> None:
        key = f"{row.server}\t{row.id}" if row.kind == "alert" else row.server
        self.jump.emit("alerts" if row.kind == "alert" else row.panel, key, row.at_s)

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["unix_s", "severity", "kind", "server", "text"]
        return head, [
            [f"{row.at_s:.3f}", row.severity, row.kind, row.server, row.text]
            for row in self.model.rows
        ]
