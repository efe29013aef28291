"""The table view of all panels, and the delegate that paints its cells."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import (
    QEvent,
    QModelIndex,
    QPointF,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QFontMetricsF,
    QGuiApplication,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
)

from console.models.cells import CELL, ROW, Cell, TableColumn
from console.models.table import ColumnsModel, Index
from console.plots import paint
from console.plots.style import Style


class CellDelegate(QStyledItemDelegate):
    def __init__(self, style: Style, columns: tuple[TableColumn, ...]) -> None:
        super().__init__()
        self._style = style
        self._columns = columns

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        cell = index.data(CELL)
        if not isinstance(cell, Cell):
            return
        theme, px = self._style.theme, self._style.px
        area = QRectF(option.rect)
        state = option.state
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(area, theme.color("selection"))
        if state & QStyle.StateFlag.State_HasFocus:  # the cell that Ctrl+C copies
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRect(area.adjusted(0.5, 0.5, -0.5, -0.5))
        inner = area.adjusted(px(6), 0, -px(6), 0)
        if cell.kind == "bar":
            part, marks = cell.value
            trough = QRectF(inner.left(), inner.center().y() - px(3.5), inner.width(), px(7))
            paint.bar(painter, theme, trough, part, cell.tone, marks)
        elif cell.kind == "spark":
            box = inner.adjusted(0, px(4), 0, -px(4))
            paint.spark(painter, box, cell.value, theme.color(cell.tone))
        elif cell.kind == "sign":
            centre = QPointF(inner.left() + px(6), inner.center().y())
            paint.sign(painter, theme, cell.value, centre, px(8))
            self._text(painter, inner.adjusted(px(18), 0, 0, 0), cell, paint.LEFT)
        elif cell.kind == "deploy":
            centre = QPointF(inner.left() + px(6), inner.center().y())
            mark, severity = cell.value
            paint.deploy(painter, theme, mark, severity, centre, px(4))
            self._text(painter, inner.adjusted(px(18), 0, 0, 0), cell, paint.LEFT)
        elif cell.kind == "skew":
            self._skew(painter, area, cell)
        elif cell.kind in ("sentence", "continued"):
            self._sentence(painter, option, index)
        else:
            self._text(painter, inner, cell, self._columns[index.column()].side)

    def _text(
        self,
        painter: QPainter,
        area: QRectF,
        cell: Cell,
        side: Qt.AlignmentFlag,
        small: bool = False,
    ) -> None:
        style = self._style
        font = style.number_font if cell.mono else style.text_font
        font = style.small_number_font if small else font
        if cell.bold:
            font = paint.bold(font)
        text = cell.text
        if small:  # a shortened digest is more useful than dots
            fits = int((area.width() - 1) / QFontMetricsF(font).horizontalAdvance("0"))
            text = text[: fits if fits > 3 else 1]
        paint.text(painter, area, text, style.theme.color(cell.tone), font, side)

    def _skew(self, painter: QPainter, area: QRectF, cell: Cell) -> None:
        theme = self._style.theme
        if cell.value:  # the value differs
            box = area.adjusted(2, 2, -2, -2)
            painter.fillRect(box, theme.color("critical", 50))
            painter.setPen(QPen(theme.color("critical"), 1))
            painter.drawRect(box)
        self._text(
            painter, area.adjusted(self._style.px(6), 0, -1, 0), cell, paint.LEFT, small=True
        )

    def _sentence(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Paint a text that spans several cells: each cell paints the part that lies in it."""
        table = option.widget
        assert isinstance(table, QTableView)
        column = index.column()
        while index.sibling(index.row(), column).data(CELL).kind == "continued":
            column -= 1
        start = index.sibling(index.row(), column)
        cell, place = start.data(CELL), table.visualRect(start)
        while (part := index.sibling(index.row(), column + 1)).isValid():
            if part.data(CELL).kind != "continued":
                break
            place = place.united(table.visualRect(part))
            column += 1
        px, inner = self._style.px, QRectF(place)
        inner.adjust(px(6), 0, -px(6), 0)
        painter.save()
        painter.setClipRect(option.rect)
        centre = QPointF(inner.left() + px(6), inner.center().y())
        paint.sign(painter, self._style.theme, cell.value, centre, px(8))
        self._text(painter, inner.adjusted(px(18), 0, 0, 0), cell, paint.LEFT)
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(60, self._style.whole(22))


class Table(QTableView):
    """Rows are selected; J and K move the selection, Enter opens a row, Ctrl+C copies a cell."""

    opened = Signal(object)  # the row, by Enter or a double click
    chosen = Signal(object)  # the row that the user's last move selected

    def __init__(self, style: Style, model: ColumnsModel, empty: str = "") -> None:
        super().__init__()
        self._style = style
        self.empty = empty  # text shown when there are no rows
        self.setModel(model)
        self._columns = model.columns
        self._quiet = False
        self._delegate = CellDelegate(style, model.columns)
        self.setItemDelegate(self._delegate)
        self.setShowGrid(False)
        self.setMouseTracking(True)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setTabKeyNavigation(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self._shape_header()
        self._fit()
        self.doubleClicked.connect(lambda index: self.opened.emit(index.data(ROW)))
        self.selectionModel().currentRowChanged.connect(self._moved)

    def _shape_header(self) -> None:
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsClickable(True)
        for number, column in enumerate(self._columns):
            if not column.width:
                header.setSectionResizeMode(number, QHeaderView.ResizeMode.Stretch)
        header.sectionClicked.connect(self._sort)
        self._sorted = (-1, False)
        self._narrowed = False

    def changeEvent(self, event: QEvent) -> None:
        """Overridden instead of connecting to a signal of the style: tables come and go, and the
        style stays."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange:
            self._fit()

    def _fit(self) -> None:
        """Fit rows and columns to the text size."""
        whole = self._style.whole
        self.verticalHeader().setDefaultSectionSize(whole(22))
        header = self.horizontalHeader()
        header.setMinimumSectionSize(whole(24))
        header.setFixedHeight(whole(24))
        for number, column in enumerate(self._columns):
            if column.width:
                header.resizeSection(number, whole(column.width))
        self._give_way(self.viewport().width())

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._give_way(event.size().width())
        super().resizeEvent(event)

    def _give_way(self, width: int) -> None:
        """Hide the columns that can be spared before the others are elided to dots."""
        columns = list(enumerate(self._columns))
        whole = self._style.whole
        room = width - sum(whole(c.width or c.least) for _, c in columns if not c.spare)
        for number, column in sorted(columns, key=lambda pair: pair[1].spare):
            if column.spare:
                room -= whole(column.width)
                self.setColumnHidden(number, room < 0)
        self._narrow(width)

    def _narrow(self, width: int) -> None:
        """Narrow the columns of a fixed width, to half of it at most, where the one that takes the
        rest would have less than its least: it is the name of the row."""
        whole = self._style.whole
        shown = [(n, c) for n, c in enumerate(self._columns) if not self.isColumnHidden(n)]
        fixed = sum(whole(column.width) for _, column in shown)
        rest = sum(whole(column.least) for _, column in shown if not column.width)
        share = max((width - rest) / fixed, 0.5) if rest and fixed else 1.0
        if share >= 1.0 and not self._narrowed:
            return  # a width that the user has chosen stays
        self._narrowed = share < 1.0
        for number, column in shown:
            if column.width:
                pixels = int(whole(column.width) * min(share, 1.0))
                self.horizontalHeader().resizeSection(number, pixels)

    def _sort(self, section: int) -> None:
        """Sort by the column: ascending, descending, and back to worst first."""
        if self._columns[section].order is None:
            return
        column, descending = self._sorted
        if column != section:
            self._sorted = (section, True)
        elif descending:
            self._sorted = (section, False)
        else:
            self._sorted = (-1, False)
        order = Qt.SortOrder.DescendingOrder if self._sorted[1] else Qt.SortOrder.AscendingOrder
        self.model().sort(self._sorted[0], order)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if self.empty and not self.model().rowCount():
            painter = QPainter(self.viewport())
            area = QRectF(self.viewport().rect()).adjusted(
                *(self._style.px(side) for side in (12, 8, -12, -8))
            )
            area.setHeight(min(area.height(), self._style.px(60)))
            color = self._style.theme.color("dim")
            paint.wrapped(painter, area, self.empty, color, self._style.text_font)

    def sort_current(self) -> None:
        """Sort by the column of the current cell, as a click on its header does."""
        self._sort(max(self.currentIndex().column(), 0))

    def row(self) -> Any:
        """The selected row, or None."""
        index = self.currentIndex()
        return index.data(ROW) if index.isValid() else None

    def select_row(self, place: int) -> None:
        """Select without emitting `chosen`, as no key or click caused it."""
        if 0 <= place < self.model().rowCount():
            self._quiet = True
            self.selectRow(place)
            self._quiet = False
            self.scrollTo(self.model().index(place, 0))

    def _moved(self, current: QModelIndex, previous: QModelIndex) -> None:
        if current.isValid() and not self._quiet:
            self.chosen.emit(current.data(ROW))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = event.key()
        unmodified = event.modifiers() == Qt.KeyboardModifier.NoModifier
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.row() is not None:
            self.opened.emit(self.row())
        elif unmodified and key in (Qt.Key.Key_J, Qt.Key.Key_K):
            self._walk(1 if key == Qt.Key.Key_J else -1)
        elif key == Qt.Key.Key_C and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            whole = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
            self.copy_cell(whole)
        elif event.text() and unmodified and event.text().isprintable():
            event.ignore()  # letters are commands of the window, not a search in the table
        else:
            super().keyPressEvent(event)

    def _walk(self, step: int) -> None:
        rows = self.model().rowCount()
        if rows:
            current = self.currentIndex()
            place = current.row() + step if current.isValid() else 0
            column = max(current.column(), 0)
            self.setCurrentIndex(self.model().index(min(max(place, 0), rows - 1), column))

    def copy_cell(self, whole_row: bool = False) -> None:
        """Copy the cell as text; with Shift the row, tab-separated."""
        index = self.currentIndex()
        if not index.isValid():
            return
        model = self.model()
        texts = [
            str(model.index(index.row(), column).data() or "")
            for column in range(model.columnCount())
        ]
        text = "\t".join(texts) if whole_row else texts[index.column()]
        QGuiApplication.clipboard().setText(text)
