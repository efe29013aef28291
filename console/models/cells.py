"""The content of one table cell: text, tone, and what is drawn beside it."""

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
    # text | bar | spark | sign | deploy | skew, or a sentence with a sign and the cells right of it
    # that it is continued over
    kind: str = "text"
    bold: bool = False
    mono: bool = False
    value: Any = None  # of the bar (share, marks) or the sparkline (array)
    tip: str = ""


@dataclass(frozen=True, slots=True)
class TableColumn:
    title: str
    cell: Callable[[Any], Cell]
    width: int = 80  # pixels; 0 takes what is left
    right: bool = False
    order: Callable[[Any], Any] | None = None  # sorts on a click on the header
    tip: str = ""
    least: int = 90  # pixels that a column without a width of its own must be left
    spare: int = 0  # gives way when the room is scarce: the highest first; 0 never

    @property
    def side(self) -> Qt.AlignmentFlag:
        right, left = Qt.AlignmentFlag.AlignRight, Qt.AlignmentFlag.AlignLeft
        return (right if self.right else left) | Qt.AlignmentFlag.AlignVCenter


def mono(text: str, tone: str = "dim", **more: Any) -> Cell:
    """A number, a name or a time, in the fixed-width font."""
    return Cell(text, tone, mono=True, **more)


def number_column(title: str, cell: Callable[[Any], Cell], width: int, **more: Any) -> TableColumn:
    return TableColumn(title, cell, width, right=True, **more)
