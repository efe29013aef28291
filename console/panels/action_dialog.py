"""Asks before a server is changed. It shows what will happen on which servers, asks for the reason,
and shows the command that does the same. Without a reason nothing is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)

from console.panels.dialogs import plain_label
from console.state import action_kinds
from console.state.access import ConnectionAccess
from console.state.action_kinds import LABEL, ActionKind
from console.state.domain import Action

LONGEST_REASON = 500
CHOOSES = {"feedback": "True label", "restart": "Replica"}
NOTHING_LOADED = "no other bundle is loaded or warm there (server load BUNDLE)"
NONE = {
    "canary": "no bundle is loaded there and waits to be activated (server load BUNDLE)",
    "rehearse": "the store of this server holds no other bundle (server load BUNDLE)",
}
WIDTH = 620


class ActionDialog(QDialog):
    """`servers` are (address, name), the one the action is about first. `prediction` is the target
    of feedback and replays. `choices` are (text, value) where they are known: labels of feedback,
    replicas of a restart. `wanted` carries the confirmed action."""

    wanted = Signal(object)  # Action

    def __init__(
        self,
        parent: QWidget,
        kind: ActionKind,
        servers: Sequence[tuple[str, str]],
        actor: str,
        access: ConnectionAccess,
        clock: Callable[[], float],
        prediction: str = "",
        choices: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(parent)
        self._kind, self._servers, self._actor = kind, list(servers), actor
        self._access, self._clock, self._prediction = access, clock, prediction
        self.setWindowTitle(kind.title)
        form = QFormLayout(self)
        self.sentence = plain_label("")
        self.sentence.setFixedWidth(WIDTH)
        form.addRow(self.sentence)
        self.scope = QComboBox()
        self.target = QComboBox()
        self.more: list[QComboBox] = []  # share and minutes of a canary
        self._ask(form, choices)
        self.reason = QLineEdit()
        self.reason.setMaxLength(LONGEST_REASON)
        self.reason.setPlaceholderText("kept with your name, for the next operator")
        self.reason.setAccessibleName("Reason")
        form.addRow("Reason", self.reason)
        form.addRow("As", QLabel(f"{actor}; needs the role {kind.role}"))
        form.addRow("Command", self._command_row())
        self.trouble = plain_label("")
        self.trouble.hide()
        form.addRow(self.trouble)
        form.addRow(self._buttons())
        self.reason.textChanged.connect(self._changed)
        self.scope.currentIndexChanged.connect(self._changed)
        for box in (self.target, *self.more):
            box.currentIndexChanged.connect(self._changed)
        self._changed()
        (self.target if choices else self.reason).setFocus()

    def _ask(self, form: QFormLayout, choices: Sequence[tuple[str, str]]) -> None:
        address, name = self._servers[0]
        self.scope.addItem(f"{name} alone", address)
        if self._kind.whole and len(self._servers) > 1:
            every = " ".join(address for address, _ in self._servers)
            self.scope.addItem(f"all {len(self._servers)} servers, or none", every)
        self.scope.setAccessibleName("Servers")
        if self.scope.count() > 1:
            form.addRow("Where", self.scope)
        if self._kind.bundles:
            self.target.addItem("asking the server …", "")
            form.addRow("Bundle", self.target)
        elif choices:
            for text, value in choices:
                self.target.addItem(text, value)
            form.addRow(CHOOSES.get(self._kind.name, "What"), self.target)
        self.target.setAccessibleName(self._kind.title)
        if self._kind.name == "canary":
            self._ask_share(form)

    def _ask_share(self, form: QFormLayout) -> None:
        for head, values, text in (
            ("Share of sessions", action_kinds.SHARES, "{:.0%}"),
            ("Minutes", action_kinds.MINUTES, "{}"),
        ):
            box = QComboBox()
            box.setAccessibleName(head)
            for value in values:
                box.addItem(text.format(value), f"{value:g}")
            box.setCurrentIndex(1)
            form.addRow(head, box)
            self.more.append(box)

    def _command_row(self) -> QWidget:
        self.command = QLineEdit()
        self.command.setReadOnly(True)
        self.command.setAccessibleName("The command that does the same")
        copy = QPushButton("Copy")
        copy.setAutoDefault(False)
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.command.text()))
        whole = QWidget()
        row = QHBoxLayout(whole)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.command, 1)
        row.addWidget(copy)
        return whole

    def _buttons(self) -> QDialogButtonBox:
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.confirm = buttons.addButton(self._kind.title, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.accepted.connect(self._confirmed)
        buttons.rejected.connect(self.reject)
        return buttons

    def show_bundles(self, server: str, found: Sequence[tuple[str, str, str]], why: str) -> None:
        """Fill in the choices that the server returned."""
        if not self._kind.bundles or server != self._servers[0][0]:
            return
        self.target.clear()
        for stamp, name, roles in found:
            self.target.addItem(action_kinds.loaded_text(stamp, name, [roles]), stamp)
        if not found:
            self.target.addItem("none", "")
            why = why or NONE.get(self._kind.name, NOTHING_LOADED)
        self.trouble.setText(why)
        self.trouble.setVisible(bool(why))
        self._changed()

    def action(self) -> Action:
        """The action as the fields now describe it."""
        target = str(self.target.currentData() or "")
        more = [str(box.currentData()) for box in self.more]
        target = LABEL.join(part for part in (self._prediction, target, *more) if part)
        return Action(
            id=0,
            server=str(self.scope.currentData()),
            kind=self._kind.name,
            target=target,
            actor=self._actor,
            note=self.reason.text().strip(),
            at_s=self._clock(),
        )

    def _changed(self) -> None:
        action = self.action()
        names = dict(self._servers)
        servers = [names[address] for address in action.server.split()]
        self.sentence.setText(action_kinds.sentence(self._kind, servers))
        # In a form layout, a label of several lines gets the height of one.
        self.sentence.setFixedHeight(self.sentence.heightForWidth(WIDTH))
        self.command.setText(action_kinds.command(action, self._access))
        self.command.setCursorPosition(0)
        chosen = self.target.count() == 0 or bool(self.target.currentData())
        self.confirm.setEnabled(bool(action.note) and chosen)

    def _confirmed(self) -> None:
        if self.confirm.isEnabled():
            self.wanted.emit(self.action())
            self.accept()
