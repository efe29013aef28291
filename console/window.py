"""The window: panels, pages, commands, and nothing they are made of."""

from __future__ import annotations

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

from console.board import Board
from console.bridge import Bridge
from console.commands import Command, Registry
from console.panels.drift import DriftPanel
from console.panels.events import EventsPanel
from console.panels.fleet import FleetPanel
from console.panels.frame import Panel
from console.panels.latency import LatencyPanel
from console.panels.look import Look
from console.panels.reference import ReferencePanel
from console.panels.skew import SkewPanel
from console.panels.strip import Line, Strip
from console.plain import size
from console.theme import THEMES, palette, sheet
from console.timeaxis import TimeAxis, clock_text

HORIZONTAL, VERTICAL = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
LEAST_WIDTH, LEAST_HEIGHT = 960, 600
STUCK_S = 10.0


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
        self.setWindowTitle("Trefoil console")
        self.setMinimumSize(LEAST_WIDTH, LEAST_HEIGHT)
        self._make_panels()
        self._lay_out()
        self._make_commands()
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
        self.latency = LatencyPanel(look, axis)
        self.drift = DriftPanel(look, axis)
        self.reference = ReferencePanel(look)
        self.skew = SkewPanel(look, axis)
        self.events = EventsPanel(look, axis)
        self.panels: dict[str, Panel] = {
            panel.name: panel
            for panel in (
                self.fleet,
                self.latency,
                self.drift,
                self.reference,
                self.skew,
                self.events,
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
        self._split = _split(HORIZONTAL, (self.fleet, 17), (self.pages, 83))
        self._splitters = {
            "main": self._split,
            "overview": overview,
            "top": top,
            "right": right,
            "bottom": bottom,
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
        """Pages beside the overview."""

    def _add_tabs(self) -> None:
        self._tabs: list[QPushButton] = []
        for number, words in enumerate(("Overview",)):
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
        self._tell_status()

    def _tell_status(self) -> None:
        board = self.board
        if board is None:
            return
        usage = board.usage
        view = board.view
        live = "live" if view.live else f"paused at {clock_text(board.to_s)}"
        words = [
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

    def focus_panel(self, name: str) -> None:
        panel = self.panels[name]
        if self._maximised is not None and self._maximised is not panel:
            self.maximise()
        if name != "fleet":
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

    def _make_commands(self) -> None:
        add = self._add
        for number, (name, words) in enumerate(
            (("fleet", "Servers"), ("latency", "Latency"), ("drift", "Drift"),
             ("skew", "Version skew"), ("events", "Events")), start=1,
        ):  # fmt: skip
            add(f"go.{name}", f"Go to {words}", (str(number),), "Go",
                lambda name=name: self.focus_panel(name))  # fmt: skip
        axis = self.axis
        add("time.longer", "Longer window", ("S",), "Time", lambda: axis.zoom(1.5))
        add("time.shorter", "Shorter window", ("W",), "Time", lambda: axis.zoom(1 / 1.5))
        add("time.back", "Back in time", ("A",), "Time", lambda: axis.pan(-0.25))
        add("time.on", "On in time", ("D",), "Time", lambda: axis.pan(0.25))
        add("time.zoom", "Zoom to the brush", ("Z",), "Time", axis.zoom_to_brush)
        add("time.live", "Live: back to now, no brush", ("0", "Esc"), "Time", self._live)
        add("time.pause", "Pause or go on", ("Space",), "Time", axis.pause)
        add("time.lock", "Lock the cross-hair", ("L",), "Time", axis.toggle_lock)
        add("time.mark", "Set or remove a marker", ("M",), "Time", axis.mark)
        add("panel.maximise", "Maximise this panel", ("F",), "Panel", self.maximise)
        add("panel.measure", "Next drift measure: PSI, KS, KL, JS", ("T",), "Panel",
            self.drift.cycle)  # fmt: skip
        add("panel.throughput", "Percentiles or throughput", ("Y",), "Panel", self.latency.cycle)
        add("feed.retry", "Retry lost servers now", ("R",), "Servers", self.bridge.retry_now)
        add("look.theme", "Next theme: dark, light, high contrast", ("F8",), "Window",
            self.next_theme)  # fmt: skip
        add("window.quit", "Quit", ("Ctrl+Q",), "Window", self.close)

    def _add(
        self,
        name: str,
        title: str,
        keys: tuple[str, ...],
        group: str,
        run: Callable[[], object],
    ) -> None:
        command = Command(name, title, keys, run, group)
        self.commands.add(command)
        for key in keys:
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.activated.connect(lambda run=run, key=key: self._pressed(key, run))

    def _pressed(self, key: str, run: Callable[[], object]) -> None:
        """A letter typed into a field is a letter."""
        focus = QApplication.focusWidget()
        plain = len(key) == 1 or key in ("Space", "Esc")
        if plain and isinstance(focus, QLineEdit | QPlainTextEdit):
            if key == "Esc":
                focus.clearFocus()
            elif isinstance(focus, QLineEdit):
                focus.insert(" " if key == "Space" else key.lower())
            return
        run()

    def _live(self) -> None:
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
