"""The content of one table cell: text, tone, and what is drawn beside the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import Qt

CELL = Qt.ItemDataRole.UserRole + 1  # a Cell
ROW = Qt.ItemDataRole.UserRole + 2  # the row behind the cell


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    text: str = ""
    tone: str = "text"  # a token, severity or drift level of console.app.theme
    # text | bar | spark | sign | deploy | skew | sentence (a sign and a text that runs on over the
    # cells to its right) | continued (such a cell).
    kind: str = "text"
    bold: bool = False
    mono: bool = False
    value: Any = None  # for a bar (share, marks), for a sparkline an array
    tip: str = ""


@dataclass(frozen=True, slots=True)
class TableColumn:
    title: str
    cell: Callable[[Any], Cell]
    width: int = 80  # pixels; 0 takes the remaining width
    right: bool = False
    order: Callable[[Any], Any] | None = None  # the sort key for a click on the header
    tip: str = ""
    least: int = 90  # least pixels of a column with width 0
    # Where space is short, the column with the highest value is hidden first; 0: never hidden.
    spare: int = 0

    @property
    def side(self) -> Qt.AlignmentFlag:
        right, left = Qt.AlignmentFlag.AlignRight, Qt.AlignmentFlag.AlignLeft
        return (right if self.right else left) | Qt.AlignmentFlag.AlignVCenter


def mono(text: str, tone: str = "dim", **more: Any) -> Cell:
    """A number, a name or a time, in the fixed-width font."""
    return Cell(text, tone, mono=True, **more)


def number_column(title: str, cell: Callable[[Any], Cell], width: int, **more: Any) -> TableColumn:
    return TableColumn(title, cell, width, right=True, **more)
