"""The fonts, colours and lengths that every panel paints with. One shared object; it changes with
the theme and the text size. Lengths in the panels' code are pixels at the default size; `px`
converts them to the current size."""

from __future__ import annotations

from PySide6.QtCore import QObject, QRectF, Qt, Signal
from PySide6.QtGui import QFont, QPainter

from console.app.theme import DARK, Theme, fonts
from console.plots import paint
from console.plots.paint import bold, sized

ZOOMS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


class Style(QObject):
    changed = Signal()

    def __init__(self, theme: Theme = DARK, zoom: float = 1.0) -> None:
        super().__init__()
        self.theme = theme
        self.zoom = zoom
        self._fonts = fonts()
        self._size()

    def _size(self) -> None:
        text, number = self._fonts
        self.text_font, self.number_font = self.text(12), self.sized(number, 12)
        self.small: QFont = self.sized(text, 11)
        self.small_number_font: QFont = self.sized(number, 11)
        self.title: QFont = bold(self.small)
        self.title.setLetterSpacing(QFont.SpacingType.AbsoluteSpacing, 1.2 * self.zoom)
        self.strong: QFont = bold(self.number_font)

    def text(self, pixels: int) -> QFont:
        """The font for sentences; `pixels` is the height at the default size."""
        return self.sized(self._fonts[0], pixels)

    def sized(self, font: QFont, pixels: int) -> QFont:
        return sized(font, self.whole(pixels))

    def px(self, pixels: float) -> float:
        """A length at the default size, converted to the current size."""
        return pixels * self.zoom

    def whole(self, pixels: float) -> int:
        """The same, rounded to whole pixels, for sizes of widgets and fonts."""
        return max(1, round(pixels * self.zoom))

    def axis_text(
        self, painter: QPainter, place: QRectF, text: str, flags: Qt.AlignmentFlag = paint.LEFT
    ) -> None:
        """Draw a number or a name beside a plot, small and dim."""
        paint.text(painter, place, text, self.theme.color("dim"), self.small_number_font, flags)

    def use(self, theme: Theme) -> None:
        self.theme = theme
        self.changed.emit()

    def use_zoom(self, zoom: float) -> None:
        self.zoom = min(max(zoom, ZOOMS[0]), ZOOMS[-1])
        self._size()
        self.changed.emit()


def next_zoom(zoom: float, step: int) -> float:
    """The next larger or smaller text size; the same size at either end."""
    place = min(range(len(ZOOMS)), key=lambda number: abs(ZOOMS[number] - zoom))
    return ZOOMS[min(max(place + step, 0), len(ZOOMS) - 1)]


def fitting_zoom(height: int) -> float:
    """The text size for a window of this height in logical pixels: 12 pixels are small on a screen
    of 1,440 lines, and hard to read on one of 2,160 that is not scaled."""
    return max((1.0, *(zoom for zoom in ZOOMS if zoom <= height / 1100)))
