"""Two servers, two stamps or two windows side by side, the largest differences first."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel

from console.app.timeaxis import TimeAxis
from console.looks import changes, hosts
from console.looks.comparing import KINDS, Compared, ComparedLine
from console.models.cells import Cell, TableColumn, mono
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.status_bar import TextLine
from console.plots.style import Style
from console.state.dashboard import Board, ServerLine
from console.state.query_types import ReadComparison, SideWanted
from console.state.sanitize import short
from console.state.timetext import clock_text

EMPTY = "choose two servers, two stamps, or brush a window"


def _difference(row: ComparedLine) -> Cell:
    tone = "text" if row.size < 0.2 else "warning" if row.size < 0.5 else "critical"
    tone = tone if row.size >= 0.05 and row.sure else "dim"
    tip = "" if row.sure else "as large a difference comes by chance more than once in twenty"
    return mono(row.difference or "the same", tone, tip=tip)


COLUMNS = (
    TableColumn("figure", lambda row: Cell(row.name, tip=row.name[:300]), 0, least=140),
    TableColumn("difference", _difference, 158),
    TableColumn("here", lambda row: mono(row.here, "text", tip=row.here[:600]), 172),
    TableColumn("there", lambda row: mono(row.there, "text", tip=row.there[:600]), 172),
)


class ComparePanel(Panel):
    name = "compare"
    heading = "COMPARE"
    asked = Signal(object)  # ReadComparison

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.kind, self.here, self.there = QComboBox(), QComboBox(), QComboBox()
        self.body.addLayout(self._controls())
        self.note = TextLine(style, "dim", 11)
        self.body.addWidget(self.note)
        self.model = RowsModel(COLUMNS, lambda row: row.name)
        self.table = self.make_table(self.model, "Differences", EMPTY)
        self.body.addWidget(self.table, 1)
        axis.brushChanged.connect(self._outdated)

    def _controls(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(8, 0, 8, 2)
        for box, name in (
            (self.kind, "What to compare"),
            (self.here, "One side"),
            (self.there, "Other side"),
        ):
            box.setAccessibleName(name)
            box.setObjectName("flat")
            box.setMinimumContentsLength(9)
            row.addWidget(box)
            if box is self.here:
                row.addWidget(QLabel("against"))
        row.addStretch(1)
        for kind in KINDS:
            self.kind.addItem(f"two {kind}", kind)
        self.kind.activated.connect(lambda _: self._refill())
        for box in (self.here, self.there):
            box.activated.connect(lambda _: self.ask())
        return row

    def show_board(self, board: Board) -> None:
        first = self.board is None
        super().show_board(board)
        if first:
            if len(board.servers) < 2:
                self.kind.setCurrentIndex(KINDS.index("windows"))
            self._refill()
        self.title.show_legend([("what differs most first", "dim")])

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._refill()

    def _outdated(self) -> None:
        if self.isVisible():
            self._refill()

    def choices(self) -> list[tuple[str, str]]:
        """(text, value) of everything that can be on a side."""
        board, kind = self.board, self.kind.currentData()
        if board is None:
            return []
        if kind == "servers":
            known_first = sorted(board.servers, key=lambda line: line.snapshot is None)
            return [(line.name, line.address) for line in known_first]
        if kind == "stamps":
            found = board.latency.shares if board.latency is not None else ()
            names = {
                line.snapshot.stamp: line.snapshot.stamp_name
                for line in board.servers
                if line.snapshot is not None
            }
            return [(f"{names.get(stamp, '')} {short(stamp)}".strip(), stamp) for stamp, _ in found]
        before, after = changes.windows(self.axis.view.brush, self.axis.span)
        what = "the brush" if self.axis.view.brush else "the last quarter"
        return [(f"before: {_span(before)}", "before"), (f"{what}: {_span(after)}", "after")]

    def _refill(self) -> None:
        """Fill both lists and restore the selection; the second side differs from the first."""
        wanted = self.choices()
        for place, box in enumerate((self.here, self.there)):
            chosen = box.currentData()
            box.clear()
            for text, value in wanted:
                box.addItem(text[:60], value)
            held = box.findData(chosen)
            box.setCurrentIndex(held if held >= 0 else min(place, box.count() - 1))
        if self.here.currentIndex() == self.there.currentIndex() and self.there.count() > 1:
            self.there.setCurrentIndex(1 - min(self.here.currentIndex(), 1))
        self.ask()

    def ask(self) -> None:
        wanted = self.question()
        if wanted is None:
            self.model.show([])
        elif self.isVisible():
            self.asked.emit(wanted)

    def question(self) -> ReadComparison | None:
        board = self.board
        sides = (self.here.currentData(), self.there.currentData())
        if board is None or None in sides or sides[0] == sides[1]:
            return None
        here, there = (self._side(board, str(side)) for side in sides)
        kind = str(self.kind.currentData())
        return ReadComparison(kind, here, there, board.shifts_s, board.strictest_slo_ms)

    def _side(self, board: Board, value: str) -> SideWanted:
        span = self.axis.view.brush or self.axis.span
        kind = self.kind.currentData()
        if kind == "windows":
            before, after = changes.windows(self.axis.view.brush, self.axis.span)
            return SideWanted(value, before if value == "before" else after)
        if kind == "stamps":
            return SideWanted(short(value), span, stamp=value)
        line = next((line for line in board.servers if line.address == value), None)
        if line is None:
            return SideWanted(value, span, server=value)
        return SideWanted(line.name, span, value, "", facts_of(line), figures_of(line))

    def show_compared(self, found: Compared) -> None:
        self.note.show_text(found.note, "warning")
        self.note.setVisible(bool(found.note))
        self.model.show(found.lines)
        differ = sum(bool(line.size) and line.sure for line in found.lines)
        self.title.show_legend([(f"{differ} of {len(found.lines)} differ", "dim")])
        top = "; ".join(f"{line.name}: {line.difference}" for line in found.lines[:6])
        self.setAccessibleDescription(top[:800])

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        rows = [[row.name, row.difference, row.here, row.there] for row in self.model.rows]
        return ["figure", "difference", "here", "there"], rows


def _span(span: tuple[float, float]) -> str:
    return f"{clock_text(span[0])} to {clock_text(span[1])}"


def facts_of(line: ServerLine) -> dict[str, str]:
    """Texts of a server, to be compared for equality."""
    found = line.snapshot
    if found is None:
        return {}
    facts = {"state": line.state, "version": found.version, "stamp": short(found.stamp)}
    facts |= {f"stamp part {name}": short(value) for name, value in found.stamp_parts.items()}
    facts |= {f"--{name}": value for name, value in found.flags.items()}
    facts |= {f"environment {name}": value for name, value in found.env.items()}
    devices = sorted({one.device for one in found.replicas if one.device})
    return facts | ({"devices": " ".join(devices)} if devices else {})


def figures_of(line: ServerLine) -> dict[str, tuple[float, str]]:
    """Numbers of a server with their units."""
    found = line.snapshot
    if found is None:
        return {}
    figures: dict[str, tuple[float, str]] = {
        "warm replicas": (found.warm_replicas, ""),
        "queue": (found.queued, ""),
        "restarts": (sum(one.restarts for one in found.replicas), ""),
    }
    figures |= hosts.figures(found.host)
    return figures | {f"limit {row.name}": (row.value, row.unit) for row in found.limits}
