"""Dialogs for a time range as text, and for a note that the servers keep on the time axis."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from console.finding import time_words
from console.finding.time_words import EXAMPLES, TimeRange
from console.panels.dialogs import plain_label
from console.state.timetext import clock_text
from console.state.units import duration

LONGEST_NOTE = 500  # characters; the servers have the same limit


class TimeRangeDialog(QDialog):
    """`chosen` carries the typed range, once it is valid."""

    chosen = Signal(object)  # TimeRange

    def __init__(
        self, parent: QWidget, span: tuple[float, float], clock: Callable[[], float]
    ) -> None:
        super().__init__(parent)
        self._clock = clock
        self.setWindowTitle("Time range")
        form = QFormLayout(self)
        self.line = QLineEdit()
        self.line.setPlaceholderText("last 3 h")
        self.line.setAccessibleName("Time range in words, UTC")
        self.line.setMinimumWidth(420)
        form.addRow("Show", self.line)
        self.meaning = plain_label("")
        form.addRow(self.meaning)
        form.addRow(self._examples())
        row = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.confirm = row.addButton("Show", QDialogButtonBox.ButtonRole.AcceptRole)
        row.accepted.connect(self._confirmed)
        row.rejected.connect(self.reject)
        form.addRow(row)
        form_ = "%Y-%m-%d %H:%M:%S"
        self._now = f"shown now: {clock_text(span[0], form_)} to {clock_text(span[1], form_)} UTC"
        self.line.textChanged.connect(self._changed)
        self._changed()
        self.line.setFocus()

    def _examples(self) -> QWidget:
        whole = QWidget()
        row = QHBoxLayout(whole)
        row.setContentsMargins(0, 0, 0, 0)
        for text in EXAMPLES:
            button = QPushButton(text)
            button.setAutoDefault(False)
            button.clicked.connect(lambda _=False, t=text: self.line.setText(t))
            row.addWidget(button)
        return whole

    def found(self) -> TimeRange | None:
        try:
            return time_words.parse(self.line.text(), self._clock())
        except ValueError:
            return None

    def _changed(self) -> None:
        found = self.found()
        text = self._now
        if found is not None:
            text = found.text
        elif self.line.text().strip():
            try:
                time_words.parse(self.line.text(), self._clock())
            except ValueError as error:
                text = str(error)
        self.meaning.setText(text[:300])
        self.confirm.setEnabled(found is not None)

    def _confirmed(self) -> None:
        found = self.found()
        if found is not None:
            self.chosen.emit(found)
            self.accept()


class NoteDialog(QDialog):
    """A note about a moment or a span; `wanted` carries its text."""

    wanted = Signal(str)

    def __init__(
        self, parent: QWidget, span: tuple[float, float], actor: str, servers: int
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Annotate")
        form = QFormLayout(self)
        low, high = span
        when = f"{clock_text(low, '%Y-%m-%d %H:%M:%S')} UTC"
        if high > low:
            when = f"{when}, for {duration(high - low)}"
        form.addRow("When", plain_label(when))
        self.line = QLineEdit()
        self.line.setMaxLength(LONGEST_NOTE)
        self.line.setPlaceholderText("what everybody who looks at this time should know")
        self.line.setAccessibleName("Note")
        self.line.setMinimumWidth(420)
        form.addRow("Note", self.line)
        form.addRow("As", plain_label(actor))
        text = f"Kept by {servers} servers" if servers > 1 else "Kept by the server"
        form.addRow(plain_label(f"{text}: every console that watches it shows the note."))
        row = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.confirm = row.addButton("Annotate", QDialogButtonBox.ButtonRole.AcceptRole)
        row.accepted.connect(self._confirmed)
        row.rejected.connect(self.reject)
        form.addRow(row)
        self.line.textChanged.connect(lambda text: self.confirm.setEnabled(bool(text.strip())))
        self.confirm.setEnabled(False)
        self.line.setFocus()

    def _confirmed(self) -> None:
        if self.line.text().strip():
            self.wanted.emit(self.line.text().strip())
            self.accept()
