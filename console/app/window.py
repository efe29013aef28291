"""The window: holds the panels, gives them the newest board, and moves between them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QCloseEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QMainWindow,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from console.app.bridge import Bridge
from console.app.commands import Command, CommandRegistry
from console.app.layout import PanelLayout
from console.app.looks import Looks
from console.app.notices import Notices
from console.app.queries import Queries
from console.app.theme import THEMES, palette, sheet
from console.app.timeaxis import TimeAxis
from console.panels.alerts import AlertsPanel
from console.panels.changes import ChangesPanel
from console.panels.compare import ComparePanel
from console.panels.data_table import DataTable
from console.panels.detail import DetailPanel
from console.panels.drift import DriftPanel
from console.panels.events import EventsPanel
from console.panels.fleet import FleetPanel
from console.panels.frame import Panel
from console.panels.latency import LatencyPanel
from console.panels.palette import KeySheet
from console.panels.predictions import PredictionsPanel
from console.panels.quality import QualityPanel
from console.panels.reference import ReferencePanel
from console.panels.server import ServerPanel
from console.panels.skew import SkewPanel
from console.panels.status_bar import StatusBar, TextLine
from console.panels.table import Table
from console.plots.style import Style, fitting_zoom, next_zoom
from console.state import footer as footer_text
from console.state.dashboard import SPLITS, Board

LEAST_WIDTH, LEAST_HEIGHT = 960, 600
NOTICE_S = 8.0  # how long a notice stays in the footer


class Window(QMainWindow):
    def __init__(
        self, bridge: Bridge, axis: TimeAxis, style: Style, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.bridge, self.axis, self.ui_style = bridge, axis, style
        self._clock = clock
        self.commands = CommandRegistry()
        self.board: Board | None = None
        # What the command line asks for overrides the saved layout.
        self.given: frozenset[str] = frozenset()  # a subset of "size", "page", "theme"
        self._chosen_theme = ""
        self._chosen_zoom = 0.0  # 0: chosen for the window
        self._notice = ("", 0.0)
        self.setWindowTitle("Trefoil console")
        self.setMinimumSize(LEAST_WIDTH, LEAST_HEIGHT)
        self._make_panels()
        self.plan = PanelLayout(self.panels, style, axis)
        self._lay_out()
        self.notices = Notices(self, style)
        self.sheet = KeySheet(self, style, self.commands)
        self.queries = Queries(bridge, self.latency, self.predictions, self.detail, self.name_of)
        self.looks = Looks(bridge, self.changes, self.compare)
        self._connect()
        self._aging = QTimer(self)
        self._aging.setInterval(1000)
        self._aging.timeout.connect(self._refresh_status)
        self._aging.start()

    def _make_panels(self) -> None:
        style, axis = self.ui_style, self.axis
        self.status_bar = StatusBar(style)
        self.fleet = FleetPanel(style)
        self.server = ServerPanel(style)
        self.latency = LatencyPanel(style, axis)
        self.drift = DriftPanel(style, axis)
        self.reference = ReferencePanel(style)
        self.skew = SkewPanel(style, axis)
        self.events = EventsPanel(style, axis)
        self.predictions = PredictionsPanel(style, axis)
        self.detail = DetailPanel(style)
        self.quality = QualityPanel(style)
        self.alerts = AlertsPanel(style, axis)
        self.changes = ChangesPanel(style, axis)
        self.compare = ComparePanel(style, axis)
        every: tuple[Panel, ...] = (
            *(self.fleet, self.server, self.latency, self.drift, self.reference, self.skew),
            *(self.events, self.predictions, self.detail, self.quality, self.alerts),
            *(self.changes, self.compare),
        )
        self.panels: dict[str, Panel] = {panel.name: panel for panel in every}

    def _lay_out(self) -> None:
        self.footer = TextLine(self.ui_style, "dim", 11)
        whole = QWidget()
        column = QVBoxLayout(whole)
        column.setContentsMargins(6, 6, 6, 2)
        column.setSpacing(5)
        column.addWidget(self.status_bar)
        column.addWidget(self.plan.whole, 1)
        column.addWidget(self.footer)
        self.setCentralWidget(whole)
        self.plan.add_tabs(self.status_bar)

    def _connect(self) -> None:
        self.fleet.picked.connect(self.server.select)
        self.status_bar.jump.connect(self.jump)
        for panel in self.panels.values():
            panel.jump.connect(self.jump)
        self.plan.jump.connect(self.jump)
        self.plan.turned.connect(self._refresh)
        self.queries.wanted.connect(lambda: self.plan.bring("predictions"))
        self.axis.viewChanged.connect(self.bridge.show_view)
        self.bridge.boardReady.connect(self.show_board)
        self.bridge.layoutKnown.connect(self._restore)

    def show_board(self, board: Board) -> None:
        """Show the newest board in the status bar and the visible panels."""
        self.board = board
        self.axis.follow(board.ahead_s, board.speed)
        self.axis.shown((board.from_s, board.to_s))
        self.status_bar.show_board(board)
        self.plan.show_board(board)
        self.notices.update(board)
        self._refresh_status()

    def _refresh(self) -> None:
        if self.board is not None:
            self.plan.show_board(self.board)

    def _refresh_status(self) -> None:
        if self.board is not None:
            now_s = self._clock()
            notice = self._notice[0] if now_s < self._notice[1] else ""
            self.footer.show_text(*footer_text.status_text(self.board, now_s, notice))

    def notify(self, text: str) -> None:
        """Show what was just done in the footer for a few seconds."""
        self._notice = (text, self._clock() + NOTICE_S)
        self._refresh_status()

    def jump(self, panel: str, key: str, at_s: float) -> None:
        """Show the target of a link: the panel, the row, the time."""
        if panel not in self.panels:
            return
        self.focus_panel(panel)
        if key:
            self.panels[panel].select(key)
        if at_s == at_s:
            self.axis.around(at_s)

    def name_of(self, address: str) -> str:
        return self.board.name_of(address) if self.board is not None else address

    def focus_panel(self, name: str) -> None:
        panel = self.plan.bring(name)
        panel.focus_target().setFocus(Qt.FocusReason.ShortcutFocusReason)

    def next_panel(self, step: int) -> None:
        """Focus the next panel in reading order; hidden panels are skipped."""
        shown = [panel for panel in self.panels.values() if panel.isVisible()]
        place = shown.index(self.focused_panel()) if self.focused_panel() in shown else -step
        panel = shown[(place + step) % len(shown)]
        panel.focus_target().setFocus(Qt.FocusReason.ShortcutFocusReason)

    def focused_panel(self) -> Panel:
        widget = QApplication.focusWidget()
        while widget is not None:
            if isinstance(widget, Panel):
                return widget
            widget = widget.parentWidget()
        return self.latency

    def maximise(self) -> None:
        """Show the focused panel alone, or all panels again."""
        self.plan.maximise(self.focused_panel())

    def add_commands(self, commands: Iterable[Command]) -> None:
        """Add commands to the palette and the key sheet, with their keys."""
        for command in commands:
            self.commands.add(command)
            for key in command.keys:
                shortcut = QShortcut(QKeySequence(key), self)
                shortcut.activated.connect(functools.partial(self._pressed, key, command.run))

    def _pressed(self, key: str, run: Callable[[], object]) -> None:
        """In a text field a letter is typed, and Space presses the focused button; otherwise run
        the command."""
        focus = QApplication.focusWidget()
        if key == "Space" and isinstance(focus, QAbstractButton):
            focus.click()
            return
        if key == "Space" and isinstance(focus, QComboBox):
            focus.showPopup()
            return
        if isinstance(focus, QAbstractSpinBox) and not key.isalpha():
            focus = focus.findChild(QLineEdit)
        unmodified = len(key) == 1 or key in ("Space", "Esc")
        if unmodified and isinstance(focus, QLineEdit | QPlainTextEdit):
            if key == "Esc":
                self.focused_panel().focus_target().setFocus()
            elif isinstance(focus, QLineEdit):
                focus.insert(" " if key == "Space" else key.lower())
            return
        run()

    def filter_predictions(self) -> None:
        self.focus_panel("predictions")
        self.predictions.focus_filter()

    def around_alert(self) -> None:
        opened = [a for a in (self.board.alerts if self.board else ()) if a.open]
        if opened:
            self.jump("alerts", f"{opened[0].server}\t{opened[0].row.id}", opened[0].opened_s)

    def next_split(self) -> None:
        place = SPLITS.index(self.axis.view.split)
        self.axis.change(split=SPLITS[(place + 1) % len(SPLITS)])

    def show_examples(self) -> None:
        self.latency.show_examples()
        self.focus_panel("predictions")

    def sort_column(self) -> None:
        """Sort the focused table by its current column."""
        focus = QApplication.focusWidget()
        if isinstance(focus, Table):
            focus.sort_current()

    def open_data_table(self) -> None:
        DataTable(self, self.ui_style, self.focused_panel()).open()

    def go_live(self) -> None:
        if self.sheet.isVisible():
            self.sheet.hide()
            return
        if self.plan.alone is not None:
            self.maximise()
        self.axis.live()

    def next_theme(self) -> None:
        names = list(THEMES)
        place = names.index(self.ui_style.theme.name)
        self._chosen_theme = names[(place + 1) % len(names)]
        self.use_theme(self._chosen_theme)

    def use_theme(self, name: str) -> None:
        theme = THEMES[name]
        application = QApplication.instance()
        if isinstance(application, QApplication):
            application.setPalette(palette(theme))
            application.setStyleSheet(sheet(theme, self.ui_style.zoom))
        self.ui_style.use(theme)
        if self.board is not None:
            self.status_bar.show_board(self.board)

    def zoom_text(self, step: int) -> None:
        """Make all text larger or smaller and save the size; step 0 goes back to the size chosen
        for the window."""
        self._chosen_zoom = next_zoom(self.ui_style.zoom, step) if step else 0.0
        self.use_zoom(self._chosen_zoom)
        self.notify(f"text {self.ui_style.zoom:.0%} (Ctrl+0: what suits the window)")

    def use_zoom(self, zoom: float) -> None:
        """Zoom 0 chooses the size for the window."""
        self.ui_style.use_zoom(zoom or fitting_zoom(self.height()))
        self.use_theme(self.ui_style.theme.name)

    def _restore(self, saved: str) -> None:
        theme, self._chosen_zoom = self.plan.restore(saved, self, self.given)
        self.use_zoom(self._chosen_zoom)
        if theme in THEMES and "theme" not in self.given:
            self._chosen_theme = theme
            self.use_theme(theme)

    def layout_text(self) -> str:
        return self.plan.text(self, self._chosen_theme, self._chosen_zoom)

    def closeEvent(self, event: QCloseEvent) -> None:
        self._aging.stop()
        if self.plan.alone is None:
            self.bridge.save("layout", self.layout_text())
        self.bridge.close()
        super().closeEvent(event)
