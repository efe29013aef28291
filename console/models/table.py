"""One table model for all panels: rows with keys, and columns that turn a row into a cell.
Selection and scroll position follow the key of a row, not its position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt

from console.models.cells import CELL, ROW, Cell, TableColumn
from console.state import glossary

Index = QModelIndex | QPersistentModelIndex
Role = Qt.ItemDataRole
ROOT = QModelIndex()


_SHOWN = (CELL, ROW, Role.DisplayRole, Role.ToolTipRole, Role.AccessibleTextRole)


class ColumnsModel(QAbstractTableModel):
    """Rows under columns; a subclass provides the rows."""

    def __init__(self, columns: Sequence[TableColumn]) -> None:
        super().__init__()
        self.columns = tuple(columns)

    def row_at(self, place: int) -> Any:
        """The row at a position; None if there is none."""

    def cell_of(self, row: Any, index: Index) -> Cell:
        return self.columns[index.column()].cell(row)

    def columnCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if role not in _SHOWN or not index.isValid() or index.row() >= self.rowCount():
            return None
        row = self.row_at(index.row())
        if role == ROW:
            return row
        return _cell_data(self.cell_of(row, index), self.columns[index.column()], role)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole
    ) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        column = self.columns[section]
        if role == Role.DisplayRole:
            return column.title
        if role == Role.ToolTipRole:
            return column.tip or glossary.head(column.title) or None
        return column.side if role == Role.TextAlignmentRole else None


class RowsModel(ColumnsModel):
    def __init__(
        self,
        columns: Sequence[TableColumn],
        key: Callable[[Any], object],
        face: Callable[[Any], object] = lambda row: row,
    ) -> None:
        """`face` returns what is visible of a row: while it is equal, the row is not painted
        again."""
        super().__init__(columns)
        self._key = key
        self._face = face
        self._faces: tuple[object, ...] = ()
        self._rows: tuple[Any, ...] = ()
        self._keys: tuple[object, ...] = ()
        self._sorted_by = -1
        self._descending = False
        self._given: tuple[Any, ...] = ()

    @property
    def rows(self) -> tuple[Any, ...]:
        return self._rows

    def show(self, rows: Sequence[Any]) -> None:
        """Show new rows. If the keys and their order are unchanged, only the content changes."""
        self._given = tuple(rows)
        self._arrange(self._ordered(self._given))

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; -1 restores the order in which the rows were given, worst first."""
        self._sorted_by = column
        self._descending = order == Qt.SortOrder.DescendingOrder
        self._arrange(self._ordered(self._given))

    def _ordered(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        if not 0 <= self._sorted_by < len(self.columns):
            return rows
        by = self.columns[self._sorted_by].order
        if by is None:
            return rows
        return tuple(sorted(rows, key=by, reverse=self._descending))

    def _arrange(self, rows: tuple[Any, ...]) -> None:
        keys = tuple(self._key(row) for row in rows)
        faces, shown = tuple(self._face(row) for row in rows), self._faces
        self._faces = faces
        if keys == self._keys:
            self._rows = rows
            changed = [n for n, face in enumerate(faces) if face != shown[n]]
            if changed:
                first = self.index(changed[0], 0)
                last = self.index(changed[-1], len(self.columns) - 1)
                self.dataChanged.emit(first, last)
            return
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [(index, self._keys[index.row()]) for index in before]
        self._rows, self._keys = rows, keys
        places = {key: place for place, key in enumerate(keys)}
        after = [
            self.createIndex(places[key], index.column()) if key in places else QModelIndex()
            for index, key in held
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def place_of(self, key: object) -> int:
        """The position of the row with this key; -1 if there is none."""
        try:
            return self._keys.index(key)
        except ValueError:
            return -1

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def row_at(self, place: int) -> Any:
        return self._rows[place]


def _cell_data(cell: Cell, column: TableColumn, role: int) -> Any:
    """The answer to one of Qt's roles for a cell."""
    if role == CELL:
        return cell
    if role == Role.AccessibleTextRole:
        return f"{column.title}: {cell.text}"
    if role == Role.ToolTipRole:
        return escaped_tip(cell.tip) if cell.tip else None
    return cell.text


def escaped_tip(text: str) -> str:
    """A tool tip that Qt does not take for rich text, whatever text a server sent."""
    if "<" not in text and "&" not in text:
        return text
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "<qt>" + escaped.replace("\n", "<br>") + "</qt>"
