"""Alerts and deploys as marks on the time axis, each with a tool tip."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Signal
from PySide6.QtGui import QPainter

from console.app.timeaxis import TimeAxis
from console.plots import paint
from console.plots.style import Style
from console.plots.timeplot import TimePlot
from console.state.dashboard import TimelineEvent
from console.state.severity import rank
from console.state.timetext import clock_text

LANES = (0.26, 0.74)  # shares of the height: alerts, deploys


class EventMarks(TimePlot):
    """Two lanes above the labels of the time axis."""

    chosen = Signal(object)  # a TimelineEvent

    def __init__(self, style: Style, axis: TimeAxis) -> None:
        super().__init__(style, axis, "Alerts and deploys over time", time_labels=True)
        self.shows_readout = False
        self.shows_switches = False
        style.changed.connect(self._fit)
        self._fit()
        self.picked.connect(self._pick)

    def _fit(self) -> None:
        self.setFixedHeight(self.ui_style.whole(60))

    def _marks(self) -> list[tuple[float, float, TimelineEvent]]:
        area = self.area
        low, high = self.span
        lanes = {"deploy": area.top() + area.height() * LANES[1]}
        upper = area.top() + area.height() * LANES[0]
        return [
            (self.x_of(entry.at_s), lanes.get(entry.kind, upper), entry)
            for entry in (self.board.timeline_events if self.board is not None else ())
            if low <= entry.at_s <= high
        ]

    def paint_layer(self, painter: QPainter, area: QRectF) -> None:
        theme, px = self.ui_style.theme, self.ui_style.px
        font = self.ui_style.small
        for text, part in zip(("alerts", "deploys"), LANES, strict=True):
            place = QRectF(
                0, area.top() + area.height() * part - px(8), area.left() - px(6), px(16)
            )
            paint.text(painter, place, text, theme.color("dim"), font, paint.RIGHT)
        # Where marks overlap, the newest and the most severe lie on top.
        ordered = sorted(self._marks(), key=lambda m: (-rank(m[2].severity), m[2].at_s))
        for x, y, entry in ordered:
            if entry.kind == "note":
                end = self.x_of(entry.to_s) if entry.to_s == entry.to_s else x
                paint.flag(painter, theme, QPointF(x, y), min(end, area.right()), px(5))
            elif entry.kind == "deploy":
                paint.deploy(painter, theme, entry.mark, entry.severity, QPointF(x, y), px(4.5))
            else:
                paint.sign(painter, theme, entry.severity, QPointF(x, y), px(8))

    def _near(self, x: float, y: float) -> list[TimelineEvent]:
        """The marks under the pointer, nearest first: marks of one deploy on many servers
        overlap."""
        found = [(abs(mx - x) + abs(my - y), mark) for mx, my, mark in self._marks()]
        near = sorted(
            (pair for pair in found if pair[0] < self.ui_style.px(12)), key=lambda pair: pair[0]
        )
        return [mark for _, mark in near]

    def _pick(self, at_s: float, y: float) -> None:
        near = self._near(self.x_of(at_s), y)
        if near:
            self.chosen.emit(near[0])

    def tip_at(self, x: float, y: float) -> str:
        """The tool tip of the mark at this position."""
        near = self._near(x, y)
        tips = [m.detail or f"{clock_text(m.at_s)} UTC\n{m.text}" for m in near[:4]]
        if len(near) > 4:
            tips.append(f"and {len(near) - 4} more here: zoom in")
        return "\n\n".join(text[:600] for text in tips)
