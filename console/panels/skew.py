"""Version skew: each server's parts of the stamp against the majority of the fleet. The environment
is not part of the stamp and is shown separately."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QSplitter

from console.app.timeaxis import TimeAxis
from console.models.cells import Cell, TableColumn, mono, number_column
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.skew_detail import SkewDetail, when
from console.plots.style import Style
from console.state import command_lines
from console.state.access import ConnectionAccess
from console.state.dashboard import Board, SkewLine
from console.state.domain import STAMP_PARTS
from console.state.sanitize import short
from console.state.timetext import clock_text
from console.state.units import duration

SHORT = 6
LEAST_PIXELS = 478  # from this width on, the names of the parts are readable
_HEADS = {"preprocessing": "preproc", "libraries": "libs", "reference": "ref"}


def columns() -> tuple[TableColumn, ...]:
    parts = [
        TableColumn(_HEADS.get(part, part), _part(number), 0, least=30, tip=f"{part}, first digits")
        for number, part in enumerate(STAMP_PARTS)
    ]
    deployed, since = "when this stamp was deployed", attrgetter("since_s")
    return (
        TableColumn("server", _server, 108, order=attrgetter("name")),
        *parts,
        number_column("since", _since, 52, order=since, tip=deployed, spare=1),
    )


def _server(line: SkewLine) -> Cell:
    known = bool(line.stamp) and not line.past
    severity = (line.severity or "ok") if known else "unknown"
    return Cell(line.name, "text" if known else "dim", "sign", mono=True, value=severity,
                tip=tip(line))  # fmt: skip


def _part(number: int) -> Callable[[SkewLine], Cell]:
    def cell(line: SkewLine) -> Cell:
        found = line.cells[number]
        if not found.known:
            return Cell("?", "dim", "skew", mono=True, value=False, tip="not known")
        odd = found.differs or found.moved
        text = "changed" if found.moved else found.value[:SHORT]
        text = f"{'≠' if odd else '='} {text}"
        loud = odd and not line.past
        tone = "critical" if loud else "dim"
        return Cell(text, tone, "skew", bold=loud, mono=True, value=loud, tip=tip(line))

    return cell


def _since(line: SkewLine) -> Cell:
    if line.since_s != line.since_s:
        return mono("–", tip=tip(line))
    return mono(clock_text(line.since_s, "%H:%M"), tip=tip(line))


def tip(line: SkewLine) -> str:
    lines = [f"{line.name}: {line.stamp_name or 'stamp unknown'}"]
    if line.dirty:
        lines.append("dirty: served with --allow-dirty, matches no pinned stamp")
    if line.since_s == line.since_s:
        lines.append(f"since {clock_text(line.since_s, '%Y-%m-%d %H:%M:%S')} UTC")
    if line.signed_by:
        lines.append(f"signed by key {short(line.signed_by)}")
    lines += [f"≠ {what} {text}: {when(now)}" for what, text, now in line.moved]
    lines += [
        f"≠ {what}: {short(here)}, fleet {short(there)}" for what, here, there in line.details
    ]
    lines += [f"environment {what}: {here}, fleet {there}" for what, here, there in line.env]
    for client, stamp, refused, last_s in line.pins:
        text = f"client {client} pins {short(stamp)}: refused {refused} times"
        lines.append(f"{text}, last {clock_text(last_s)}")
    if line.past:
        lines.append(f"as it reported at {clock_text(line.lost_s)} UTC; it does not answer now")
    elif line.age_s < math.inf and line.age_s > 10:
        lines.append(f"data {duration(line.age_s)} old")
    return "\n".join(part[:240] for part in lines[:24])


class SkewPanel(Panel):
    name = "skew"
    heading = "VERSION SKEW"

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.model = RowsModel(columns(), lambda line: line.address)
        self.table = self.make_table(
            self.model,
            "Parts of the stamp by server",
            "no server has reported its stamp yet",
            lambda _: self._detail(),
            lambda line: self.axis.around(line.since_s),
        )
        self.table.setObjectName("tight")
        self.table.setMinimumWidth(LEAST_PIXELS)
        self.detail = SkewDetail(style)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.table)
        split.addWidget(self.detail)
        split.setStretchFactor(0, 5)
        split.setStretchFactor(1, 2)
        split.setSizes([560, 230])
        split.setChildrenCollapsible(True)
        self.body.addWidget(split, 1)

    def minimumSizeHint(self) -> QSize:
        """The size without the details, which are hidden first."""
        return QSize(LEAST_PIXELS, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Hide the details where the names of the parts would not fit: the row's tool tip has them
        too."""
        super().resizeEvent(event)
        least = LEAST_PIXELS + self.detail.minimumWidth()
        self.detail.setVisible(event.size().width() > least)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self.model.show(sorted(board.skew, key=lambda line: not line.severity))
        self._detail()
        odd = sum(line.odd and not line.past for line in board.skew)
        against = "the expected stamp" if board.view.expected_stamp else "the majority"
        legend = [(f"≠ differs from {against}", "dim"), ("Enter: show its deploy", "dim")]
        if odd:
            legend.insert(0, (f"{odd} of {len(board.skew)} differ", "critical"))
        moved = sum(bool(line.moved) for line in board.skew)
        if moved:
            legend.insert(0, (f"{moved} changed since load", "critical"))
        envs = sum(bool(line.env) for line in board.skew)
        if envs:
            legend.insert(0, (f"environment differs on {envs}", "dim"))
        self.title.show_legend(legend)

    def _detail(self) -> None:
        if self.board is None:
            return
        line = self.table.row()
        if line is None:
            # Without a selection, the rows that differ come first.
            line = next(iter(self.model.rows), None)
        self.detail.show_line(line, self.board)

    def select(self, key: str) -> None:
        self.table.select_row(self.model.place_of(key))
        self._detail()

    def copy_command(self, access: ConnectionAccess) -> str:
        """The command that compares the server with one that is like the fleet."""
        line = self.table.row()
        if not isinstance(line, SkewLine) or self.board is None:
            return ""
        usual = next((row for row in self.board.skew if not row.odd and row.stamp), None)
        other = [usual.address] if usual is not None and usual is not line else []
        return command_lines.skew_between([line.address, *other], access)

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["server", "stamp", *STAMP_PARTS, "changed", "since_unix_s"]
        return head, [
            [
                line.name,
                line.stamp,
                *(cell.value for cell in line.cells),
                "; ".join(f"{what} {text}" for what, text, _ in line.moved),
                f"{line.since_s:.0f}",
            ]
            for line in self.model.rows
        ]
