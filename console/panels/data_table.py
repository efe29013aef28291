"""Any panel as a table of numbers: for screen readers, and for copying a single value."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex
from PySide6.QtGui import QKeyEvent, QKeySequence
from PySide6.QtWidgets import QDialog, QVBoxLayout, QWidget

from console.models.cells import Cell, TableColumn
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.status_bar import TextLine
from console.panels.table import Table
from console.plots.style import Style

NumberedRow = tuple[int, list[str]]


def _column(place: int, title: str, numeric: bool) -> TableColumn:
    def cell(row: NumberedRow) -> Cell:
        text = row[1][place] if place < len(row[1]) else ""
        return Cell(text, mono=True, tip=text if len(text) > 20 else "")

    def order(row: NumberedRow) -> tuple[bool, float | str]:
        text = cell(row).text
        return (False, text) if not numeric else (text == "", float(text or 0))

    return TableColumn(title, cell, 110, right=numeric, order=order)


def is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


class DataTable(QDialog):
    """The values as they were when the table was opened: a table that changes cannot be read."""

    def __init__(self, parent: QWidget, style: Style, panel: Panel) -> None:
        super().__init__(parent)
        head, rows = panel.as_table()
        self.setWindowTitle(f"{panel.heading.capitalize()}: table")
        self.resize(min(parent.width() - 80, 1100), min(parent.height() - 80, 640))
        columns = tuple(
            _column(place, title, all(is_number(row[place]) for row in rows if place < len(row)))
            for place, title in enumerate(head)
        )
        model = RowsModel(columns, lambda row: row[0])
        model.setParent(self)
        model.show(list(enumerate(rows)))
        self.table = Table(style, model)
        self.table.setAccessibleName(self.windowTitle())
        text = f"{len(rows):,} rows, a snapshot of when this window opened"
        left_out = panel.left_out()
        text += f" ({left_out})" if left_out else ""
        note = TextLine(style, "dim", 11)
        note.show_text(f"{text} · arrows move · O sorts · Ctrl+C copies the cell · Esc closes")
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 2)
        column.addWidget(self.table, 1)
        column.addWidget(note)
        if rows:
            self.table.setCurrentIndex(model.index(0, 0, QModelIndex()))
        self.table.setFocus()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Handled here, because the window's shortcuts do not reach a dialog."""
        if event.text().lower() == "o":
            self.table.sort_current()
        elif event.matches(QKeySequence.StandardKey.Copy):
            self.table.copy_cell()
        else:
            super().keyPressEvent(event)
