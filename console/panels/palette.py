"""The search box, and the key sheet, which lists the registered commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QObject, QRectF, Qt, Signal
from PySide6.QtGui import QHideEvent, QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QApplication, QDialog, QLineEdit, QListWidget, QVBoxLayout, QWidget

from console.app.commands import Command, CommandRegistry
from console.finding.finder import Hit
from console.plots import paint
from console.plots.style import Style

WIDEST = 330.0  # widest column of the key sheet, in pixels


def columns_of(heights: Sequence[float], room: float) -> int:
    """How many columns the blocks of these heights need, in order, without splitting a block."""
    columns, used = 1, 0.0
    for height in heights:
        if used and used + height > room:
            columns, used = columns + 1, 0.0
        used += height
    return columns


class FindBox(QDialog):
    """One line that finds anything. `find` returns the hits for a text, best first; `chosen`
    carries the selected one."""

    chosen = Signal(object)  # Hit

    def __init__(self, parent: QWidget, find: Callable[[str], Sequence[Hit]]) -> None:
        super().__init__(parent)
        self.setWindowTitle("Find")
        self.setModal(True)
        self.setMinimumSize(640, 420)
        self._find = find
        self._found: Sequence[Hit] = ()
        self.line = QLineEdit()
        self.line.setPlaceholderText(
            "a server, feature, slice, alert, prediction id, time (last 3 h) or command"
        )
        self.line.setAccessibleName("Find")
        self.list = QListWidget()
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setAccessibleName("Found")
        self.list.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addWidget(self.line)
        column.addWidget(self.list)
        self.line.textChanged.connect(self._search)
        self.line.returnPressed.connect(self._run)
        self.list.itemClicked.connect(lambda _: self._run())
        self.line.installEventFilter(self)
        self._search("")

    def _search(self, text: str) -> None:
        self._found = self._find(text)
        self.list.clear()
        for hit in self._found:
            self.list.addItem(_line_of(hit))
        first = next((n for n, hit in enumerate(self._found) if hit.kind != "none"), 0)
        self.list.setCurrentRow(first)

    def _run(self) -> None:
        place = self.list.currentRow()
        if not 0 <= place < len(self._found) or self._found[place].kind == "none":
            return
        self.accept()
        self.chosen.emit(self._found[place])

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()))
            if step is not None:
                row = self.list.currentRow() + step
                self.list.setCurrentRow(min(max(row, 0), self.list.count() - 1))
                return True
        return super().eventFilter(watched, event)


def _line_of(hit: Hit) -> str:
    """A hit's kind, title and detail, on one line."""
    if hit.kind == "none":
        return hit.title
    kind = "" if hit.kind == "command" else f"{hit.kind}  "
    return f"{kind}{hit.title[:160]}" + (f"    {hit.detail[:90]}" if hit.detail else "")


class KeySheet(QWidget):
    """An overlay with all keys, until the next key or click."""

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
        """Return the focus to the widget that had it."""
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
