"""What every panel paints with. One object, shared, exchanged when the theme changes."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QFont

from console.app.theme import DARK, Theme, fonts
from console.plots.paint import bold, sized


class Style(QObject):
    changed = Signal()

    def __init__(self, theme: Theme = DARK) -> None:
        super().__init__()
        self.theme = theme
        self.text_font, self.number_font = fonts()
        self.small: QFont = sized(self.text_font, 11)
        self.small_number_font: QFont = sized(self.number_font, 11)
        self.title: QFont = bold(self.text_font, 11)
        self.title.setLetterSpacing(QFont.SpacingType.AbsoluteSpacing, 1.2)
        self.strong: QFont = bold(self.number_font)

    def use(self, theme: Theme) -> None:
        self.theme = theme
        self.changed.emit()
