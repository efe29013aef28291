"""The status line: the state, what is wrong as links, and the worst of it in one sentence."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from console.plots import paint
from console.plots.style import Look
from console.state.dashboard import Board, Phrase


class Line(QWidget):
    """One line of plain text, elided."""

    def __init__(self, look: Look, tone: str = "text", pixels: int = 12) -> None:
        super().__init__()
        self._look = look
        self.words = ""
        self.tone = tone
        self._font = paint.sized(look.words, pixels)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(60)
        self.setFixedHeight(pixels + 8)

    def say(self, words: str, tone: str | None = None) -> None:
        if words != self.words or (tone or self.tone) != self.tone:
            self.words = words
            self.tone = tone or self.tone
            self.setAccessibleName(words[:500])
            self.update()

    def sizeHint(self) -> QSize:
        return QSize(200, self.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        color = self._look.theme.color(self.tone)
        paint.text(painter, QRectF(self.rect()), self.words, color, self._font)


class PhraseButton(QPushButton):
    """A link: sign, count, words. Painted, so that no text is ever taken for markup."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self.phrase = Phrase("info", "", "")
        self.setFlat(True)
        self.setAutoDefault(True)  # Enter presses it, in a window as in a dialog
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFixedHeight(24)
        self._font = paint.sized(look.words, 13)
        self._strong = paint.bold(self._font)

    def show_phrase(self, phrase: Phrase) -> None:
        if phrase == self.phrase:
            return
        self.phrase = phrase
        number, rest = _counted(phrase.text)
        width = 32 + QFontMetrics(self._strong).horizontalAdvance(number)
        width += QFontMetrics(self._font).horizontalAdvance(rest)
        if width != self.width():
            self.setFixedWidth(width)
        self.setAccessibleName(f"{phrase.severity}: {phrase.text}. {phrase.detail}"[:500])
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme = self._look.theme
        severity = self.phrase.severity
        area = QRectF(self.rect()).adjusted(0.5, 1.5, -0.5, -1.5)
        painter.setRenderHint(paint.SMOOTH)
        if severity in ("critical", "high", "warning"):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color(severity, 46))
            painter.drawRoundedRect(area, 3, 3)
        if self.hasFocus() or self.underMouse():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(theme.color("accent" if self.hasFocus() else severity))
            painter.drawRoundedRect(area, 3, 3)
        paint.sign(painter, theme, severity, QPointF(12, area.center().y()), 9)
        tone = "dim" if severity in ("info", "unknown") else severity
        words = area.adjusted(22, 0, 0, 0)
        number, rest = _counted(self.phrase.text)
        used = paint.text(painter, words, number, theme.color(tone), self._strong)
        paint.text(painter, words.adjusted(used, 0, 2, 0), rest, theme.color(tone), self._font)


def _counted(text: str) -> tuple[str, str]:
    """`3 servers skewed`: the number, which is printed heavier, and the rest with its space."""
    number, space, rest = text.partition(" ")
    if number.replace(",", "").isdigit():
        return number, space + rest
    return "", text


class Strip(QFrame):
    jump = Signal(str, str, float)

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self.setObjectName("panel")
        self.setAccessibleName("Status")
        self._severity = "unknown"
        self._state = Line(look, "unknown", 17)
        self._state._font = paint.bold(look.words, 17)
        self._state.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._sentence = Line(look, "text", 12)
        self.tabs = QHBoxLayout()
        self.tabs.setSpacing(0)
        self._phrases = QHBoxLayout()
        self._phrases.setSpacing(6)
        self._buttons: list[PhraseButton] = []
        first, second = QHBoxLayout(), QHBoxLayout()
        first.addWidget(self._state)
        first.addLayout(self._phrases)
        first.addStretch(1)
        second.addWidget(self._sentence, 1)
        second.addLayout(self.tabs)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(14, 4, 8, 3)
        whole.setSpacing(0)
        whole.addLayout(first)
        whole.addLayout(second)
        self.setFixedHeight(58)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def show_board(self, board: Board) -> None:
        said = board.verdict
        self._severity = said.severity
        self._state.say(said.state, said.severity)
        width = QFontMetrics(self._state._font).horizontalAdvance(said.state) + 18
        self._state.setFixedWidth(width)
        self._sentence.say(said.sentence, "text" if said.severity != "ok" else "dim")
        while len(self._buttons) < len(said.phrases):
            button = PhraseButton(self._look)
            button.clicked.connect(lambda _=False, b=button: self._go(b))
            self._buttons.append(button)
            self._phrases.addWidget(button)
        room = self.width() - width - 30
        for index, button in enumerate(self._buttons):
            shown = index < len(said.phrases)
            if shown:
                button.show_phrase(said.phrases[index])
                room -= button.width() + 6
            # The last one, how many are healthy, gives way first; the worst never does.
            button.setVisible(shown and (room > 0 or index == 0))
        self.setAccessibleDescription(f"{said.state}. {said.sentence}"[:500])
        self.update()

    def _go(self, button: PhraseButton) -> None:
        phrase = button.phrase
        self.jump.emit(phrase.panel, phrase.key, phrase.at_s)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        color = self._look.theme.color(self._severity)
        painter.fillRect(QRectF(1, 1, 4, self.height() - 2), color)
