"""The frame around a panel: title, legend on the right, focus ring, and the table that it can
export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QSizePolicy, QVBoxLayout, QWidget

from console.models.table import ColumnsModel
from console.panels.table import Table
from console.plots import paint
from console.plots.style import Style
from console.plots.tipped import TippedWidget
from console.state import glossary
from console.state.access import ConnectionAccess
from console.state.dashboard import Board

GAP = 12  # pixels between two pieces of a legend
Legend = Sequence[tuple[str, str]]  # (text, tone); see paint.KEYS


class PanelTitle(TippedWidget):
    def __init__(self, style: Style, text: str, tip: str) -> None:
        super().__init__()
        self._style = style
        self._text, self._tip = text, tip
        self._places: list[tuple[QRectF, str]] = []  # the legend's pieces as painted
        self.legend: Legend = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(self._style.whole(24))

    def sizeHint(self) -> QSize:
        return QSize(120, self.height())

    def show_legend(self, legend: Legend) -> None:
        if tuple(legend) != tuple(self.legend):
            self.legend = tuple(legend)
            self.update()

    def tip_at(self, x: float, y: float) -> str:
        """What a piece of the legend means; elsewhere in the title, what the panel shows."""
        found = (text for place, text in self._places if place.left() <= x <= place.right())
        text = next(found, "")
        return glossary.chip(text) if text else self._tip

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self._places = []
        style, theme, px = self._style, self._style.theme, self._style.px
        area = QRectF(self.rect()).adjusted(px(10), px(2), -px(8), 0)
        used = paint.text(painter, area, self._text, theme.color("text"), style.title)
        left = area.left() + used + px(14)
        # From the right. A piece that does not fit is left out whole, hints before figures.
        right = area.right()
        for text, tone in reversed(self._fitting(QFontMetricsF(style.small), right - left)):
            width = min(QFontMetricsF(style.small).horizontalAdvance(text) + 1, right - left)
            place = QRectF(right - width, area.top(), width, area.height())
            self._places.append((place, text))
            if text[:1] in paint.KEYS:
                paint.keyed(painter, theme, place, (text, tone), style.small)
            else:
                color = theme.color(tone or "dim")
                paint.text(painter, place, text, color, style.small, paint.RIGHT)
            right -= width + px(GAP)

    def _fitting(self, metrics: QFontMetricsF, room: float) -> Legend:
        """The pieces that fit, in order; at least one, even if it is cut."""
        gap = self._style.px(GAP)
        pieces = list(enumerate(self.legend))
        kept: list[int] = []
        for place, (text, _) in sorted(pieces, key=lambda one: (_rank(*one[1]), -one[0])):
            width = metrics.horizontalAdvance(text) + 1
            if width <= room or not kept:
                kept.append(place)
                room -= width + gap
        return [piece for place, piece in pieces if place in kept]


def _rank(text: str, tone: str) -> int:
    """Which pieces stay longest: 0 is a problem or a figure, 1 a dim text, 2 a hint such as a
    key."""
    if tone != "dim":
        return 0
    return 2 if ": " in text or "·" in text else 1


class Panel(QFrame):
    """`jump` asks the window to show something: (panel, key, unix seconds or NaN)."""

    jump = Signal(str, str, float)
    name = "panel"
    heading = "PANEL"

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.ui_style = style
        self.board: Board | None = None
        self._target: QWidget | None = None
        self.setObjectName("panel")
        self.setAccessibleName(self.heading.capitalize())
        self.title = PanelTitle(style, self.heading, glossary.PANELS.get(self.name, ""))
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(1, 1, 1, 1)
        self.body.setSpacing(0)
        self.body.addWidget(self.title)
        style.changed.connect(self.refresh)

    def show_board(self, board: Board) -> None:
        """Show a new board. Subclasses fill themselves; nothing here may take long."""
        self.board = board

    def refresh(self) -> None:
        if self.board is not None:
            self.show_board(self.board)
        self.update()

    def make_table(
        self,
        model: ColumnsModel,
        name: str,
        empty: str,
        chosen: Callable[[Any], object] = lambda row: None,
        opened: Callable[[Any], object] = lambda row: None,
    ) -> Table:
        """A table that screen readers call `name`; the first table of a panel takes the keyboard
        focus."""
        table = Table(self.ui_style, model, empty)
        table.setAccessibleName(name)
        table.chosen.connect(chosen)
        table.opened.connect(opened)
        self.watch_focus(table)
        self._target = self._target or table
        return table

    def watch_focus(self, widget: QWidget) -> None:
        """Highlight the frame while this child has the focus."""
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.FocusIn, QEvent.Type.FocusOut):
            self._light(event.type() == QEvent.Type.FocusIn)
        return super().eventFilter(watched, event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self._light(True)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self._light(False)

    def _light(self, on: bool) -> None:
        self.setProperty("active", on)
        self.style().unpolish(self)
        self.style().polish(self)

    def focus_target(self) -> QWidget:
        """The widget that takes the keyboard focus."""
        return self._target or self

    def left_out(self) -> str:
        """What `as_table` leaves out of the panel's data; empty when it is complete."""
        return ""

    def select(self, key: str) -> None:
        """Show the row that a link points to."""

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        """The panel's content as (column heads, rows): for CSV, for screen readers, for copying."""
        return [], []

    def copy_command(self, access: ConnectionAccess) -> str:
        """The command line that shows or repeats what is selected; empty if there is none."""
        return ""


NO_SCROLL = Qt.ScrollBarPolicy.ScrollBarAlwaysOff
