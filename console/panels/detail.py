"""One prediction: its numbers, its way through the server, its features against the reference,
and the text, picture and sound that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from PySide6.QtCore import QEvent, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QHelpEvent, QImage, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from console.app.media import PayloadPart, waveform
from console.app.theme import lookup
from console.models.table import escaped_tip
from console.panels.frame import Panel
from console.plots import paint
from console.plots.style import Style
from console.plots.waterfall import Waterfall
from console.state import command_lines, glossary
from console.state.access import ConnectionAccess
from console.state.domain import CachedPrediction
from console.state.query_types import KeptPayload, PredictionDetail
from console.state.timetext import clock_text
from console.state.units import quantity
from console.state.units import share as share_text
from server.telemetry.outputs import OUTPUTS
from server.telemetry.rows import FeatureRow

LINE = 16
TEXT_COLUMNS = 45  # characters of a line in the narrowest panel
STOPS_MS = 300
ODDEST = 5
ALL = "all features, with their percentile in the reference"
ODD = "the oddest features: nearest to an end of the reference"

ShownFeature = tuple[str, str, float]  # name, value, percentile


def oddest(features: Sequence[ShownFeature]) -> list[ShownFeature]:
    """Those nearest to either end of the reference, the oddest first; unknown places left out."""
    known = [one for one in features if one[2] == one[2]]
    return sorted(known, key=lambda one: min(one[2], 1 - one[2]))[:ODDEST]


def percentile(feature: FeatureRow, value: float) -> float:
    """Share of the reference below a value, 0 to 1; NaN when it is unknown."""
    counts = np.asarray(feature.reference_counts, np.float64)
    if value != value or feature.kind == "categorical" or not counts.sum():
        return float("nan")
    cell = int(np.searchsorted(feature.edges, value, side="right"))
    if cell >= len(counts):
        return float("nan")
    return float((counts[:cell].sum() + counts[cell] / 2) / counts.sum())


def value_text(feature: FeatureRow, value: float) -> str:
    if value != value:
        return "absent"
    if feature.kind == "categorical":
        index = int(value)
        known = 0 <= index < len(feature.categories)
        return feature.categories[index] if known else "new"
    return quantity(value, feature.unit, 4)


class PredictionFacts(QWidget):
    """Lines of text, and the features each with its place in the reference."""

    def __init__(self, style: Style, title: str = ALL) -> None:
        super().__init__()
        self._style = style
        self._title = title
        self._lines: list[tuple[str, str]] = []
        self._features: list[tuple[str, str, float]] = []
        style.changed.connect(self._fit)

    def show_row(
        self, lines: Sequence[tuple[str, str]], features: Sequence[tuple[str, str, float]]
    ) -> None:
        self._lines, self._features = list(lines), list(features)
        self._fit()
        self.setAccessibleName("; ".join(text for text, _ in lines)[:800])
        self.update()

    def _fit(self) -> None:
        rows = len(self._lines) + (len(self._features) + 1 if self._features else 0)
        self.setFixedHeight(self._style.whole(LINE * rows + 8))

    def tip_at(self, y: float) -> str:
        """What the line at this height means; of a feature, its value and its place in words."""
        place = int((y - 2.0) // self._style.px(LINE))
        if 0 <= place < len(self._lines):
            text = self._lines[place][0]
            return glossary.fact(text) or text
        place -= len(self._lines) + 1
        if not 0 <= place < len(self._features):
            return ""
        name, value, part = self._features[place]
        below = f"; {share_text(part, 0)} of the reference are lower" if part == part else ""
        return f"{name}: {value}{below}."

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent):
            QToolTip.showText(event.globalPos(), escaped_tip(self.tip_at(event.pos().y())), self)
            return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        theme, style, px = self._style.theme, self._style, self._style.px
        line = px(LINE)
        y = 2.0
        for text, tone in self._lines:
            place = QRectF(px(10), y, self.width() - px(18), line)
            paint.text(painter, place, text, theme.color(tone), style.small_number_font)
            y += line
        if not self._features:
            return
        place = QRectF(px(10), y, self.width() - px(10), line)
        paint.text(painter, place, self._title, theme.color("dim"), style.small)
        y += line
        for name, value, share in self._features:
            self._feature(painter, y, (name, value, share))
            y += line

    def _feature(self, painter: QPainter, y: float, what: tuple[str, str, float]) -> None:
        theme, font, px = self._style.theme, self._style.small_number_font, self._style.px
        name, value, share = what
        line = px(LINE)
        odd = share == share and not 0.01 <= share <= 0.99
        tone = "warning" if odd else "text"
        third = (self.width() - px(20)) / 3
        paint.text(painter, QRectF(px(10), y, third, line), name, theme.color("dim"), font)
        place = QRectF(px(10) + third, y, third - px(12), line)
        paint.text(painter, place, value, theme.color(tone), font, paint.RIGHT)
        trough = QRectF(px(10) + 2 * third, y + px(6), third - px(50), px(4))
        painter.fillRect(trough, theme.color("border"))
        if share == share:
            x = trough.left() + share * trough.width()
            painter.fillRect(QRectF(x - px(1.5), y + px(2), px(3), px(12)), theme.color(tone))
            place = QRectF(trough.right() + px(4), y, px(46), line)
            sign = "" if not odd else "▲ " if share > 0.5 else "▼ "
            text = f"{sign}{share_text(share, 0)}"
            paint.text(painter, place, text, theme.color(tone), font)


class PartView(QWidget):
    """One kept part, painted: text is only ever text."""

    def __init__(self, style: Style, shown: PayloadPart) -> None:
        super().__init__()
        self._style = style
        self.shown = shown
        self._image = self._spectrogram()
        self.setAccessibleName(f"{shown.caption} {shown.text[:300]}")
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        """Not by a signal of the style: parts come and go, and it stays."""
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
        # Not for every row that J and K run over: for the one they stop at.
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
        self._area = area  # scrolls by keys while it has them
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
            self._column.insertWidget(place, part)  # what came in, before what was made of it
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


def _outputs(row: CachedPrediction) -> list[tuple[str, str]]:
    """The label, then every output, two a line; one that is too low on a line of its own."""
    quiet, odd = [], []
    for spec in OUTPUTS:
        value = getattr(row, spec.name)
        text = f"{spec.name.replace('_', ' ')} {value:{'d' if spec.whole else '.3f'}}"
        if value < spec.least:
            odd.append((f"{text}: {spec.doubt}", "warning"))
        else:
            quiet.append(text)
    pairs = [" · ".join(quiet[place : place + 2]) for place in range(0, len(quiet), 2)]
    return [(row.label, "text"), *((text, "dim") for text in pairs), *odd]


def _error(row: CachedPrediction) -> list[tuple[str, str]]:
    """What its caller read, then the code for programs. An older server keeps the code only."""
    code, _, rest = row.error.partition("/")
    reason, _, field = rest.partition("/")
    found = [(row.error_message, "critical")] if row.error_message else []
    parts = [code, reason, f"in {field}" if field else ""]
    return [*found, (" · ".join(part for part in parts if part), "dim" if found else "critical")]


def prediction_lines(row: CachedPrediction, server: str) -> list[tuple[str, str]]:
    at = clock_text(row.at_unix_ms / 1000, "%Y-%m-%d %H:%M:%S")
    found = [(f"{at} UTC · {server} · replica {row.replica}", "dim")]
    if row.error:
        found += _error(row)
    else:
        found += _outputs(row)
    if row.true_label:
        right = row.true_label == row.label
        text = f"feedback: {row.true_label}" + (" (correct)" if right else " (wrong)")
        found.append((text, "ok" if right else "warning"))
    found.append((f"{row.mix} · {row.task} · stamp {row.stamp[:12]}", "dim"))
    parts = [" ".join(f"{key}={value}" for key, value in row.slices.items())]
    parts += [f"{name} {value}" for name, value in
              (("client", row.client), ("session", row.session)) if value]  # fmt: skip
    if any(parts):
        found.append((" · ".join(part for part in parts if part), "dim"))
    if row.trace_id:
        found.append((f"trace {row.trace_id}", "dim"))
    return found
