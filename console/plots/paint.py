"""Small elements painted in many places: signs, bars, sparklines, elided text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen, QPolygonF

from console.app.theme import Theme

LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
CENTRE = Qt.AlignmentFlag.AlignCenter
SMOOTH = QPainter.RenderHint.Antialiasing
# A legend text that begins with one of these explains a line or an area: only the sign takes the
# colour, so that the text stays readable.
KEYS = "━┄■"
_ELIDE = Qt.TextElideMode.ElideRight


def sign(painter: QPainter, theme: Theme, severity: str, centre: QPointF, size: float = 9) -> None:
    """The shape of a severity: filled diamond, triangle, ring, dot. It is readable without
    colour."""
    painter.save()
    painter.setRenderHint(SMOOTH)
    color = theme.color(severity)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(color)
    half = size / 2
    x, y = centre.x(), centre.y()
    if severity in ("critical", "high"):
        half *= 1.2
        painter.drawPolygon(
            QPolygonF([QPointF(x, y - half), QPointF(x + half, y), QPointF(x, y + half),
                       QPointF(x - half, y)])
        )  # fmt: skip
    elif severity == "warning":
        half *= 1.15
        painter.drawPolygon(
            QPolygonF([QPointF(x, y - half), QPointF(x + half, y + half * 0.8),
                       QPointF(x - half, y + half * 0.8)])
        )  # fmt: skip
    elif severity == "unknown":
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(color, 2))
        painter.drawEllipse(centre, half - 0.5, half - 0.5)
    elif severity == "ok":
        painter.drawEllipse(centre, half, half)
    else:
        painter.drawEllipse(centre, half * 0.45, half * 0.45)
    painter.restore()


def deploy(
    painter: QPainter, theme: Theme, mark: str, severity: str, at: QPointF, half: float = 4.5
) -> None:
    """The shape of a deploy. Filled: traffic moved. Outlined: it did not. An action unknown to this
    console is an empty square."""
    tone = severity if severity != "info" else "dim" if mark in ("stop", "other") else "accent"
    color = theme.color(tone)
    x, y = at.x(), at.y()
    forward = QPolygonF([QPointF(x - half, y - half), QPointF(x + half, y),
                         QPointF(x - half, y + half)])  # fmt: skip
    painter.save()
    painter.setRenderHint(SMOOTH)
    painter.setPen(QPen(color, 1.4))
    painter.setBrush(color if mark in ("activate", "rollback", "start") else Qt.BrushStyle.NoBrush)
    if mark in ("activate", "load"):
        painter.drawPolygon(forward)
    elif mark == "rollback":
        painter.translate(2 * x, 0)
        painter.scale(-1, 1)
        painter.drawPolygon(forward)
    elif mark in ("refuse", "death"):
        painter.setPen(QPen(color, 2))
        painter.drawLine(QPointF(x - half, y - half), QPointF(x + half, y + half))
        painter.drawLine(QPointF(x - half, y + half), QPointF(x + half, y - half))
    elif mark == "canary":  # a part of the traffic moved: half filled
        painter.drawEllipse(at, half, half)
        painter.setBrush(color)
        painter.drawPie(QRectF(x - half, y - half, 2 * half, 2 * half), 90 * 16, 180 * 16)
    elif mark == "rehearse":
        painter.drawEllipse(at, half, half)
        painter.drawEllipse(at, half * 0.25, half * 0.25)
    elif mark == "start":
        painter.drawEllipse(at, half * 0.8, half * 0.8)
    else:
        painter.drawRect(QRectF(x - half * 0.8, y - half * 0.8, 1.6 * half, 1.6 * half))
    painter.restore()


def flag(painter: QPainter, theme: Theme, at: QPointF, to_x: float = 0.0, half: float = 5) -> None:
    """A person's note: a flag on its pole, and a line along the time that the note covers."""
    color = theme.color("accent")
    x, y = at.x(), at.y()
    painter.save()
    painter.setRenderHint(SMOOTH)
    painter.setPen(QPen(color, 1.4))
    painter.drawLine(QPointF(x, y - half), QPointF(x, y + half))
    if to_x > x + 1:
        painter.drawLine(QPointF(x, y + half), QPointF(to_x, y + half))
    painter.setBrush(color)
    painter.drawPolygon(
        QPolygonF([QPointF(x, y - half), QPointF(x + 1.5 * half, y - half / 2), QPointF(x, y)])
    )
    painter.restore()


def line(painter: QPainter, xs: np.ndarray, ys: np.ndarray, pen: QPen, top: float = -1e6) -> None:
    """A polyline one pixel wide, with gaps where the value is not known."""
    painter.setPen(pen)
    known = np.isfinite(ys)
    if not known.any():
        return
    ys = np.clip(np.where(known, ys, 0), top, 1e6)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], known.view(np.int8), [0]))))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        points = [QPointF(x, y) for x, y in zip(xs[begin:end], ys[begin:end], strict=True)]
        if len(points) == 1:
            points.append(points[0] + QPointF(3, 0))
        painter.drawPolyline(QPolygonF(points))


def spark(painter: QPainter, rect: QRectF, values: np.ndarray, color: QColor) -> None:
    """A sparkline from zero; draws nothing without values."""
    known = np.isfinite(values) if len(values) else np.zeros(0, bool)
    if not known.any():
        return
    top = max(float(values[known].max()), 1e-9)
    xs = rect.left() + np.arange(len(values)) / max(len(values) - 1, 1) * rect.width()
    ys = rect.bottom() - 1 - values / top * (rect.height() - 3)
    painter.setRenderHint(SMOOTH)
    line(painter, xs, ys, QPen(color, 1))
    painter.setRenderHint(SMOOTH, False)


def bar(
    painter: QPainter,
    theme: Theme,
    rect: QRectF,
    part: float,
    tone: str,
    marks: Sequence[float] = (),
) -> None:
    """A bar that fills a share of its track, with the thresholds as ticks."""
    painter.fillRect(rect, theme.color("border"))
    width = rect.width() * min(max(part, 0.0), 1.0)
    painter.fillRect(QRectF(rect.left(), rect.top(), width, rect.height()), theme.color(tone))
    painter.setPen(QPen(theme.color("text"), 1))
    for mark in marks:
        if 0 < mark < 1:
            x = math.floor(rect.left() + rect.width() * mark) + 0.5
            painter.drawLine(QPointF(x, rect.top() - 2), QPointF(x, rect.bottom() + 2))


def text(
    painter: QPainter,
    rect: QRect | QRectF,
    text: str,
    color: QColor,
    font: QFont | None = None,
    flags: Qt.AlignmentFlag = LEFT,
) -> float:
    """One elided line; returns its width. Never interpreted as rich text."""
    if font is not None:
        painter.setFont(font)
    area = QRectF(rect)
    metrics = QFontMetricsF(painter.font())
    shown = metrics.elidedText(text[:4000], _ELIDE, area.width())
    painter.setPen(color)
    painter.drawText(area, int(flags) | int(Qt.TextFlag.TextSingleLine), shown)
    return metrics.horizontalAdvance(shown)


def keyed(painter: QPainter, theme: Theme, area: QRectF, key: tuple[str, str], font: QFont) -> None:
    """`■ text`: the sign in its own colour, the rest in the colour of text."""
    label, tone = key
    used = text(painter, area, label[:1], theme.color(tone), font)
    rest = area.adjusted(used + 4, 0, 6, 0)
    text(painter, rest, label[1:].lstrip(), theme.color("text"), font)


def wrapped(
    painter: QPainter, area: QRectF, text: str, color: QColor, font: QFont, most: float = 48
) -> float:
    """Text over as many lines as it needs, at most `most` pixels high; returns the height used."""
    painter.setFont(font)
    painter.setPen(color)
    flags = int(Qt.TextFlag.TextWordWrap) | int(Qt.AlignmentFlag.AlignTop)
    box = painter.boundingRect(area, flags, text[:1000])
    height = min(box.height(), most)
    painter.save()
    painter.setClipRect(QRectF(area.left(), area.top(), area.width(), height + 2))  # underscores
    painter.drawText(area, flags, text[:1000])
    painter.restore()
    return max(height, font.pixelSize() * 15 / 11) + 1


def hatch(painter: QPainter, rect: QRectF, color: QColor) -> None:
    """Hatching over a time without data."""
    if rect.width() < 1:
        return
    painter.save()
    painter.setClipRect(rect)
    painter.setPen(QPen(color, 1))
    x = rect.left() - rect.height()
    x -= x % 8
    while x < rect.right():
        painter.drawLine(QPointF(x, rect.bottom()), QPointF(x + rect.height(), rect.top()))
        x += 8
    painter.restore()


def bold(font: QFont, pixels: int | None = None) -> QFont:
    found = QFont(font)
    found.setBold(True)
    if pixels is not None:
        found.setPixelSize(pixels)
    return found


def sized(font: QFont, pixels: int) -> QFont:
    found = QFont(font)
    found.setPixelSize(pixels)
    return found
