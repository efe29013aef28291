"""Any panel as a table of figures: the twin of its plots for a screen reader, for copying a cell,
and for whoever wants the number and not the line."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex
from PySide6.QtGui import QKeyEvent, QKeySequence
from PySide6.QtWidgets import QDialog, QVBoxLayout, QWidget

from console.models.cells import Cell, Column
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.status_bar import Line
from console.panels.table import Table
from console.plots.style import Look

Row = tuple[int, list[str]]


def _column(place: int, title: str, numeric: bool) -> Column:
    def cell(row: Row) -> Cell:
        words = row[1][place] if place < len(row[1]) else ""
        return Cell(words, mono=True, right=numeric, tip=words if len(words) > 20 else "")

    def order(row: Row) -> tuple[bool, float | str]:
        words = cell(row).text
        return (False, words) if not numeric else (words == "", float(words or 0))

    return Column(title, cell, 110, right=numeric, order=order)


def is_number(words: str) -> bool:
    try:
        float(words or 0)
    except ValueError:
        return False
    return True


class Figures(QDialog):
    """As they were when it was opened: a table that moves cannot be read."""

    def __init__(self, parent: QWidget, look: Look, panel: Panel) -> None:
        super().__init__(parent)
        head, rows = panel.as_table()
        self.setWindowTitle(f"{panel.heading.capitalize()}: the figures")
        self.resize(min(parent.width() - 80, 1100), min(parent.height() - 80, 640))
        columns = tuple(
            _column(place, title, all(is_number(row[place]) for row in rows if place < len(row)))
            for place, title in enumerate(head)
        )
        model = RowsModel(columns, lambda row: row[0])
        model.setParent(self)
        model.show(list(enumerate(rows)))
        self.table = Table(look, model, columns)
        self.table.setAccessibleName(self.windowTitle())
        words = f"{len(rows):,} rows, as they were when this was opened"
        left_out = panel.left_out()
        words += f" ({left_out})" if left_out else ""
        said = Line(look, "dim", 11)
        said.say(f"{words} · arrows move · O sorts · Ctrl+C copies the cell · Esc closes")
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 2)
        column.addWidget(self.table, 1)
        column.addWidget(said)
        if rows:
            self.table.setCurrentIndex(model.index(0, 0, QModelIndex()))
        self.table.setFocus()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """The window's keys do not reach a dialog."""
        if event.text().lower() == "o":
            self.table.sort_current()
        elif event.matches(QKeySequence.StandardKey.Copy):
            self.table.copy_cell()
        else:
            super().keyPressEvent(event)
