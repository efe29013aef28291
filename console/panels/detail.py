"""One prediction: its numbers, its stages in the server, its features against the reference, and
the text, picture and sound that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from PySide6.QtCore import QEvent, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QImage, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from console.app.media import PayloadPart, waveform
from console.app.theme import lookup
from console.panels.frame import Panel
from console.panels.prediction_facts import (
    LINE,
    ODD,
    PredictionFacts,
    oddest,
    percentile,
    prediction_lines,
    value_text,
)
from console.plots import paint
from console.plots.style import Style
from console.plots.waterfall import Waterfall
from console.state import command_lines
from console.state.access import ConnectionAccess
from console.state.query_types import KeptPayload, PredictionDetail

TEXT_COLUMNS = 45  # characters in a line of the narrowest panel
STOPS_MS = 300


class PartView(QWidget):
    """One kept part, painted, so that text is never taken for markup."""

    def __init__(self, style: Style, shown: PayloadPart) -> None:
        super().__init__()
        self._style = style
        self.shown = shown
        self._image = self._spectrogram()
        self.setAccessibleName(f"{shown.caption} {shown.text[:300]}")
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        """Overridden instead of connecting to a signal of the style: parts come and go, and the
        style stays."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange:
            self._fit()

    def _fit(self) -> None:
        lines = min(len(self.shown.text) // TEXT_COLUMNS + 1, 5)
        heights = {"text": 24 + 17 * lines, "image": 220, "audio": 150}
        self.setFixedHeight(self._style.whole(heights.get(self.shown.kind, 24)))

    def sizeHint(self) -> QSize:
        return QSize(280, self.height())

    def _spectrogram(self) -> QImage | None:
        found = self.shown.spectrogram
        if found is None:
            return None
        level = (found * 255).astype(np.uint8)
        pixels = np.ascontiguousarray(lookup(self._style.theme)[level][::-1])
        height, width = pixels.shape
        form = QImage.Format.Format_ARGB32_Premultiplied
        return QImage(pixels.tobytes(), width, height, width * 4, form).copy()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, style, px = self._style.theme, self._style, self._style.px
        head = QRectF(px(10), 2, self.width() - px(20), px(LINE))
        paint.text(painter, head, self.shown.caption, theme.color("dim"), style.small)
        area = QRectF(px(10), px(20), self.width() - px(20), self.height() - px(24))
        if self.shown.kind == "text":
            paint.wrapped(
                painter, area, self.shown.text, theme.color("text"), style.text_font, area.height()
            )
        elif self.shown.image is not None:
            image = self.shown.image
            scale = min(area.width() / image.width(), area.height() / image.height(), 2.0)
            box = QRectF(area.left(), area.top(), image.width() * scale, image.height() * scale)
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(box, image)
        elif self.shown.samples is not None:
            self._sound(painter, area)

    def _sound(self, painter: QPainter, area: QRectF) -> None:
        theme = self._style.theme
        half = area.height() * 0.42
        columns = max(int(area.width()), 2)
        low, high = waveform(self.shown.samples, columns)  # type: ignore[arg-type]
        middle = area.top() + half / 2
        painter.setPen(QPen(theme.color("p95"), 1))
        for x in range(columns):
            top = middle - high[x] * half / 2
            painter.drawLine(int(area.left()) + x, int(top), int(area.left()) + x,
                             int(middle - low[x] * half / 2))  # fmt: skip
        if self._image is not None:
            box = QRectF(area.left(), area.top() + half + 4, area.width(), area.height() - half - 4)
            painter.drawImage(box, self._image)


class DetailPanel(Panel):
    name = "detail"
    heading = "PREDICTION"
    payloadWanted = Signal(str, str)  # server, prediction id
    playWanted = Signal(object)  # bytes of the sound
    replayWanted = Signal()
    againWanted = Signal()
    feedbackWanted = Signal()

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self.single: PredictionDetail | None = None
        self.waterfall = Waterfall(style)
        self.facts = PredictionFacts(style)
        self.oddest = PredictionFacts(style, ODD)
        self.features = PredictionFacts(style)
        self._parts: list[PartView] = []
        # Read only the row they stop at, not every row that J and K pass.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(STOPS_MS)
        self._soon.timeout.connect(self.want)
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(0, 0, 0, 6)
        self._column.setSpacing(4)
        self._column.addWidget(self.facts)
        self._column.addWidget(self.waterfall)
        self._column.addLayout(self._buttons())
        self._column.addWidget(self.oddest)
        self._column.addWidget(self.features)
        self._column.addStretch(1)
        area = QScrollArea()
        area.setWidget(inside)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inside.setAutoFillBackground(False)
        area.viewport().setAutoFillBackground(False)
        area.setAccessibleName("One prediction")
        self._area = area  # the area scrolls by keys while it has the focus
        self.watch_focus(area)
        self.body.addWidget(area, 1)
        self.title.show_legend([("select a prediction", "dim")])

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(8, 2, 8, 2)
        self.fetch = QPushButton("Fetch the payload again")
        self.play = QPushButton("Play")
        self.again = QPushButton("Replay …")
        self.feedback = QPushButton("Feedback …")
        self.replay = QPushButton("Copy replay command")
        self.fetch.clicked.connect(self.want)
        self.play.clicked.connect(self.play_sound)
        self.replay.clicked.connect(lambda: self.replayWanted.emit())
        self.again.clicked.connect(lambda: self.againWanted.emit())
        self.feedback.clicked.connect(lambda: self.feedbackWanted.emit())
        for button in (self.fetch, self.play, self.again, self.feedback, self.replay):
            button.setVisible(False)
            button.setAutoDefault(True)
            row.addWidget(button)
        row.addStretch(1)
        return row

    def show_single(self, single: PredictionDetail, server: str) -> None:
        self.single = single
        self._clear()
        row = single.row
        self.waterfall.show_row(row, single.batch_mates)
        self.waterfall.setVisible(row is not None)
        self.fetch.setVisible(False)
        self._soon.stop()
        if row is not None and row.payload_kept:
            self._soon.start()
        self.again.setVisible(row is not None and row.payload_kept)
        self.feedback.setVisible(row is not None and not row.error)
        self.replay.setVisible(row is not None)
        self.play.setVisible(False)
        if row is None:
            text = "this prediction is not in the cache"
            self.facts.show_row([(single.prediction_id, "text"), (text, "dim")], [])
            self.oddest.show_row([], [])
            self.features.show_row([], [])
            return
        self.title.show_legend([(row.prediction_id[:24], "text")])
        features = [
            (feature.name, value_text(feature, value), percentile(feature, value))
            for feature, value in zip(single.features, row.features, strict=False)
        ]
        self.facts.show_row(prediction_lines(row, server), [])
        self.oddest.show_row([], oddest(features))
        self.features.show_row([], features)

    def show_payload(self, found: KeptPayload, parts: Sequence[PayloadPart]) -> None:
        single = self.single
        if single is None or found.prediction_id != single.prediction_id:
            return
        self._clear()
        if found.body is None:
            parts = [PayloadPart("other", found.why)]
        for place, shown in enumerate(parts):
            part = PartView(self.ui_style, shown)
            self._parts.append(part)
            # The request's parts, above what was made of them.
            self._column.insertWidget(place, part)
        self.play.setVisible(any(shown.kind == "audio" for shown in parts))
        self.fetch.setVisible(found.body is None)

    def _clear(self) -> None:
        for part in self._parts:
            self._column.removeWidget(part)
            part.deleteLater()
        self._parts = []

    def want(self) -> None:
        single = self.single
        if single is not None and single.row is not None and single.row.payload_kept:
            self.fetch.setVisible(False)
            self.payloadWanted.emit(single.server, single.prediction_id)

    def play_sound(self) -> None:
        for part in self._parts:
            if part.shown.kind == "audio":
                self.playWanted.emit(part.shown.raw)
                return

    def focus_target(self) -> QWidget:
        return self._area

    def copy_command(self, access: ConnectionAccess) -> str:
        if self.single is None or self.single.row is None:
            return ""
        return command_lines.replay(self.single.server, self.single.prediction_id, access)

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        row = self.single.row if self.single is not None else None
        if row is None:
            return [], []
        names = [field.name for field in fields(row)]
        return ["field", "value"], [[name, str(getattr(row, name))] for name in names]
