"""Desktop notifications for alerts that begin. An alert that continues is not shown again."""

from __future__ import annotations

from PySide6.QtCore import QPointF
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget

from console.plots import paint
from console.plots.style import Style
from console.state.dashboard import AlertLine, Board
from console.state.status_messages import quiet

NEW_S = 120.0  # older alerts began before the console started


def beginning(board: Board, seen: set[tuple[str, str]]) -> list[AlertLine]:
    """New critical alerts: not acknowledged, not silenced, not shown before."""
    return [
        line
        for line in board.alerts
        if line.firing
        and line.row.severity == "critical"
        and not quiet(line)
        and board.made_s - line.opened_s < NEW_S
        and (line.server, line.row.id) not in seen
    ]


class Notices:
    def __init__(self, window: QWidget, style: Style, sound: bool = False) -> None:
        self._window = window
        self._style = style
        self.sound = sound
        self._seen: set[tuple[str, str]] = set()
        self._tray: QSystemTrayIcon | None = None
        self._severity = ""

    def update(self, board: Board) -> None:
        found = beginning(board, self._seen)
        self._seen |= {(line.server, line.row.id) for line in board.alerts}
        if board.fleet_state.severity != self._severity:
            self._severity = board.fleet_state.severity
            self._window.setWindowIcon(self._icon())
        if found:
            self._notify(found)

    def _notify(self, found: list[AlertLine]) -> None:
        first = found[0]
        QApplication.alert(self._window)
        if self.sound:
            QApplication.beep()
        if not QSystemTrayIcon.isSystemTrayAvailable():
            return
        if self._tray is None:
            self._tray = QSystemTrayIcon(self._icon(), self._window)
        self._tray.setIcon(self._icon())
        self._tray.show()
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        self._tray.showMessage(f"{first.name}: critical{more}", first.row.summary[:300])

    def _icon(self) -> QIcon:
        """The state as a shape and a colour, for the task bar."""
        picture = QPixmap(64, 64)
        picture.fill(self._style.theme.color("background"))
        painter = QPainter(picture)
        sign = self._severity or "unknown"
        paint.sign(painter, self._style.theme, sign, QPointF(32, 32), 40)
        painter.end()
        return QIcon(picture)
