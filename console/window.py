"""The window: panels, pages, commands, and nothing they are made of."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable

from PySide6.QtCore import QByteArray, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QApplication,
    QLineEdit,
    QMainWindow,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from console.board import SPLITS, Board
from console.bridge import Bridge
from console.commands import Command, Registry
from console.deeds import Deeds
from console.inquiry import Inquiry
from console.keys import commands_of
from console.notices import Notices
from console.panels.alerts import AlertsPanel
from console.panels.charts import Marks
from console.panels.detail import DetailPanel
from console.panels.drift import DriftPanel
from console.panels.events import EventsPanel
from console.panels.fleet import FleetPanel
from console.panels.frame import Panel
from console.panels.latency import LatencyPanel
from console.panels.look import Look
from console.panels.palette import KeySheet, Palette
from console.panels.predictions import PredictionsPanel
from console.panels.quality import QualityPanel
from console.panels.reference import ReferencePanel
from console.panels.server import ServerPanel
from console.panels.skew import SkewPanel
from console.panels.strip import Line, Strip
from console.plain import size
from console.theme import THEMES, palette, sheet
from console.timeaxis import TimeAxis, clock_text

HORIZONTAL, VERTICAL = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
LEAST_WIDTH, LEAST_HEIGHT = 960, 600
STUCK_S = 10.0
PAGES = ("Overview", "Predictions", "Quality", "Alerts")


class Window(QMainWindow):
    def __init__(
        self, bridge: Bridge, axis: TimeAxis, look: Look, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.bridge, self.axis, self.look = bridge, axis, look
        self._clock = clock
        self.commands = Registry()
        self.board: Board | None = None
        self._maximised: Panel | None = None
        self._said = ("", 0.0)
        self.setWindowTitle("Trefoil console")
        self.setMinimumSize(LEAST_WIDTH, LEAST_HEIGHT)
        self._make_panels()
        self._lay_out()
        self._standard = {name: part.saveState() for name, part in self._splitters.items()}
        self.notices = Notices(self, look)
        self.deeds = Deeds(self, bridge, axis)
        self.sheet = KeySheet(self, look, self.commands)
        for command in commands_of(self):
            self._add(command)
        self.inquiry = Inquiry(bridge, self.latency, self.predictions, self.detail, self.name_of)
        self.inquiry.wanted.connect(lambda: self.show_page(self._page_of["predictions"]))
        self.detail.replayWanted.connect(self.deeds.copy)
        axis.viewChanged.connect(bridge.look)
        bridge.boardReady.connect(self.show_board)
        bridge.layoutKnown.connect(self._restore)
        self._aging = QTimer(self)
        self._aging.setInterval(1000)
        self._aging.timeout.connect(self._tell_status)
        self._aging.start()

    def _make_panels(self) -> None:
        look, axis = self.look, self.axis
        self.strip = Strip(look)
        self.fleet = FleetPanel(look)
        self.server = ServerPanel(look)
        self.fleet.picked.connect(self.server.select)
        self.latency = LatencyPanel(look, axis)
        self.drift = DriftPanel(look, axis)
        self.reference = ReferencePanel(look)
        self.skew = SkewPanel(look, axis)
        self.events = EventsPanel(look, axis)
        self.predictions = PredictionsPanel(look, axis)
        self.detail = DetailPanel(look)
        self.quality = QualityPanel(look)
        self.alerts = AlertsPanel(look, axis)
        self.panels: dict[str, Panel] = {
            panel.name: panel
            for panel in (
                self.fleet,
                self.server,
                self.latency,
                self.drift,
                self.reference,
                self.skew,
                self.events,
                self.predictions,
                self.detail,
                self.quality,
                self.alerts,
            )
        }
        self.strip.jump.connect(self.jump)
        for panel in self.panels.values():
            panel.jump.connect(self.jump)

    def _lay_out(self) -> None:
        right = _split(VERTICAL, (self.drift, 11), (self.reference, 7))
        top = _split(HORIZONTAL, (self.latency, 51), (right, 49))
        bottom = _split(HORIZONTAL, (self.skew, 62), (self.events, 38))
        overview = _split(VERTICAL, (top, 70), (bottom, 30))
        self.pages = QStackedWidget()
        self.pages.addWidget(overview)
        self._page_of: dict[str, int] = {name: 0 for name in self.panels}
        self._add_pages()
        left = _split(VERTICAL, (self.fleet, 66), (self.server, 34))
        self._split = _split(HORIZONTAL, (left, 17), (self.pages, 83))
        self._splitters = {
            "main": self._split,
            "left": left,
            "overview": overview,
            "top": top,
            "right": right,
            "bottom": bottom,
            "asking": self._asking,
        }
        self.status = Line(self.look, "dim", 11)
        whole = QWidget()
        column = QVBoxLayout(whole)
        column.setContentsMargins(6, 6, 6, 2)
        column.setSpacing(5)
        column.addWidget(self.strip)
        column.addWidget(self._split, 1)
        column.addWidget(self.status)
        self.setCentralWidget(whole)
        self._add_tabs()

    def _add_pages(self) -> None:
        """Pages beside the overview. Each carries the time axis at its foot, to brush it there."""
        self._feet: list[Marks] = []
        asking = _split(HORIZONTAL, (self.predictions, 60), (self.detail, 40))
        for number, (page, names) in enumerate(
            (
                (asking, ("predictions", "detail")),
                (self.quality, ("quality",)),
                (self.alerts, ("alerts",)),
            ),
            start=1,
        ):
            foot = Marks(self.look, self.axis)
            foot.chosen.connect(lambda h: self.jump(h.panel, "", h.at_s))
            self._feet.append(foot)
            whole = QWidget()
            column = QVBoxLayout(whole)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(4)
            column.addWidget(page, 1)
            column.addWidget(foot)
            self.pages.addWidget(whole)
            for name in names:
                self._page_of[name] = number
        self._asking = asking

    def _add_tabs(self) -> None:
        self._tabs: list[QPushButton] = []
        for number, words in enumerate(PAGES):
            tab = QPushButton(words)
            tab.setObjectName("tab")
            tab.setCheckable(True)
            tab.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            tab.clicked.connect(lambda _=False, n=number: self.show_page(n))
            self._tabs.append(tab)
            self.strip.tabs.addWidget(tab)
        self.show_page(0)

    # ---- boards --------------------------------------------------------------------------------

    def show_board(self, board: Board) -> None:
        """The newest board into the strip and the panels that can be seen."""
        self.board = board
        self.axis.shown((board.from_s, board.to_s))
        self.strip.show_board(board)
        for panel in self.panels.values():
            if panel.isVisible():
                panel.show_board(board)
            else:
                panel.board = board
        for foot in self._feet:
            if foot.isVisible():
                foot.show_board(board)
        self.notices.look(board)
        self._tell_status()

    def _tell_status(self) -> None:
        board = self.board
        if board is None:
            return
        usage = board.usage
        view = board.view
        live = "live" if view.live else f"paused at {clock_text(board.to_s)}"
        words = [
            self._said[0] if self._clock() < self._said[1] else "",
            usage.trouble,
            "offline: nothing is asked of any server" if board.offline else "",
            f"cache {size(usage.cache_bytes)}",
            f"read {usage.read_ms:.0f} ms",
            f"{usage.rows_waiting:,} rows waiting" if usage.rows_waiting > 1000 else "",
            live,
            f"shown {max(0.0, self._clock() - board.made_s):.1f} s old",
            "Ctrl+K commands · ? keys",
            f"{clock_text(self._clock(), '%Y-%m-%d %H:%M:%S')} UTC",
        ]
        tone = "warning" if usage.trouble else "dim"
        if self._clock() - board.made_s > STUCK_S:
            # The reader refreshes every second even without news: this is a fault of the console.
            words.insert(0, "THIS DISPLAY IS NOT UPDATED ANY MORE: restart the console")
            tone = "critical"
        self.status.say("  ·  ".join(word for word in words if word), tone)

    def tell(self, words: str) -> None:
        """A word on what was just done, in the status bar for a few seconds."""
        self._said = (words, self._clock() + 8)
        self._tell_status()

    # ---- moving about ----------------------------------------------------------------------------

    def show_page(self, number: int) -> None:
        self.pages.setCurrentIndex(number)
        for index, tab in enumerate(self._tabs):
            tab.setChecked(index == number)
        self._refresh_visible()

    def _refresh_visible(self) -> None:
        if self.board is not None:
            for panel in self.panels.values():
                if panel.isVisible():
                    panel.show_board(self.board)
            for foot in self._feet:
                if foot.isVisible():
                    foot.show_board(self.board)

    def jump(self, panel: str, key: str, at_s: float) -> None:
        """Show what a link speaks of: the panel, the row, the time."""
        found = self.panels.get(panel)
        if found is None:
            return
        self.focus_panel(panel)
        if key:
            found.select(key)
        if at_s == at_s:
            self.axis.around(at_s)

    def name_of(self, address: str) -> str:
        return self.board.name_of(address) if self.board is not None else address

    def focus_panel(self, name: str) -> None:
        panel = self.panels[name]
        if self._maximised is not None and self._maximised is not panel:
            self.maximise()
        if name not in ("fleet", "server"):
            self.show_page(self._page_of[name])
        panel.focus_target().setFocus(Qt.FocusReason.ShortcutFocusReason)

    def focused_panel(self) -> Panel:
        widget = QApplication.focusWidget()
        while widget is not None:
            if isinstance(widget, Panel):
                return widget
            widget = widget.parentWidget()
        return self.latency

    def maximise(self) -> None:
        """The focused panel alone, or all again."""
        if self._maximised is not None:
            for panel in self.panels.values():
                panel.setVisible(True)
            self._maximised = None
            self._refresh_visible()
            return
        chosen = self.focused_panel()
        self._maximised = chosen
        for panel in self.panels.values():
            panel.setVisible(panel is chosen)
        self._refresh_visible()

    # ---- commands --------------------------------------------------------------------------------

    def _add(self, command: Command) -> None:
        self.commands.add(command)
        for key in command.keys:
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.activated.connect(functools.partial(self._pressed, key, command.run))

    def _pressed(self, key: str, run: Callable[[], object]) -> None:
        """A letter typed into a field is a letter."""
        focus = QApplication.focusWidget()
        plain = len(key) == 1 or key in ("Space", "Esc")
        if plain and isinstance(focus, QLineEdit | QPlainTextEdit):
            if key == "Esc":
                self.focused_panel().focus_target().setFocus()
            elif isinstance(focus, QLineEdit):
                focus.insert(" " if key == "Space" else key.lower())
            return
        run()

    def filter_predictions(self) -> None:
        self.focus_panel("predictions")
        self.predictions.focus_filter()

    def brush_middle(self) -> None:
        low, high = self.axis.span
        held = self.axis.view.brush
        middle = sum(held) / 2 if held else self.axis.cursor_s
        if middle != middle:
            middle = high - (high - low) * 0.25
        half = (held[1] - held[0]) * 0.75 if held else (high - low) / 12
        self.axis.brush(max(low, middle - half), min(high, middle + half))

    def around_alert(self) -> None:
        opened = [a for a in (self.board.alerts if self.board else ()) if a.open]
        if opened:
            self.jump("alerts", f"{opened[0].server}\t{opened[0].row.id}", opened[0].opened_s)

    def next_split(self) -> None:
        place = SPLITS.index(self.axis.view.split)
        self.axis.change(split=SPLITS[(place + 1) % len(SPLITS)])

    def open_palette(self) -> None:
        Palette(self, self.commands).open()

    def reset_layout(self) -> None:
        for name, sizes in self._standard.items():
            self._splitters[name].restoreState(sizes)

    def go_live(self) -> None:
        if self.sheet.isVisible():
            self.sheet.hide()
            return
        if self._maximised is not None:
            self.maximise()
        self.axis.live()

    def next_theme(self) -> None:
        names = list(THEMES)
        place = names.index(self.look.theme.name)
        self.use_theme(names[(place + 1) % len(names)])

    def use_theme(self, name: str) -> None:
        theme = THEMES[name]
        application = QApplication.instance()
        if isinstance(application, QApplication):
            application.setPalette(palette(theme))
            application.setStyleSheet(sheet(theme))
        self.look.use(theme)
        if self.board is not None:
            self.strip.show_board(self.board)

    # ---- layout ----------------------------------------------------------------------------------

    def _restore(self, saved: str) -> None:
        """Sizes of the last time; anything unreadable is the standard layout."""
        try:
            found = json.loads(saved) if saved else {}
        except ValueError:
            return
        for name, splitter in self._splitters.items():
            state = found.get(name) if isinstance(found, dict) else None
            if isinstance(state, str):
                splitter.restoreState(QByteArray.fromBase64(state.encode()))

    def layout_text(self) -> str:
        return json.dumps(
            {
                name: bytes(splitter.saveState().toBase64().data()).decode()
                for name, splitter in self._splitters.items()
            }
        )

    def closeEvent(self, event: QCloseEvent) -> None:
        self._aging.stop()
        if self._maximised is None:
            self.bridge.save("layout", self.layout_text())
        self.bridge.close()
        super().closeEvent(event)


def _split(direction: Qt.Orientation, *parts: tuple[QWidget, int]) -> QSplitter:
    """A splitter whose parts share the room as given."""
    found = QSplitter(direction)
    found.setHandleWidth(5)
    found.setChildrenCollapsible(False)
    for number, (widget, share) in enumerate(parts):
        found.addWidget(widget)
        found.setStretchFactor(number, share)
    found.setSizes([share * 100 for _, share in parts])
    return found
