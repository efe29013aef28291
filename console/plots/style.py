"""What every panel paints with. One object, shared, exchanged when the theme changes."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QFont

from console.app.theme import DARK, Theme, fonts
from console.plots.paint import bold, sized


class Look(QObject):
    changed = Signal()

    def __init__(self, theme: Theme = DARK) -> None:
        super().__init__()
        self.theme = theme
        self.words, self.figures = fonts()
        self.small: QFont = sized(self.words, 11)
        self.small_figures: QFont = sized(self.figures, 11)
        self.title: QFont = bold(self.words, 11)
        self.title.setLetterSpacing(QFont.SpacingType.AbsoluteSpacing, 1.2)
        self.strong: QFont = bold(self.figures)

    def use(self, theme: Theme) -> None:
        self.theme = theme
        self.changed.emit()
