"""Where the panels are: the splitters, the pages with their tabs, and how all of that is saved. To
this module a panel is a widget with a name; it does not know what a panel shows."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping

from PySide6.QtCore import QByteArray, QObject, Qt, Signal
from PySide6.QtWidgets import (
    QMainWindow,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from console.app.timeaxis import TimeAxis
from console.panels.frame import Panel
from console.panels.status_bar import StatusBar
from console.plots.event_marks import EventMarks
from console.plots.style import Style
from console.state.dashboard import Board

HORIZONTAL, VERTICAL = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
PAGES = ("Overview", "Predictions", "Quality", "Alerts", "Changes")
BESIDE = ("fleet", "server")  # on the left of every page


class PanelLayout(QObject):
    """`jump` passes on where a click on a mark below a page leads."""

    jump = Signal(str, str, float)
    turned = Signal()  # another page, or a panel alone: the visible panels changed

    def __init__(self, panels: Mapping[str, Panel], style: Style, axis: TimeAxis) -> None:
        super().__init__()
        self._panels = panels
        self._style, self._axis = style, axis
        self._feet: list[EventMarks] = []
        self._tabs: list[QPushButton] = []
        self.page_of = {name: 0 for name in panels}
        self.alone: Panel | None = None
        self.pages = QStackedWidget()
        self._splitters = self._overview()
        self._beside()
        self.whole = _split(HORIZONTAL, (self._splitters["left"], 17), (self.pages, 83))
        self._splitters["main"] = self.whole
        self._standard = {name: part.saveState() for name, part in self._splitters.items()}

    def _overview(self) -> dict[str, QSplitter]:
        p = self._panels
        right = _split(VERTICAL, (p["drift"], 11), (p["reference"], 7))
        top = _split(HORIZONTAL, (p["latency"], 51), (right, 49))
        bottom = _split(HORIZONTAL, (p["skew"], 56), (p["events"], 44))
        overview = _split(VERTICAL, (top, 70), (bottom, 30))
        left = _split(VERTICAL, (p["fleet"], 66), (p["server"], 34))
        self.pages.addWidget(overview)
        return {"left": left, "overview": overview, "top": top, "right": right, "bottom": bottom}

    def _beside(self) -> None:
        """Build the pages beside the overview. Each has the time axis at its foot, so that it can
        be brushed there."""
        p = self._panels
        asking = _split(HORIZONTAL, (p["predictions"], 60), (p["detail"], 40))
        looking = _split(HORIZONTAL, (p["changes"], 53), (p["compare"], 47))
        self._splitters |= {"asking": asking, "looking": looking}
        for number, (page, names) in enumerate(
            (
                (asking, ("predictions", "detail")),
                (p["quality"], ("quality",)),
                (p["alerts"], ("alerts",)),
                (looking, ("changes", "compare")),
            ),
            start=1,
        ):
            foot = EventMarks(self._style, self._axis)
            foot.chosen.connect(lambda h: self.jump.emit(h.panel, "", h.at_s))
            self._feet.append(foot)
            whole = QWidget()
            column = QVBoxLayout(whole)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(4)
            column.addWidget(page, 1)
            column.addWidget(foot)
            self.pages.addWidget(whole)
            for name in names:
                self.page_of[name] = number

    def add_tabs(self, status_bar: StatusBar) -> None:
        for number, text in enumerate(PAGES):
            tab = QPushButton(text)
            tab.setObjectName("tab")
            tab.setCheckable(True)
            tab.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            tab.setAutoDefault(True)  # Enter presses it
            tab.clicked.connect(lambda _=False, n=number: self.show_page(n))
            self._tabs.append(tab)
            status_bar.tabs.addWidget(tab)
        self.show_page(0)

    def show_board(self, board: Board) -> None:
        """Give the board to the visible panels; the hidden ones keep it until they are shown."""
        for panel in self._panels.values():
            if panel.isVisible():
                panel.show_board(board)
            else:
                panel.board = board
        for foot in self._feet:
            if foot.isVisible():
                foot.show_board(board)

    def show_page(self, number: int) -> None:
        self.pages.setCurrentIndex(number)
        for index, tab in enumerate(self._tabs):
            tab.setChecked(index == number)
        self.turned.emit()

    def bring(self, name: str) -> Panel:
        """Show the panel, whatever page it is on, and return it."""
        panel = self._panels[name]
        if self.alone is not None and self.alone is not panel:
            self.maximise(self.alone)
        if name not in BESIDE:
            self.show_page(self.page_of[name])
        return panel

    def maximise(self, panel: Panel) -> None:
        """Show this panel alone, or all panels again."""
        again = self.alone is not None
        self.alone = None if again else panel
        for other in self._panels.values():
            other.setVisible(again or other is panel)
        for part in self._splitters.values():
            # A splitter whose panels are all hidden would keep its space and leave it empty.
            part.setVisible(again or part.isAncestorOf(panel))
        self.pages.setVisible(again or self.pages.isAncestorOf(panel))
        self.turned.emit()

    def reset(self) -> None:
        if self.alone is not None:
            self.maximise(self.alone)
        for name, sizes in self._standard.items():
            self._splitters[name].restoreState(sizes)

    def text(self, window: QMainWindow, theme: str, zoom: float) -> str:
        """The layout to save: sizes, the window's geometry, the page, the theme and the text size
        (0: chosen for the window)."""
        sizes = {name: _text(part.saveState()) for name, part in self._splitters.items()}
        page = self.pages.currentIndex()
        found = {"sizes": sizes, "window": _text(window.saveGeometry()), "page": page}
        return json.dumps({**found, "theme": theme, "zoom": zoom})

    def restore(self, saved: str, window: QMainWindow, given: Container[str]) -> tuple[str, float]:
        """Restore the saved layout except for what is `given` ("size", "page"). Unreadable values
        are replaced by the defaults. Returns the chosen theme and text size, "" and 0 where none
        was chosen."""
        try:
            found = json.loads(saved) if saved else {}
        except ValueError:
            return "", 0.0
        if not isinstance(found, dict):
            return "", 0.0
        sizes = found.get("sizes")
        for name, part in self._splitters.items():
            state = sizes.get(name) if isinstance(sizes, dict) else None
            if isinstance(state, str):
                part.restoreState(_bytes(state))
        place, page, theme = found.get("window"), found.get("page"), found.get("theme")
        if "size" not in given and isinstance(place, str):
            window.restoreGeometry(_bytes(place))
        if "page" not in given and isinstance(page, int) and 0 <= page < len(PAGES):
            self.show_page(page)
        zoom = found.get("zoom")
        known = float(zoom) if isinstance(zoom, int | float) else 0.0
        return theme if isinstance(theme, str) else "", known


def _text(state: QByteArray) -> str:
    return bytes(state.toBase64().data()).decode()


def _bytes(text: str) -> QByteArray:
    return QByteArray.fromBase64(text.encode())


def _split(direction: Qt.Orientation, *parts: tuple[QWidget, int]) -> QSplitter:
    """A splitter whose parts divide the space by the given shares."""
    found = QSplitter(direction)
    found.setHandleWidth(5)
    found.setChildrenCollapsible(False)
    for number, (widget, share) in enumerate(parts):
        found.addWidget(widget)
        found.setStretchFactor(number, share)
    found.setSizes([share * 100 for _, share in parts])
    return found
