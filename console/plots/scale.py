"""Scales, columns and legends that the plots share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QRectF
from PySide6.QtGui import QFontMetricsF, QPainter

from console.plots import paint
from console.plots.style import Style
from console.state.dashboard import LatencyColumns


def column_at(found: LatencyColumns, at_s: float) -> int:
    """Index of the column that contains a moment; -1 outside."""
    if not len(found.starts):
        return -1
    index = int((at_s - found.starts[0]) // found.column_s)
    return index if 0 <= index < len(found.starts) else -1


def caption(
    painter: QPainter, style: Style, area: QRectF, label: Sequence[tuple[str, str]]
) -> list[tuple[QRectF, str]]:
    """A legend inside the plot, top left, on its own background so that lines do not cross it.
    Returns where each piece is, for tool tips."""
    metrics = QFontMetricsF(style.small)
    widths = [metrics.horizontalAdvance(text) + 9 for text, _ in label]
    high = style.px(15)
    ground = QRectF(area.left() + 3, area.top(), min(sum(widths) + 4, area.width() - 6), high)
    painter.fillRect(ground, style.theme.color("panel", 190))
    left = ground.left() + 4
    places = []
    for (text, tone), width in zip(label, widths, strict=True):
        if left + width > area.right():
            break
        place = QRectF(left, ground.top(), width, high)
        if text[:1] in paint.KEYS:
            paint.keyed(painter, style.theme, place, (text, tone), style.small)
        else:
            paint.text(painter, place, text, style.theme.color(tone), style.small)
        places.append((place, text))
        left += width
    return places


def scale_top(value: float) -> tuple[float, float]:
    """(top, step) of an axis from zero: round, with four to six steps."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    for factor in (0.2, 0.25, 0.5, 1, 2, 2.5, 5):
        step = factor * power
        if value / step <= 6:
            return math.ceil(value / step - 1e-9) * step, step
    return 10 * power, 2 * power
