"""The command palette and the key sheet, both made of the one registry."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, QRectF, Qt
from PySide6.QtGui import QHideEvent, QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QApplication, QDialog, QLineEdit, QListWidget, QVBoxLayout, QWidget

from console.app.commands import Command, CommandRegistry
from console.plots import paint
from console.plots.style import Style

WIDEST = 330.0  # pixels of a column of the key sheet


def columns_of(heights: Sequence[float], room: float) -> int:
    """How many columns take blocks of these heights, one after the other, none cut in two."""
    columns, used = 1, 0.0
    for height in heights:
        if used and used + height > room:
            columns, used = columns + 1, 0.0
        used += height
    return columns


class CommandPalette(QDialog):
    def __init__(self, parent: QWidget, commands: CommandRegistry) -> None:
        super().__init__(parent)
        self.setWindowTitle("Commands")
        self.setModal(True)
        self.setMinimumSize(460, 360)
        self._commands = commands
        self._found: list[Command] = []
        self.line = QLineEdit()
        self.line.setPlaceholderText("type a command")
        self.line.setAccessibleName("Command")
        self.list = QListWidget()
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setAccessibleName("Commands found")
        column = QVBoxLayout(self)
        column.addWidget(self.line)
        column.addWidget(self.list)
        self.line.textChanged.connect(self._search)
        self.line.returnPressed.connect(self._run)
        self.list.itemClicked.connect(lambda _: self._run())
        self.line.installEventFilter(self)
        self._search("")

    def _search(self, text: str) -> None:
        self._found = self._commands.search(text)
        self.list.clear()
        for command in self._found:
            keys = "  ".join(command.keys)
            self.list.addItem(f"{command.title}    {keys}" if keys else command.title)
        self.list.setCurrentRow(0)

    def _run(self) -> None:
        place = self.list.currentRow()
        self.accept()
        if 0 <= place < len(self._found):
            self._found[place].run()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()))
            if step is not None:
                row = self.list.currentRow() + step
                self.list.setCurrentRow(min(max(row, 0), self.list.count() - 1))
                return True
        return super().eventFilter(watched, event)


class KeySheet(QWidget):
    """All keys over the window, until any key or click."""

    def __init__(self, parent: QWidget, style: Style, commands: CommandRegistry) -> None:
        super().__init__(parent)
        self._style = style
        self._commands = commands
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Keys")
        self._before: QWidget | None = None
        self.hide()

    def toggle(self) -> None:
        parent = self.parentWidget()
        if self.isVisible() or parent is None:
            self.hide()
            return
        self._before = QApplication.focusWidget()
        self.setGeometry(parent.rect())
        text = [f"{'/'.join(c.keys)}: {c.title}" for c in self._commands if c.keys]
        self.setAccessibleDescription("; ".join(text))
        self.show()
        self.raise_()
        self.setFocus()

    def hideEvent(self, event: QHideEvent) -> None:
        """Back to where the keyboard was."""
        super().hideEvent(event)
        if self._before is not None and self._before.isVisible():
            self._before.setFocus()
        self._before = None

    def keyPressEvent(self, event: QKeyEvent) -> None:
        self.hide()

    def mousePressEvent(self, event: object) -> None:
        self.hide()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, style, px = self._style.theme, self._style, self._style.px
        painter.fillRect(self.rect(), theme.color("background", 240))
        groups: dict[str, list[Command]] = {}
        for command in self._commands:
            if command.keys:
                groups.setdefault(command.group, []).append(command)
        mouse = [("drag", "brush a time range for all panels"), ("wheel", "zoom the time"),
                 ("shift+drag", "pan"), ("double click", "zoom to the brush"),
                 ("click the heat map", "show the requests of that cell")]  # fmt: skip
        blocks = [(name, [("  ".join(c.keys), c.title) for c in found])
                  for name, found in groups.items()]  # fmt: skip
        blocks.append(("Mouse", mouse))
        line = px(18)
        heights = [px(40) + line * len(rows) for _, rows in blocks]
        columns = columns_of(heights, self.height() - px(60))
        width = min(px(WIDEST), (self.width() - px(20)) / columns)
        x, y = max((self.width() - columns * width) / 2, px(10)), px(40)
        for name, rows in blocks:
            if y > px(40) and y + px(26) + line * len(rows) > self.height() - px(20):
                x, y = x + width, px(40)
            paint.text(painter, QRectF(x, y, width, line), name.upper(), theme.color("accent"),
                       style.title)  # fmt: skip
            y += px(20)
            for keys, text in rows:
                paint.text(
                    painter,
                    QRectF(x, y, px(96), line),
                    keys,
                    theme.color("text"),
                    style.number_font,
                )
                paint.text(painter, QRectF(x + px(102), y, width - px(112), line), text,
                           theme.color("dim"), style.text_font)  # fmt: skip
                y += line
            y += px(14)
