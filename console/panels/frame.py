"""The frame around a panel: title, legend on the right, focus ring, and what it can hand out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QSizePolicy, QToolTip, QVBoxLayout, QWidget

from console.models.table import ColumnsModel, escaped_tip
from console.panels.table import Table
from console.plots import paint
from console.plots.style import Style
from console.state import glossary
from console.state.access import ConnectionAccess
from console.state.dashboard import Board

Legend = Sequence[tuple[str, str]]  # (text, tone); see paint.KEYS


class PanelTitle(QWidget):
    def __init__(self, style: Style, text: str, tip: str) -> None:
        super().__init__()
        self._style = style
        self._text, self._tip = text, tip
        self._places: list[tuple[QRectF, str]] = []  # of the chips, as painted
        self.legend: Legend = ()
        self.setFixedHeight(24)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(120, 24)

    def show_legend(self, legend: Legend) -> None:
        if tuple(legend) != tuple(self.legend):
            self.legend = tuple(legend)
            self.update()

    def tip_at(self, x: float) -> str:
        """What a piece of the legend means; beside them, what the panel shows."""
        found = (text for place, text in self._places if place.left() <= x <= place.right())
        text = next(found, "")
        return glossary.chip(text) if text else self._tip

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            tip = escaped_tip(self.tip_at(event.pos().x()))
            QToolTip.showText(event.globalPos(), tip, self)
            return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self._places = []
        style, theme = self._style, self._style.theme
        area = QRectF(self.rect()).adjusted(10, 2, -8, 0)
        used = paint.text(painter, area, self._text, theme.color("text"), style.title)
        metrics = QFontMetricsF(style.small)
        left = area.left() + used + 14
        # From the right; what does not fit is left out from the left, the least important first.
        right = area.right()
        painter.setFont(style.small)
        for text, tone in reversed(list(self.legend)):
            width = metrics.horizontalAdvance(text) + 1
            if right - width < left:
                width = right - left
                if width < 40 or text[:1] in paint.KEYS:
                    break
            place = QRectF(right - width, area.top(), width, area.height())
            self._places.append((place, text))
            if text[:1] in paint.KEYS:
                paint.keyed(painter, theme, place, (text, tone), style.small)
            else:
                color = theme.color(tone or "dim")
                paint.text(painter, place, text, color, style.small, paint.RIGHT)
            right -= width + 12


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
        """A new board. Subclasses fill themselves; nothing here may take long."""
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
        """A table for screen readers as `name`; the keyboard goes to the first of a panel."""
        table = Table(self.ui_style, model, empty)
        table.setAccessibleName(name)
        table.chosen.connect(chosen)
        table.opened.connect(opened)
        self.watch_focus(table)
        self._target = self._target or table
        return table

    def watch_focus(self, widget: QWidget) -> None:
        """The frame is lit while this child has the keyboard."""
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
        """What the keyboard goes to."""
        return self._target or self

    def left_out(self) -> str:
        """What `as_table` leaves out of the panel's data; empty when it is complete."""
        return ""

    def select(self, key: str) -> None:
        """Show the row a link speaks of."""

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        """What is shown, as a table: for CSV, for screen readers, for copying."""
        return [], []

    def copy_command(self, access: ConnectionAccess) -> str:
        """The command line that shows or repeats what is selected; empty when there is none."""
        return ""


NO_SCROLL = Qt.ScrollBarPolicy.ScrollBarAlwaysOff
