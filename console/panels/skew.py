"""Version skew: servers by part of the stamp, against the majority of the fleet. The environment
is no part of the stamp and is told apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QSplitter, QWidget

from console.board import Board, SkewLine
from console.domain import STAMP_PARTS
from console.models.cells import Cell, Column
from console.models.table import RowsModel
from console.panels import paint
from console.panels.frame import Panel
from console.panels.look import Look
from console.panels.table import Table
from console.plain import duration
from console.timeaxis import TimeAxis, clock_text

SHORT = 6
_HEADS = {"preprocessing": "preprocess", "libraries": "libraries", "reference": "reference"}


def columns() -> tuple[Column, ...]:
    found = [Column("server", _server, 112, order=lambda line: line.name)]
    for number, part in enumerate(STAMP_PARTS):
        found.append(Column(_HEADS.get(part, part), _part(number), 0, tip=f"{part}, first digits"))
    found.append(Column("since", _since, 52, right=True, order=lambda line: line.since_s,
                        tip="when this stamp was deployed"))  # fmt: skip
    return tuple(found)


def _server(line: SkewLine) -> Cell:
    severity = "high" if line.odd else "unknown" if not line.stamp else "ok"
    return Cell(line.name, "text" if line.stamp else "dim", "sign", mono=True, value=severity,
                tip=tip(line))  # fmt: skip


def _part(number: int) -> Callable[[SkewLine], Cell]:
    def cell(line: SkewLine) -> Cell:
        found = line.cells[number]
        if not found.known:
            return Cell("?", "dim", "skew", mono=True, value=False, tip="not known")
        words = f"{'≠' if found.differs else '='} {found.value[:SHORT]}"
        tone = "critical" if found.differs else "dim"
        return Cell(words, tone, "skew", bold=found.differs, mono=True, value=found.differs,
                    tip=tip(line))  # fmt: skip

    return cell


def _since(line: SkewLine) -> Cell:
    if line.since_s != line.since_s:
        return Cell("–", "dim", mono=True, right=True, tip=tip(line))
    return Cell(clock_text(line.since_s, "%H:%M"), "dim", mono=True, right=True, tip=tip(line))


def tip(line: SkewLine) -> str:
    lines = [f"{line.name}: {line.stamp_name or 'stamp not known'}"]
    if line.dirty:
        lines.append("dirty: served with --allow-dirty, equals no pinned stamp")
    if line.since_s == line.since_s:
        lines.append(f"since {clock_text(line.since_s, '%Y-%m-%d %H:%M:%S')} UTC")
    lines += [f"≠ {what}: {_cut(here)}, fleet {_cut(there)}" for what, here, there in line.details]
    lines += [f"environment {what}: {here}, fleet {there}" for what, here, there in line.env]
    for client, stamp, refused, last_s in line.pins:
        words = f"client {client} pins {_cut(stamp)}: refused {refused} times"
        lines.append(f"{words}, last {clock_text(last_s)}")
    if line.age_s < math.inf and line.age_s > 10:
        lines.append(f"as of {duration(line.age_s)} ago")
    return "\n".join(part[:240] for part in lines[:24])


def _cut(text: str) -> str:
    """A digest by its first digits; a version whole."""
    digest = len(text) == 64 and all(character in "0123456789abcdef" for character in text)
    return text[:12] if digest else text


class Detail(QWidget):
    """What exactly differs on the server selected, its environment, its pins, and the traffic."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self._lines: list[tuple[str, str]] = []
        self._shares: tuple[tuple[str, np.ndarray], ...] = ()
        self.setMinimumWidth(150)

    def show_line(self, line: SkewLine | None, board: Board) -> None:
        self._lines = _told(line)
        self._shares = board.latency.shares if board.latency is not None else ()
        self.setAccessibleName("; ".join(words for words, _ in self._lines)[:500])
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        look, theme = self._look, self._look.theme
        y = 3.0
        room = self.height() - 50
        for words, tone in self._lines:
            if y > room - 8:
                break
            place = QRectF(10, y, self.width() - 18, 16)
            font = look.small_figures if tone != "title" else look.small
            paint.text(painter, place, words, theme.color("dim" if tone == "title" else tone), font)
            y += 16
        self._traffic(painter, QRectF(10, self.height() - 42, self.width() - 20, 20))

    def _traffic(self, painter: QPainter, area: QRectF) -> None:
        """Share of the requests by stamp over the window, stacked."""
        theme, look = self._look.theme, self._look
        if not self._shares:
            return
        base = np.zeros(len(self._shares[0][1]))
        xs = area.left() + np.arange(len(base) + 1) / max(len(base), 1) * area.width()
        painter.setPen(Qt.PenStyle.NoPen)
        for number, (_, share) in enumerate(self._shares):
            top = base + np.nan_to_num(share)
            points = [QPointF(xs[i], area.bottom() - top[i] * area.height())
                      for i in range(len(base))]  # fmt: skip
            points += [QPointF(xs[i], area.bottom() - base[i] * area.height())
                       for i in reversed(range(len(base)))]  # fmt: skip
            painter.setBrush(theme.color(theme.split[number % len(theme.split)]))
            painter.drawPolygon(QPolygonF(points))
            base = top
        left = area.left()
        for number, (stamp, share) in enumerate(self._shares[:4]):
            known = share[np.isfinite(share)]
            words = f"■ {stamp[:8]} {known[-1] if len(known) else 0:.0%}"
            place = QRectF(left, area.bottom() + 3, area.right() - left, 16)
            color = theme.color(theme.split[number % len(theme.split)])
            left += paint.text(painter, place, words, color, look.small_figures) + 10


def _told(line: SkewLine | None) -> list[tuple[str, str]]:
    if line is None:
        return [("select a server: what exactly differs", "title")]
    found = [(f"{line.name} · {line.stamp_name or 'stamp not known'}", "text")]
    if line.dirty:
        found.append(("dirty stamp: equals no pin", "warning"))
    if line.details:
        found += [(f"≠ {what}  {_cut(h)} ≠ {_cut(t)}", "critical") for what, h, t in line.details]
    elif line.stamp:
        found.append(("= every file and version as the fleet", "dim"))
    if line.env:
        found.append(("environment, not part of the stamp", "title"))
        found += [(f"{what}  {here} · fleet {there}", "text") for what, here, there in line.env]
    if line.pins:
        found.append(("clients that pin another stamp", "title"))
        found += [
            (f"{client}  {_cut(stamp)} refused {refused}×", "warning")
            for client, stamp, refused, _ in line.pins
        ]
    return found


class SkewPanel(Panel):
    name = "skew"
    heading = "VERSION SKEW"
    marked = Signal(float)

    def __init__(self, look: Look, axis: TimeAxis) -> None:
        super().__init__(look)
        self.axis = axis
        shape = columns()
        self.model = RowsModel(shape, lambda line: line.address)
        self.table = Table(look, self.model, shape)
        self.table.setAccessibleName("Parts of the stamp by server")
        self.table.chosen.connect(lambda _: self._detail())
        self.table.opened.connect(lambda line: self.axis.around(line.since_s))
        self.detail = Detail(look)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(self.table)
        split.addWidget(self.detail)
        split.setStretchFactor(0, 4)
        split.setStretchFactor(1, 1)
        split.setSizes([640, 210])
        split.setChildrenCollapsible(True)
        self.body.addWidget(split, 1)
        self.watch_focus(self.table)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self.model.show(sorted(board.skew, key=lambda line: not line.odd))
        self._detail()
        odd = sum(line.odd for line in board.skew)
        against = "the expected stamp" if board.view.expected_stamp else "the majority"
        legend = [(f"≠ differs from {against}", "dim"), ("Enter: around its deploy", "dim")]
        if odd:
            legend.insert(0, (f"{odd} of {len(board.skew)} differ", "critical"))
        envs = sum(bool(line.env) for line in board.skew)
        if envs:
            legend.insert(0, (f"environment differs on {envs}", "dim"))
        self.title.show_legend(legend)

    def _detail(self) -> None:
        if self.board is None:
            return
        line = self.table.row()
        if line is None:
            line = next((row for row in self.model.rows if row.odd), None)
        self.detail.show_line(line, self.board)

    def focus_target(self) -> QWidget:
        return self.table

    def select(self, key: str) -> None:
        self.table.select_row(self.model.place_of(key))
        self._detail()

    def copy_command(self) -> str:
        """The command that says what differs, on the two servers concerned."""
        line = self.table.row()
        if not isinstance(line, SkewLine) or self.board is None:
            return ""
        usual = next((row for row in self.board.skew if not row.odd and row.stamp), None)
        other = f" {usual.address}" if usual is not None and usual is not line else ""
        return f"console --panel skew {line.address}{other}"

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["server", "stamp", *STAMP_PARTS, "since_unix_s"]
        return head, [
            [line.name, line.stamp, *(cell.value for cell in line.cells), f"{line.since_s:.0f}"]
            for line in self.model.rows
        ]
