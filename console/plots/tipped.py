"""A widget that paints its own text, and has a tool tip for each piece of it."""

from __future__ import annotations

from PySide6.QtCore import QEvent
from PySide6.QtGui import QHelpEvent
from PySide6.QtWidgets import QToolTip, QWidget

from console.models.table import escaped_tip


class TippedWidget(QWidget):
    def tip_at(self, x: float, y: float) -> str:
        """The tool tip for this position, a sentence; empty: no tool tip."""
        return ""

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            tip = self.tip_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), escaped_tip(tip), self)
            return True
        return super().event(event)
