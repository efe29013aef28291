"""Quality by slice: accuracy and value, realised where labels are known and estimated for all rows;
the calibration, the confusion matrix, and the worst slices."""

from __future__ import annotations

import math

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter

from console.models.quality import (
    ece_error,
    merged,
    slice_columns,
    worst_by_expression,
    worst_columns,
)
from console.models.table import RowsModel
from console.panels.frame import Panel
from console.plots.quality_charts import Calibration, QualityTrend
from console.plots.style import Style
from console.state.dashboard import Board
from console.state.units import duration, wilson
from server.telemetry.rows import QualityRow, SliceRow

NO_QUALITY = "no quality data yet: it needs predictions, and labels sent by Feedback"
NO_SLICES = "no slice found where the model is clearly worse than elsewhere"


class QualityPanel(Panel):
    name = "quality"
    heading = "QUALITY"

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self.slice = ""
        self._rows: dict[str, list[QualityRow]] = {}
        fields = ("accuracy", "estimated_accuracy")
        self.accuracy = QualityTrend(style, "accuracy", fields, True)
        fields = ("value_per_1000", "estimated_value_per_1000")
        self.value = QualityTrend(style, "value per 1,000 predictions", fields, False)
        self.calibration = Calibration(style)
        self.model = RowsModel(slice_columns(), lambda row: row.slice)
        self.table = self.make_table(self.model, "Quality by slice", NO_QUALITY, self._choose)
        self.worst_model = RowsModel(worst_columns(), lambda pair: pair[1].expression)
        self.worst = self.make_table(
            self.worst_model, "Worst slices", NO_SLICES, opened=self._open_slice
        )
        left, right = QSplitter(Qt.Orientation.Vertical), QSplitter(Qt.Orientation.Vertical)
        for chart in (self.accuracy, self.value):
            left.addWidget(chart)
        for part, share in ((self.table, 190), (self.worst, 190), (self.calibration, 290)):
            right.addWidget(part)
            right.setStretchFactor(right.count() - 1, share)
        right.setSizes([190, 190, 290])
        whole = QSplitter(Qt.Orientation.Horizontal)
        whole.addWidget(left)
        whole.addWidget(right)
        whole.setSizes([500, 620])
        self.body.addWidget(whole, 1)

    def show_board(self, board: Board) -> None:
        super().show_board(board)
        self._rows = merged(board.quality)
        self.model.show([rows[-1] for _, rows in sorted(self._rows.items())])
        self.worst_model.show(worst_by_expression(board.slices))
        self._show_slice()
        newest = max((line.at_s + line.row.width_s for line in board.quality), default=math.nan)
        legend = [("Enter on a slice: its predictions", "dim")]
        if newest == newest:
            age = board.made_s - newest
            text = (
                f"last hour ended {duration(age)} ago"
                if age > 0
                else "the current hour is still filling"
            )
            legend.insert(0, (text, "dim"))
        self.title.show_legend([(f"slice {self.slice or 'all'}", "text"), *legend])

    def _open_slice(self, pair: tuple[str, SliceRow]) -> None:
        self.jump.emit("predictions", pair[1].expression, math.nan)

    def _choose(self, row: QualityRow) -> None:
        self.slice = row.slice
        self._show_slice()

    def _show_slice(self) -> None:
        rows = self._rows.get(self.slice, [])
        self.accuracy.show_rows(rows)
        self.value.show_rows(rows)
        self.calibration.show_row(rows[-1] if rows else None)

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        names = ["slice", "bucket_unix_s", "predictions", "labelled", "accuracy"]
        names += ["estimated_accuracy", "value_per_1000", "estimated_value_per_1000", "ece"]
        bounds = ["accuracy_low", "accuracy_high", "estimated_low", "estimated_high", "ece_error"]
        return [*names, *bounds], [
            [*(str(getattr(row, name)) for name in names), *map(str, _bounds(row))]
            for rows in self._rows.values()
            for row in rows
        ]


def _bounds(row: QualityRow) -> list[float]:
    """The 95 % intervals of both accuracies, and half the interval of the calibration error."""
    found: list[float] = []
    for value, n in ((row.accuracy, row.labelled), (row.estimated_accuracy, row.predictions)):
        found += wilson(value * n, n) if value == value else (math.nan, math.nan)
    return [*found, ece_error(row)]
