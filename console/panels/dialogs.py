"""The dialogs to acknowledge and to silence. A silence always has an end, and both state where they
will be visible."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from console.state.dashboard import AlertLine
from server.telemetry.filters import equals

SPANS = (("15 minutes", 900), ("1 hour", 3600), ("4 hours", 14_400), ("12 hours", 43_200),
         ("1 day", 86_400), ("3 days", 259_200))  # fmt: skip


def plain_label(text: str) -> QLabel:
    """A label whose text is never taken for markup, on as many lines as it needs."""
    label = QLabel(text[:300])
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setMinimumWidth(420)
    return label


class AlertDialog(QDialog):
    """`asks_span`: the dialog is for a silence, otherwise for an acknowledgement."""

    def __init__(self, parent: QWidget, line: AlertLine, asks_span: bool) -> None:
        super().__init__(parent)
        self.setWindowTitle("Silence" if asks_span else "Acknowledge")
        form = QFormLayout(self)
        form.addRow(plain_label(f"{line.name}: {line.row.summary}"))
        self.matcher = QComboBox()
        self.span = QComboBox()
        if asks_span:
            for text, value in matchers(line):
                self.matcher.addItem(text[:120], value)
            for text, seconds in SPANS:
                self.span.addItem(text, seconds)
            self.span.setCurrentIndex(1)
            form.addRow("What", self.matcher)
            form.addRow("For", self.span)
        self.note = QLineEdit()
        self.note.setPlaceholderText("what you know, for the next operator")
        self.note.setAccessibleName("Note")
        form.addRow("Note", self.note)
        known = (
            "The server stores this and shows it in every console. "
            "Recording and evaluation continue."
        )
        form.addRow(plain_label(known))
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        form.addRow(buttons)
        self.note.setFocus()


class PageDialog(QDialog):
    """A built-in page in Markdown. Esc closes it."""

    def __init__(self, parent: QWidget, title: str, text: str) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.resize(720, 520)
        self.page = QTextBrowser()
        self.page.setMarkdown(text)
        self.page.setAccessibleName(title)
        column = QVBoxLayout(self)
        column.addWidget(self.page)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)


def matchers(line: AlertLine) -> list[tuple[str, str]]:
    """The matchers to choose from: this alert only, up to its whole kind."""
    row = line.row
    found = [("this alert", row.id)]
    found += [(f"feature {feature}", equals("feature", feature)) for feature in row.features[:3]]
    found += [(f"slice {place}", equals("slice", place)) for place in row.slices[:3]]
    if row.kind:
        found.append((f"all {row.kind} alerts of this server", equals("kind", row.kind)))
    return found
