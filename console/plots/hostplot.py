"""What the hosts use over time: CPU, memory, disk and GPUs in per cent, the temperature of the
hottest GPU in degrees on the same scale, and the GPUs' power against its own highest value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import QRectF
from PySide6.QtGui import QPainter

from console.plots import paint
from console.plots.charts import LinePlot, split_pen
from console.plots.scale import caption
from console.state.dashboard import Floats, HostColumns
from console.state.units import share

ALONE = "what the host uses"
UNKNOWN = "no server has reported its host in this window"
# Field of HostColumns, name at the end of the line, unit.
LINES = (
    ("cpu", "CPU", "%"),
    ("memory", "memory", "%"),
    ("disk", "disk", "%"),
    ("gpu", "GPU", "%"),
    ("gpu_memory", "GPU memory", "%"),
    ("heat", "GPU °C", "°C"),
    ("power", "GPU power", "W"),
)


def drawn(found: HostColumns) -> list[tuple[int, str, str, Floats, Floats]]:
    """(number, name, newest value as text, heights of 0 to 1, values) of each figure that is
    known."""
    lines = []
    for number, (name, text, unit) in enumerate(LINES):
        values: Floats = getattr(found, name)
        known = values[np.isfinite(values)]
        if len(known):
            scale = {"%": 1.0, "°C": 100.0}.get(unit, max(float(known.max()), 1.0))
            lines.append((number, text, amount(float(known[-1]), unit), values / scale, values))
    return lines


def amount(value: float, unit: str) -> str:
    return share(value, 0) if unit == "%" else f"{value:,.0f} {unit}"


class HostPlot(LinePlot):
    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        found = self.board.host if self.board is not None else None
        theme = self.ui_style.theme
        lines = drawn(found) if found is not None else []
        if found is None or not lines:
            place = area.adjusted(8, 0, -8, 0)
            paint.text(painter, place, UNKNOWN, theme.color("dim"), self.ui_style.text_font)
            return
        self.axis_lines(painter, area, 100, 50, "%")
        painter.setClipRect(area)
        painter.setRenderHint(paint.SMOOTH)
        xs = self.xs(found.starts + found.column_s / 2)
        ends = []
        for number, name, text, heights, _ in lines:
            ys = area.bottom() - np.clip(heights, 0, 1) * (area.height() - 2)
            paint.line(painter, xs, ys, split_pen(theme, number))
            last = float(ys[np.flatnonzero(np.isfinite(ys))[-1]])
            ends.append((max(last, area.top() + 6), number, f"{name} {text}"))
        self.line_names(painter, area, ends)
        several = f"highest of {found.servers} servers" if found.servers > 1 else ALONE
        self.captions = caption(painter, self.ui_style, area, [(several, "dim")])

    def readout(self, at_s: float) -> Sequence[tuple[str, str]]:
        found = self.board.host if self.board is not None else None
        if found is None:
            return ()
        place = int((at_s - found.from_s) // found.column_s)
        if not 0 <= place < len(found.cpu):
            return ()
        units = {name: unit for _, name, unit in LINES}
        tones = self.ui_style.theme.split
        return [
            (f"{name} {amount(float(values[place]), units[name])}", tones[number % len(tones)])
            for number, name, _, _, values in drawn(found)
            if values[place] == values[place]
        ]
