"""The status line: the state, the problems as links, and the worst one as a sentence."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from console.models.table import escaped_tip
from console.plots import paint
from console.plots.style import Style
from console.state import next_steps
from console.state.dashboard import Board, StatusMessage


class TextLine(QWidget):
    """One line of plain text, elided."""

    def __init__(
        self, style: Style, tone: str = "text", pixels: int = 12, bold: bool = False
    ) -> None:
        super().__init__()
        self._style = style
        self.text = ""
        self.tone = tone
        self._pixels, self._bold = pixels, bold
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(60)
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        found = self._style.text(self._pixels)
        self.font_shown = paint.bold(found) if self._bold else found
        self.setFixedHeight(self._style.whole(self._pixels + 8))

    def show_text(self, text: str, tone: str | None = None) -> None:
        if text != self.text or (tone or self.tone) != self.tone:
            self.text = text
            self.tone = tone or self.tone
            self.setAccessibleName(text[:500])
            self.update()

    def sizeHint(self) -> QSize:
        return QSize(200, self.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        color = self._style.theme.color(self.tone)
        paint.text(painter, QRectF(self.rect()), self.text, color, self.font_shown)


class MessageButton(QPushButton):
    """A link: sign, count, text. It is painted, so that text is never taken for markup."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.message = StatusMessage("info", "", "")
        self.setFlat(True)
        self.setAutoDefault(True)  # Enter presses the button, in a window as in a dialog
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(self._style.whole(24))
        self._font = self._style.text(13)
        self._strong = paint.bold(self._font)
        self._widen()

    def show_message(self, message: StatusMessage) -> None:
        if message == self.message:
            return
        self.message = message
        self._widen()
        self.setAccessibleName(f"{message.severity}: {message.text}. {message.detail}"[:500])
        self.update()

    def _widen(self) -> None:
        number, rest = _counted(self.message.text)
        width = self._style.whole(32) + QFontMetrics(self._strong).horizontalAdvance(number)
        width += QFontMetrics(self._font).horizontalAdvance(rest)
        if width != self.width():
            self.setFixedWidth(width)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, px = self._style.theme, self._style.px
        severity = self.message.severity
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
        paint.sign(painter, theme, severity, QPointF(px(12), area.center().y()), px(9))
        tone = "dim" if severity in ("info", "unknown") else severity
        text = area.adjusted(px(22), 0, 0, 0)
        number, rest = _counted(self.message.text)
        used = paint.text(painter, text, number, theme.color(tone), self._strong)
        paint.text(painter, text.adjusted(used, 0, 2, 0), rest, theme.color(tone), self._font)


def _counted(text: str) -> tuple[str, str]:
    """`3 servers skewed`: the number, printed in bold, and the rest with its leading blank."""
    number, space, rest = text.partition(" ")
    if number.replace(",", "").isdigit():
        return number, space + rest
    return "", text


class StatusBar(QFrame):
    jump = Signal(str, str, float)

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.setObjectName("panel")
        self.setAccessibleName("Status")
        self._severity = "unknown"
        self.runbooks = ""  # base address of the runbooks; empty: the built-in ones
        self._state = TextLine(style, "unknown", 17, bold=True)
        self._state.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._sentence = TextLine(style, "text", 12)
        self.tabs = QHBoxLayout()
        self.tabs.setSpacing(0)
        self._message_row = QHBoxLayout()
        self._message_row.setSpacing(6)
        self._buttons: list[MessageButton] = []
        first, second = QHBoxLayout(), QHBoxLayout()
        first.addWidget(self._state)
        first.addLayout(self._message_row)
        first.addStretch(1)
        first.addLayout(self.tabs)
        second.addWidget(self._sentence, 1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(14, 4, 8, 3)
        whole.setSpacing(0)
        whole.addLayout(first)
        whole.addLayout(second)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(self._style.whole(51) + 7)

    def show_board(self, board: Board) -> None:
        state = board.fleet_state
        self._severity = state.severity
        self._state.show_text(state.state, state.severity)
        width = QFontMetrics(self._state.font_shown).horizontalAdvance(state.state) + 18
        self._state.setFixedWidth(width)
        worst = state.worst
        following = next_steps.next_of(worst) if worst is not None else ""
        sentence = f"{state.sentence} · next: {following}" if following else state.sentence
        self._sentence.show_text(sentence, "text" if state.severity != "ok" else "dim")
        self._sentence.setToolTip(escaped_tip(sentence))
        while len(self._buttons) < len(state.messages):
            button = MessageButton(self._style)
            button.clicked.connect(lambda _=False, b=button: self._go(b))
            self._buttons.append(button)
            self._message_row.addWidget(button)
        room = self.width() - width - self.tabs.sizeHint().width() - 30
        for index, button in enumerate(self._buttons):
            shown = index < len(state.messages)
            if shown:
                message = state.messages[index]
                button.show_message(message)
                button.setToolTip(escaped_tip(next_steps.tip(message, self.runbooks)))
                room -= button.width() + 6
            # The last message (how many are healthy) is dropped first; the worst is never dropped.
            button.setVisible(shown and (room > 0 or index == 0))
        self.setAccessibleDescription(f"{state.state}. {state.sentence}"[:500])
        self.update()

    def _go(self, button: MessageButton) -> None:
        message = button.message
        self.jump.emit(message.panel, message.key, message.at_s)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        painter = QPainter(self)
        color = self._style.theme.color(self._severity)
        painter.fillRect(QRectF(1, 1, 4, self.height() - 2), color)
