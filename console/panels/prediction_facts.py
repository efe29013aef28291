"""What is known of one prediction, as lines, and its features beside the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QRectF
from PySide6.QtGui import QPainter, QPaintEvent

from console.plots import paint
from console.plots.style import Style
from console.plots.tipped import TippedWidget
from console.state import glossary
from console.state.domain import CachedPrediction
from console.state.timetext import clock_text
from console.state.units import quantity
from console.state.units import share as share_text
from server.telemetry.outputs import OUTPUTS
from server.telemetry.rows import FeatureRow

LINE = 16
ODDEST = 5
ALL = "all features, with their percentile in the reference"
ODD = "the oddest features: nearest to an end of the reference"

ShownFeature = tuple[str, str, float]  # name, value, percentile


def oddest(features: Sequence[ShownFeature]) -> list[ShownFeature]:
    """The features nearest to either end of the reference, the most unusual first; features with an
    unknown percentile are left out."""
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


class PredictionFacts(TippedWidget):
    """Lines of text, and each feature with its percentile in the reference."""

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

    def tip_at(self, x: float, y: float) -> str:
        """What the line at this height means; for a feature, its value and its percentile as a
        sentence."""
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


def _outputs(row: CachedPrediction) -> list[tuple[str, str]]:
    """The label, then every output, two on a line; an output that is below its limit gets a line of
    its own."""
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
    """The message that the caller received, then the error code. An older server keeps the code
    only."""
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
