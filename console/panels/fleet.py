"""The servers: state, warm replicas, stamp, latency, and the age of these values."""

from __future__ import annotations

import math
import re

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPointF, QRectF, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from console.models.cells import ROW, Cell, TableColumn
from console.models.table import RowsModel
from console.panels.frame import NO_SCROLL, Panel
from console.plots import paint
from console.plots.style import Style
from console.state import command_lines, program
from console.state.access import ConnectionAccess
from console.state.dashboard import Board, ServerLine
from console.state.status import STALE_AFTER_S
from console.state.status_messages import CLOCK_ODD_MS, GONE, unencrypted
from console.state.timetext import clock_text
from console.state.units import duration, milliseconds

ROW_PIXELS = 44
STAMP_PIXELS = 16
LINE_PIXELS = 15
FRESH_S = 2.0  # a snapshot comes every second; an age below this is noise
LEAST_PIXELS = 196  # below this width names are elided to dots
COMPACT = 9  # from this many servers on, only the skew panel shows the stamps


def troubles(line: ServerLine) -> list[tuple[str, str]]:
    """What is unusual about a server, worst first: (text, tone)."""
    found: list[tuple[str, str]] = []
    if line.severity != "ok" and line.why:
        if line.state in GONE:
            # A line each: in a window of 1280 pixels, one line would lose the time.
            return [(part, line.severity) for part in re.split(r" (?=since |\()", line.why)]
        found.append((f"{line.state}: {line.why}", line.severity))
    if line.odd_parts:
        found.append(("≠ " + ", ".join(line.odd_parts), "high"))
    offset = line.link.offset_ms
    if abs(offset) > CLOCK_ODD_MS:
        found.append((f"clock offset {offset:+.0f} ms", "warning"))
    if line.link.flood:
        found.append((f"flood: {line.link.flood}", "warning"))
    if line.link.refused_rows:
        rejected = f"{line.link.refused_rows} rows rejected: {line.link.refused_why}"
        found.append((rejected, "warning"))
    snapshot = line.snapshot
    if snapshot is not None and snapshot.telemetry_dropped:
        found.append((f"{snapshot.telemetry_dropped:,} records dropped", "warning"))
    if unencrypted(line):
        found.append(("plaintext: not encrypted", "warning"))
    return found[:4]


def facts(line: ServerLine) -> str:
    """The second line, in a dim tone: warm replicas, the queue if there is one, age. For a server
    that does not answer, its last report with the time."""
    snapshot = line.snapshot
    age = "no contact yet" if line.age_s == math.inf else f"data {duration(line.age_s)} old"
    if snapshot is None:
        return age
    warm = f"{snapshot.warm_replicas}/{snapshot.wanted_replicas} warm"
    if line.past and line.link.heard_s:
        return f"at {clock_text(line.link.heard_s)}: {warm}"
    if line.age_s < FRESH_S:
        age = "live"
    queue = f" · queue {snapshot.queued}" if snapshot.queued else ""
    return f"{warm}{queue} · {age}"


class FleetDelegate(QStyledItemDelegate):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self._style = style
        self.roomy = True

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        line = index.data(ROW)
        if not isinstance(line, ServerLine):
            return
        theme, style, px = self._style.theme, self._style, self._style.px
        area = QRectF(option.rect)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(area, theme.color("selection"))
        if line.severity not in ("ok", "info"):
            bar = QRectF(area.left(), area.top() + 1, 3, area.height() - 2)
            painter.fillRect(bar, theme.color(line.severity))
        unheard = line.past
        lost = line.state in GONE
        left = area.left() + px(30)
        top = area.top() + px(5)
        sign = line.severity if not line.odd_parts or line.severity != "ok" else "high"
        paint.sign(painter, theme, sign, QPointF(area.left() + px(17), top + px(9)), px(10))
        place = QRectF(left, top, area.width() - px(104), px(18))
        paint.text(
            painter,
            place,
            line.name,
            theme.color("dim" if unheard and not lost else "text"),
            style.strong,
        )
        slow = line.slo_ms > 0 and line.p95_ms > line.slo_ms
        text = "lost" if lost else "–" if unheard else milliseconds(line.p95_ms)
        tone = "critical" if lost or (slow and not unheard) else "dim"
        right = QRectF(area.right() - px(72), top, px(64), px(18))
        paint.text(painter, right, text, theme.color(tone), style.number_font, paint.RIGHT)
        stale = line.age_s > STALE_AFTER_S
        tone = "warning" if stale and not unheard else "dim"
        wide = self.roomy or line.snapshot is None
        room = area.width() - px(36 if wide else 130)
        place = QRectF(left, top + px(18), room, px(16))
        paint.text(painter, place, facts(line), theme.color(tone), style.small_number_font)
        height = px(34)
        spark_top = top + px(19)
        if self.roomy:
            place = QRectF(left, top + px(34), area.width() - px(126), px(16))
            stamp = _stamp(line, place.width() / style.zoom)
            paint.text(painter, place, stamp, theme.color("dim"), style.small_number_font)
            height += px(STAMP_PIXELS)
            spark_top += px(16)
        box = QRectF(area.right() - px(84), spark_top, px(76), px(15))
        paint.spark(painter, box, line.spark, theme.color("faint" if unheard else "p95"))
        for number, (text, tone) in enumerate(troubles(line)):
            y = top + height + px(LINE_PIXELS) * number
            place = QRectF(left, y, area.width() - px(38), px(LINE_PIXELS))
            paint.text(painter, place, text, theme.color(tone), style.small_number_font)


def _stamp(line: ServerLine, width: float) -> str:
    """As many digits as fit: a shortened digest is more useful than dots."""
    if line.snapshot is None:
        return "stamp unknown"
    digits = line.snapshot.stamp[: 12 if width > 88 else 8]
    return digits + (" dirty" if line.snapshot.dirty else "")


def _cell(line: ServerLine) -> Cell:
    label = [line.name, line.state, facts(line), f"p95 {milliseconds(line.p95_ms)}"]
    label += [text for text, _ in troubles(line)]
    return Cell(" · ".join(label)[:1000], tip=tip(line))


def tip(line: ServerLine) -> str:
    """Everything about one server, for the tool tip and the clipboard."""
    snapshot = line.snapshot
    lines = [f"{line.name} ({line.address})", f"link: {line.link.state} {line.link.detail}"]
    if line.link.offset_ms == line.link.offset_ms:
        lines.append(f"clock {line.link.offset_ms:+.1f} ms ± {line.link.rtt_ms / 2:.1f}")
    if snapshot is not None:
        lines += [
            f"version {snapshot.version} · {snapshot.stamp_name}",
            f"requests {snapshot.requests:,} · failed {snapshot.failed:,} · refused"
            f" {snapshot.refused:,} · quarantined {snapshot.quarantined:,}",
            f"queue {snapshot.queued} of {snapshot.queue_limit}",
        ]
    return "\n".join(part[:300] for part in lines)


def face(line: ServerLine) -> object:
    """Everything that the delegate paints, as values: while they are equal, no repaint is
    needed."""
    last = float(line.spark[-1]) if len(line.spark) else 0.0
    return (
        line.name, line.severity, facts(line), milliseconds(line.p95_ms), tuple(troubles(line)),
        line.snapshot.stamp if line.snapshot is not None else "", len(line.spark), f"{last:.0f}",
    )  # fmt: skip


class FleetPanel(Panel):
    name = "fleet"
    heading = "SERVERS"
    picked = Signal(str)  # address of the selected server

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        column = TableColumn("server", _cell, 0)
        self.model = RowsModel((column,), lambda line: line.address, face)
        self.table = self.make_table(
            self.model,
            "Servers",
            f"no server: start {program.name()} HOST:PORT …",
            lambda line: self.picked.emit(line.address),
            lambda line: self.jump.emit("latency", line.address, math.nan),
        )
        self.table.horizontalHeader().hide()
        self._delegate = FleetDelegate(style)
        self.table.setItemDelegate(self._delegate)
        self.table.setHorizontalScrollBarPolicy(NO_SCROLL)
        self.body.addWidget(self.table)
        self._heights: tuple[int, ...] = ()
        style.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumWidth(self.ui_style.whole(LEAST_PIXELS))

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self.model.show(board.servers)
        self._delegate.roomy = len(board.servers) < COMPACT
        least = ROW_PIXELS + (STAMP_PIXELS if self._delegate.roomy else 0)
        lines = (least + LINE_PIXELS * len(troubles(line)) for line in board.servers)
        heights = tuple(self.ui_style.whole(height) for height in lines)
        if heights != self._heights:
            self._heights = heights
            for row, height in enumerate(heights):
                self.table.setRowHeight(row, height)
        legend: list[tuple[str, str]] = []
        if board.offline:
            legend.append(("offline", "warning"))
        elif len(board.servers) > 6:
            legend.append((f"{len(board.servers)} servers", "dim"))
        legend.append(("p95 · J/K", "dim"))
        self.title.show_legend(legend)

    def select(self, key: str) -> None:
        self.table.select_row(self.model.place_of(key))

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["server", "address", "state", "why", "warm", "wanted", "queued", "p95_ms", "age_s",
                "clock_offset_ms", "stamp"]  # fmt: skip
        rows = []
        for line in self.board.servers if self.board is not None else ():
            s = line.snapshot
            rows.append(
                [line.name, line.address, line.state, line.why]
                + ([str(s.warm_replicas), str(s.wanted_replicas), str(s.queued)] if s else [""] * 3)
                + [f"{line.p95_ms:.3f}", f"{line.age_s:.1f}", f"{line.link.offset_ms:.1f}"]
                + [s.stamp if s else ""]
            )
        return head, rows

    def copy_command(self, access: ConnectionAccess) -> str:
        line = self.table.row()
        return command_lines.status(line.address, access) if isinstance(line, ServerLine) else ""
