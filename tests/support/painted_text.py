"""The texts that a window paints, and which of them were cut although there was space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPoint, QPointF, QRect, QRectF
from PySide6.QtGui import (
    QImage,
    QPaintDevice,
    QPaintEngine,
    QPaintEngineState,
    QPainter,
    QTextItem,
    QTransform,
)
from PySide6.QtWidgets import QWidget

from console.plots.timeplot import TimePlot

DOTS = "…"
ROOM = 30  # pixels: four characters, and less is the space between two columns
_METRICS = QPaintDevice.PaintDeviceMetric


@dataclass(frozen=True, slots=True)
class PaintedText:
    """`place` in pixels of the window."""

    text: str
    place: QRectF


class _Engine(QPaintEngine):
    """Notes texts and paints nothing."""

    def __init__(self) -> None:
        super().__init__(QPaintEngine.PaintEngineFeature.AllFeatures)
        self.found: list[PaintedText] = []
        self._moved = QTransform()

    def begin(self, device: QPaintDevice) -> bool:
        return True

    def end(self) -> bool:
        return True

    def type(self) -> QPaintEngine.Type:
        return QPaintEngine.Type.User

    def updateState(self, state: QPaintEngineState) -> None:
        if state.state() & QPaintEngine.DirtyFlag.DirtyTransform:
            self._moved = state.transform()

    def drawTextItem(self, at: Any, item: QTextItem) -> None:
        at = self._moved.map(QPointF(at))
        high = item.ascent() + item.descent()
        place = QRectF(at.x(), at.y() - item.ascent(), item.width(), high)
        clip = self.systemClip()
        if clip.isEmpty() or clip.intersects(place.toAlignedRect()):  # a list scrolls past its edge
            self.found.append(PaintedText(item.text(), place))

    def drawPixmap(self, place: Any, pixmap: Any, source: Any) -> None:
        pass

    def drawImage(self, *more: object) -> None:
        pass

    def drawPath(self, *more: object) -> None:
        pass

    def drawRects(self, *more: object) -> None:
        pass

    def drawLines(self, *more: object) -> None:
        pass

    def drawPolygon(self, *more: object) -> None:
        pass

    def drawEllipse(self, *more: object) -> None:
        pass


class _Paper(QPaintDevice):
    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.engine = _Engine()
        self._sizes = {
            _METRICS.PdmWidth: width,
            _METRICS.PdmHeight: height,
            _METRICS.PdmDepth: 32,
            _METRICS.PdmDevicePixelRatioScaled: 65536,
        }

    def paintEngine(self) -> QPaintEngine:
        return self.engine

    def metric(self, metric: QPaintDevice.PaintDeviceMetric) -> int:
        return self._sizes.get(metric, 96 if "Dpi" in metric.name else 1)


def texts_of(window: QWidget) -> list[PaintedText]:
    """Every text that is painted now, those of plots included."""
    paper = _Paper(window.width(), window.height())
    window.render(paper, QPoint(0, 0))
    found = paper.engine.found
    for plot in window.findChildren(TimePlot):
        if plot.isVisible():  # what it paints comes out of a pixmap
            own = _Paper(plot.width(), plot.height())
            painter = QPainter(own)
            plot.paint_all(painter)
            painter.end()
            at = plot.mapTo(window, QPoint(0, 0)).toPointF()
            found += [PaintedText(t.text, t.place.translated(at)) for t in own.engine.found]
    return found


def cut_beside_room(window: QWidget, whole: frozenset[str] = frozenset()) -> list[str]:
    """Texts that end in dots beside at least ROOM pixels in which nothing is painted, with how many
    those are. `whole` are texts that end in dots by themselves."""
    image = window.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    pixels = np.frombuffer(image.constBits(), np.uint32).reshape(image.height(), -1)
    found = []
    for painted in texts_of(window):
        if not painted.text.endswith(DOTS) or painted.text in whole:
            continue
        free = max(_free(pixels, window, painted.place))
        if free >= ROOM:
            place = painted.place.toRect()
            found.append(f"{painted.text!r} at {place.x()},{place.y()}: {free} pixels are free")
    return found


def _free(pixels: NDArray[np.uint32], window: QWidget, place: QRectF) -> Iterator[int]:
    """Columns without paint, right and left of a text, up to the edge of its panel."""
    edge = _panel(window, place)
    top, bottom = max(int(place.top()) + 2, 0), min(int(place.bottom()) - 1, pixels.shape[0])
    for step, start, end in (
        (1, int(place.right()) + 2, min(edge.right() - 4, pixels.shape[1] - 1)),
        (-1, int(place.left()) - 2, max(edge.left() + 4, 0)),
    ):
        columns = pixels[top:bottom, start : end + step or None : step] & 0xFFFFFF
        if not columns.size:
            yield 0
            continue
        same = (columns == columns[0, 0]).all(axis=0)
        yield int(len(same) if same.all() else np.argmin(same))


def _panel(window: QWidget, place: QRectF) -> QRect:
    """The frame around a place, in pixels of the window."""
    widget: QWidget | None = window.childAt(place.center().toPoint())
    while widget is not None and widget.objectName() != "panel":
        widget = widget.parentWidget()
    if widget is None:
        return window.rect()
    return QRect(widget.mapTo(window, QPoint(0, 0)), widget.size())
