"""The operator's actions: acknowledge, silence, export, copy. The bridge writes the files. Actions
reach servers through the cache, so that none is lost when the console ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from PySide6.QtCore import QBuffer, QIODevice, QObject, QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QWidget

from console.app import sheet
from console.app.bridge import Bridge
from console.app.timeaxis import TimeAxis
from console.app.window import Window
from console.finding import links
from console.looks.changes import WhatChanged
from console.panels.action_dialog import ActionDialog
from console.panels.dialogs import AlertDialog, PageDialog
from console.panels.frame import Panel
from console.state import action_kinds, command_lines, next_steps
from console.state.dashboard import AlertLine, Board, ServerLine
from console.state.domain import Action
from console.state.timetext import clock_text, iso

SHEET_WAITS_MS = 5000  # how long the incident sheet waits for the answer to *what changed*


class Actions(QObject):
    def __init__(
        self,
        window: Window,
        bridge: Bridge,
        axis: TimeAxis,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(window)
        self._window = window
        self._bridge = bridge
        self._axis = axis
        self._clock = clock
        self.folder = Path.home() / "trefoil-console"
        window.alerts.unsilence.connect(self._unsilence)
        window.detail.replayWanted.connect(self.copy_replay)
        window.detail.feedbackWanted.connect(partial(self.ask, "feedback"))
        window.detail.againWanted.connect(partial(self.ask, "replay"))
        bridge.written.connect(self._written)
        bridge.acted.connect(self._acted)
        bridge.runbookRead.connect(self._show_runbook)
        bridge.answered.connect(self._answered)
        self._sheet = -1  # number of the question that the incident sheet waits for
        self._partial = ("", "")  # the last CSV: its path, and a note of what it leaves out

    def _alert(self) -> AlertLine | None:
        found = self._window.alerts.current()
        if found is None:
            self._window.focus_panel("alerts")
            self._window.notify("select an alert first")
        return found

    def acknowledge(self) -> None:
        line = self._alert()
        if line is None:
            return
        undo = bool(line.row.acknowledged_by)
        if undo:
            self._bridge.act(line.server, "acknowledge", line.row.id, "", undo=True)
            self._window.notify("acknowledgement withdrawn; sending it to the server")
            return
        dialog = AlertDialog(self._window, line, asks_span=False)
        dialog.accepted.connect(lambda: self._acknowledged(line, dialog.note.text()))
        dialog.open()

    def _acknowledged(self, line: AlertLine, note: str) -> None:
        self._bridge.act(line.server, "acknowledge", line.row.id, note)
        self._window.notify("acknowledged; sending it to the server")

    def silence(self) -> None:
        line = self._alert()
        if line is None:
            return
        dialog = AlertDialog(self._window, line, asks_span=True)
        dialog.accepted.connect(lambda: self._silenced(line, dialog))
        dialog.open()

    def _silenced(self, line: AlertLine, dialog: AlertDialog) -> None:
        """The silence ends by the server's clock, not by this machine's."""
        board = self._window.board
        now_s = self._clock() + (board.ahead_s if board is not None else 0.0)
        until = now_s + float(dialog.span.currentData()) + line.offset_ms / 1000
        matcher = str(dialog.matcher.currentData())
        self._bridge.act(line.server, "silence", matcher, dialog.note.text(), until)
        self._window.notify(f"silenced until {clock_text(until)} UTC; sending it to the server")

    def _unsilence(self, server: str, silence_id: str) -> None:
        self._bridge.act(server, "silence", silence_id, "", undo=True)
        self._window.notify("silence ended; sending it to the server")

    def ask(self, kind: str) -> None:
        """Open the dialog for this kind of action, about the selected server or prediction."""
        if action_kinds.KINDS[kind].prediction:
            self._about_prediction(kind)
            return
        line = self._server()
        if kind == "restart" and line and not (line.snapshot and line.snapshot.replicas):
            self._window.notify(f"{line.name} reports no replica")
            return
        self._ask(kind, line)

    def _server(self) -> ServerLine | None:
        """The selected server; without a selection, the server that needs attention most."""
        found = self._window.server.chosen
        if found is None:
            self._window.notify("no server is shown")
        return found

    def _about_prediction(self, kind: str) -> None:
        single = self._window.detail.single
        board = self._window.board
        if single is None or single.row is None or board is None:
            self._window.focus_panel("predictions")
            self._window.notify("select a prediction first")
            return
        if kind != "feedback" and not single.row.payload_kept:
            self._window.notify("the server did not keep the payload of this prediction")
            return
        at = next((line for line in board.servers if line.address == single.server), None)
        self._ask(kind, at, single.prediction_id)

    def _ask(self, kind: str, line: ServerLine | None, prediction: str = "") -> None:
        board = self._window.board
        if line is None or board is None:
            return
        if line.link.state != "live":
            self._window.notify(f"{line.name} does not answer: nothing can be asked of it now")
            return
        others = [s for s in board.servers if s.address != line.address]
        dialog = ActionDialog(
            self._window,
            action_kinds.KINDS[kind],
            [(s.address, s.name) for s in (line, *others)],
            self._bridge.user(),
            self._bridge.access,
            self._clock,
            prediction,
            _choices(kind, line),
        )
        dialog.wanted.connect(self._confirmed)
        if wanted := action_kinds.KINDS[kind].bundles:
            self._bridge.bundlesKnown.connect(dialog.show_bundles)
            self._bridge.ask_bundles(line.address, wanted)
        dialog.open()

    def _confirmed(self, action: Action) -> None:
        self._bridge.add(action)
        self._window.notify(f"{action_kinds.KINDS[action.kind].title.lower()}: sending it")

    def _acted(self, action: Action, state: str, detail: str) -> None:
        if action.kind not in action_kinds.KINDS:
            return
        done = replace(action, state=state, detail=detail)
        names = [self._window.name_of(address) for address in action.server.split()]
        self._window.notify(action_kinds.outcome(done, names))

    def runbook(self) -> None:
        """Show the runbook of the selected alert if the alerts panel has the keyboard focus,
        otherwise the runbook of the worst problem."""
        board, kind = self._window.board, ""
        if self._window.focused_panel() is self._window.alerts:
            line = self._window.alerts.current()
            kind = line.row.kind if line is not None else ""
        if not kind and board is not None and board.fleet_state.worst is not None:
            kind = board.fleet_state.worst.kind
        if kind not in next_steps.NEXT:
            self._window.notify("nothing is wrong that a runbook is about")
        elif base := self._window.status_bar.runbooks:
            QDesktopServices.openUrl(QUrl(next_steps.address(base, kind)))
        else:
            self._bridge.read_runbook(kind)

    def _show_runbook(self, kind: str, text: str) -> None:
        PageDialog(self._window, f"Runbook: {kind}", text).open()

    def _path(self, panel: Panel, ending: str) -> Path:
        at = clock_text(self._clock(), "%Y-%m-%dT%H%M%SZ")
        return self.folder / f"{panel.name}-{at}.{ending}"

    def export_csv(self) -> None:
        panel = self._window.focused_panel()
        path = self._path(panel, "csv")
        self._partial = (str(path), panel.left_out())
        self._bridge.write_file(path, csv_of(panel).encode())

    def export_png(self) -> None:
        panel = self._window.focused_panel()
        self._bridge.write_file(self._path(panel, "png"), panel.grab().toImage())

    def _written(self, path: str, trouble: str) -> None:
        of, left_out = self._partial
        more = f" ({left_out})" if left_out and of == path else ""
        self._window.notify(f"{path}: {trouble}" if trouble else f"written: {path}{more}")

    def copy(self, text: str) -> None:
        if not text:
            self._window.notify("nothing selected to copy")
            return
        QGuiApplication.clipboard().setText(text)
        self._window.notify(f"copied: {text.splitlines()[0][:120]}")

    def copy_command(self) -> None:
        panel = self._window.focused_panel()
        self.copy(panel.copy_command(self._bridge.access) or self.view_command())

    def copy_replay(self) -> None:
        self.copy(self._window.detail.copy_command(self._bridge.access))

    def copy_view(self) -> None:
        self.copy(self.view_command())

    def copy_table(self) -> None:
        self.copy(csv_of(self._window.focused_panel()))

    def view_command(self) -> str:
        """The command line that opens this view again, on any machine."""
        board = self._window.board
        return command_lines.view(
            self._axis.view,
            self._axis.span,
            self._window.focused_panel().name,
            self._window.predictions.line.text().strip(),
            [line.address for line in board.servers] if board is not None else [],
            self._bridge.access,
        )

    def view_link(self) -> str:
        """The same view as a link, for a machine where the console is installed."""
        board = self._window.board
        return links.link(
            self._axis.view,
            self._axis.span,
            self._window.focused_panel().name,
            self._window.predictions.line.text().strip(),
            [line.address for line in board.servers] if board is not None else [],
            self._bridge.access.tls,
        )

    def copy_link(self) -> None:
        self.copy(self.view_link())

    def incident_sheet(self) -> None:
        """Write everything visible, and what explains it, into one HTML file."""
        board = self._window.board
        if board is None:
            return
        question = self._window.changes.question()
        self._sheet = self._bridge.ask(question) if question is not None else 0
        QTimer.singleShot(SHEET_WAITS_MS, self, lambda n=self._sheet: self._write_sheet(n, None))

    def _answered(self, number: int, answer: object) -> None:
        if isinstance(answer, WhatChanged):
            self._write_sheet(number, answer)

    def _write_sheet(self, number: int, changed: WhatChanged | None) -> None:
        """Write the sheet once: with the answer to *what changed*, or without it when the cache
        takes too long."""
        board = self._window.board
        if board is None or number != self._sheet:
            return
        self._sheet = -1
        shown = [panel for panel in self._window.panels.values() if panel.isVisible()]
        pictures = [("the window", _png(self._window))]
        pictures += [(panel.heading.lower(), _png(panel)) for panel in shown]
        text = sheet.html(
            board, pictures, self.view_command(), self._bridge.access, self.view_link(), changed
        )
        at = clock_text(self._clock(), "%Y-%m-%dT%H%M%SZ")
        self._bridge.write_file(self.folder / f"incident-{at}.html", text.encode())

    def copy_incident(self) -> None:
        board = self._window.board
        if board is not None:
            self.copy(incident(board, self.view_command()))


def _choices(kind: str, line: ServerLine) -> list[tuple[str, str]]:
    """The choices that are known without asking the server: (text, value)."""
    snapshot = line.snapshot
    if snapshot is None:
        return []
    if kind == "feedback":
        return [(label, label) for label in snapshot.labels]
    if kind == "restart":
        worst = sorted(snapshot.replicas, key=lambda one: (one.state == "ready", one.index))
        return [
            (f"{one.index} · {one.state} · {one.answered:,} answered", str(one.index))
            for one in worst
        ]
    return []


def _png(widget: QWidget) -> bytes:
    found = QBuffer()
    found.open(QIODevice.OpenModeFlag.WriteOnly)
    widget.grab().save(found, "PNG")
    return bytes(found.data().data())


def csv_of(panel: Panel) -> str:
    """A panel's table as CSV. A cell that a spreadsheet would run as a formula is prefixed with a
    quote."""
    head, rows = panel.as_table()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_harmless(cell) for cell in row] for row in rows])
    return out.getvalue()


def _harmless(cell: str) -> str:
    if cell[:1] in "=+@" and cell:
        return "'" + cell
    if cell[:1] == "-" and not cell[1:2].isdigit() and not cell[1:2] == ".":
        return "'" + cell
    return cell


def incident(board: Board, command: str) -> str:
    """The incident as Markdown: state, messages, and the last events."""
    state = board.fleet_state
    lines = [
        f"# {state.state}: {state.sentence}",
        "",
        f"as seen {iso(board.made_s)}, window {iso(board.from_s)} to {iso(board.to_s)}",
        "",
    ]
    lines += [f"- {message.text}: {message.detail or message.text}" for message in state.messages]
    lines += ["", "## events", ""]
    lines += [
        f"- {clock_text(h.at_s, '%H:%M:%S')} {h.severity}: {h.text}"
        for h in board.timeline_events[:20]
    ]
    if board.latency is not None:
        p50, p95, p99 = board.latency.total
        lines += ["", f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms"]
    return "\n".join([*lines, "", f"`{command}`", ""])
