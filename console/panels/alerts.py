"""Alerts: the list with its history, who acknowledged each, silences with their end, and which rows
would fire at another threshold."""

from __future__ import annotations

from operator import attrgetter

from PySide6.QtCore import QEvent, QRectF, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QLabel, QSplitter, QVBoxLayout, QWidget

from console.app.theme import SIGNS
from console.app.timeaxis import TimeAxis
from console.models.cells import Cell, TableColumn, mono, number_column
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.panels.status_bar import TextLine
from console.plots import paint
from console.plots.alert_timeline import AlertTimeline
from console.plots.style import Style
from console.state import command_lines
from console.state.access import ConnectionAccess
from console.state.dashboard import AlertLine, Board
from console.state.status_messages import quiet
from console.state.timetext import clock_text
from console.state.units import duration
from server.telemetry.drift.scores import CRITICAL_EXCESS_KL
from server.telemetry.rows import SilenceRow

NO_SILENCE = "no active silence: S silences the selected alert, always with an end"


def state_text(line: AlertLine) -> str:
    if line.pending:
        return f"{line.pending} sent, not confirmed"
    if not line.open:
        return line.row.state or "closed"
    if line.row.acknowledged_by:
        return f"acknowledged by {line.row.acknowledged_by}"
    if line.silenced_until_s:
        return f"silenced until {clock_text(line.silenced_until_s, '%H:%M')}"
    return "silenced" if line.row.silenced else line.row.state


def _tone(line: AlertLine) -> str:
    if not line.firing or quiet(line):
        return "dim"
    return line.row.severity if line.row.severity in SIGNS else "warning"


def _columns() -> tuple[TableColumn, ...]:
    def sign(line: AlertLine) -> Cell:
        severity = line.row.severity if line.row.severity in SIGNS else "warning"
        shown = severity if line.firing else "info"
        return Cell(line.row.severity, _tone(line), "sign", value=shown, tip=line.row.summary[:600])

    def lasted(line: AlertLine) -> Cell:
        end = line.closed_s or line.row.last_unix_ms / 1000 - line.offset_ms / 1000
        return mono(duration(max(0.0, end - line.opened_s)))

    def opened(line: AlertLine) -> Cell:
        return mono(clock_text(line.opened_s, "%d %b %H:%M:%S"))

    def summary(line: AlertLine) -> Cell:
        return Cell(line.row.summary, _tone(line), tip=line.row.summary[:600])

    def state(line: AlertLine) -> Cell:
        return Cell(state_text(line), "dim" if quiet(line) else "text")

    return (
        TableColumn("severity", sign, 92),
        TableColumn("opened", opened, 136, order=attrgetter("opened_s")),
        number_column("duration", lasted, 62, spare=2),
        TableColumn("server", lambda a: mono(a.name, _tone(a)), 104, order=attrgetter("name")),
        TableColumn(
            "kind", lambda a: Cell(a.row.kind, "dim"), 76, spare=3, order=attrgetter("row.kind")
        ),
        TableColumn("summary", summary, 0, least=260),
        TableColumn("state", state, 170, spare=1),
    )


def _silence_columns() -> tuple[TableColumn, ...]:
    def until(pair: tuple[str, SilenceRow]) -> Cell:
        return Cell(clock_text(pair[1].until_unix_ms / 1000, "%d %b %H:%M"), mono=True)

    return (
        TableColumn("matcher", lambda p: Cell(p[1].matcher, mono=True), 0),
        TableColumn("until UTC", until, 96),
        TableColumn("created by", lambda p: Cell(p[1].actor, "dim"), 90, spare=1),
        TableColumn("reason", lambda p: Cell(p[1].reason, "dim"), 160, spare=2),
    )


class AlertHistory(QWidget):
    """One alert: its history, its features and slices."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self._lines: list[tuple[str, str]] = []

    def show_alert(self, line: AlertLine | None) -> None:
        self._lines = _history_lines(line)
        self.setAccessibleName("; ".join(text for text, _ in self._lines)[:800])
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        y = 4.0
        for text, tone in self._lines:
            style, px = self._style, self._style.px
            if y > self.height() - px(10):
                break
            place = QRectF(px(10), y, self.width() - px(20), px(300))
            font = style.small_number_font
            y += paint.wrapped(painter, place, text, style.theme.color(tone), font, px(64)) + 1


def _history_lines(line: AlertLine | None) -> list[tuple[str, str]]:
    if line is None:
        return [("the history of an alert appears here", "dim")]
    row = line.row
    found = [(row.summary, _tone(line)), (f"{line.name} · {row.key} · {row.id}", "dim")]
    if row.acknowledged_by:
        found.append((f"acknowledged by {row.acknowledged_by}: {row.acknowledged_note}", "text"))
    if row.features:
        found.append(("features, worst first: " + ", ".join(row.features[:12]), "text"))
    if row.slices:
        found.append(("slices: " + ", ".join(row.slices[:12]), "text"))
    for step in row.history[-20:]:
        at = clock_text(step.at_unix_ms / 1000 - line.offset_ms / 1000)
        text = f"{at}  {step.from_state or '·'} → {step.to_state}"
        text += f"  {step.actor}" if step.actor else ""
        text += f": {step.detail}" if step.detail else ""
        found.append((text, "dim"))
    found.append((f"stamp {row.stamp[:12]}", "dim"))
    return found


class NumberField(QDoubleSpinBox):
    """Accepts only characters of numbers; a letter is a command here as in every panel."""

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            if event.text().isalpha():
                event.ignore()
                return False
        return super().event(event)


class AlertsPanel(Panel):
    name = "alerts"
    heading = "ALERTS"
    unsilence = Signal(str, str)  # server, silence id

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style)
        self.axis = axis
        self.model = RowsModel(_columns(), lambda line: (line.server, line.row.id))
        self.table = self.make_table(
            self.model,
            "Alerts",
            "no server has reported an alert",
            self._choose,
            lambda line: axis.around(line.opened_s),
        )
        self.silences_model = RowsModel(_silence_columns(), lambda pair: (pair[0], pair[1].id))
        self.silences = self.make_table(
            self.silences_model,
            "Silences in force; Enter ends one",
            NO_SILENCE,
            opened=lambda pair: self.unsilence.emit(pair[0], pair[1].id),
        )
        self.history = AlertHistory(style)
        lower = QSplitter(Qt.Orientation.Horizontal)
        lower.addWidget(self.history)
        lower.addWidget(self._aside(style))
        lower.setSizes([600, 480])
        self.timeline = AlertTimeline(style, axis)
        self.timeline.opened.connect(lambda line: self.select(f"{line.server}\t{line.row.id}"))
        whole = QSplitter(Qt.Orientation.Vertical)
        for part in (self.table, self.timeline, lower):
            whole.addWidget(part)
        whole.setSizes([300, 200, 220])
        self.body.addWidget(whole, 1)

    def _aside(self, style: Style) -> QWidget:
        aside = QWidget()
        column = QVBoxLayout(aside)
        column.setContentsMargins(0, 0, 6, 4)
        column.addWidget(self.silences, 1)
        row = QHBoxLayout()
        label = QLabel("would fire now with excess KL above")
        self.threshold = NumberField()
        self.threshold.setRange(0.0, 2.0)
        self.threshold.setSingleStep(0.01)
        self.threshold.setValue(CRITICAL_EXCESS_KL)
        self.threshold.setAccessibleName("Threshold to try")
        self.threshold.valueChanged.connect(lambda _: self._show_inverse())
        row.addWidget(label)
        row.addWidget(self.threshold)
        row.addStretch(1)
        column.addLayout(row)
        self.inverse = TextLine(style, "text", 11)
        column.addWidget(self.inverse)
        return aside

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self.model.show(board.alerts)
        self.silences_model.show(board.silences)
        self.timeline.show_board(board)
        self.history.show_alert(self._shown_alert())
        self._show_inverse()
        loud = sum(line.firing and not quiet(line) for line in board.alerts)
        held = sum(line.open and quiet(line) for line in board.alerts)
        waiting = sum(action.state == "waiting" for action in board.actions)
        refused = next((a for a in board.actions if a.state == "refused"), None)
        legend = [
            (f"{loud} open", "critical" if loud else "dim"),
            (f"{held} acknowledged or silenced", "dim"),
            ("A: acknowledge · S: silence · Enter: show its time", "dim"),
        ]
        if waiting:
            legend.insert(0, (f"{waiting} not sent yet", "warning"))
        if refused is not None and board.made_s - refused.at_s < 120:
            legend.insert(0, (f"refused: {refused.detail[:60]}", "warning"))
        self.title.show_legend(legend)

    def _show_inverse(self) -> None:
        """Show the rows of the last tick that would fire at this threshold; only rows with enough
        data."""
        if self.board is None:
            return
        limit = self.threshold.value()
        firing = [
            f"{line.row.feature} [{line.row.slice or 'all'}] {line.row.excess_kl:.2f}"
            for line in self.board.drift
            if line.row.level not in ("insufficient", "learning") and line.row.excess_kl > limit
        ]
        text = f"{len(firing)}: " + ", ".join(firing[:12]) if firing else "nothing"
        self.inverse.show_text(text, "text")

    def _shown_alert(self) -> AlertLine | None:
        """The selected alert; without a selection the first, which is the newest open one."""
        found = self.table.row()
        if isinstance(found, AlertLine):
            return found
        return self.model.rows[0] if self.model.rows else None

    def _choose(self, line: AlertLine) -> None:
        self.history.show_alert(line)
        self.axis.set_cursor(line.opened_s, lock=True)

    def current(self) -> AlertLine | None:
        """The selected alert; without a selection, the only loud one."""
        found = self.table.row()
        if isinstance(found, AlertLine):
            return found
        loud = [line for line in self.model.rows if line.firing and not quiet(line)]
        return loud[0] if len(loud) == 1 else None

    def select(self, key: str) -> None:
        server, _, identity = key.partition("\t")
        self.table.select_row(self.model.place_of((server, identity)))
        self.history.show_alert(self.table.row())

    def copy_command(self, access: ConnectionAccess) -> str:
        line = self.current()
        return command_lines.around_alert(line.server, line.opened_s, access) if line else ""

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["server", "id", "kind", "severity", "state", "opened_unix_s", "closed_unix_s",
                "summary", "acknowledged_by", "note"]  # fmt: skip
        return head, [
            [line.name, line.row.id, line.row.kind, line.row.severity, line.row.state]
            + [f"{line.opened_s:.3f}", f"{line.closed_s:.3f}" if line.closed_s else ""]
            + [line.row.summary, line.row.acknowledged_by, line.row.acknowledged_note]
            for line in self.model.rows
        ]
