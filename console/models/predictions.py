"""A million predictions as a table. Their numbers are known; their content is read a page at a time
when it scrolls into view. Nothing here waits: a row not read yet shows a placeholder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from console.models.cells import Cell, TableColumn, mono
from console.models.table import ROOT, ColumnsModel, Index
from console.state.domain import CachedPrediction
from console.state.timetext import clock_text
from console.state.units import milliseconds
from server.telemetry.outputs import OUTPUTS, OutputSpec

PAGE = 128
MOST_PAGES = 64
PredictionEntry = tuple[str, CachedPrediction]  # (address, row)


def _text(row: CachedPrediction, text: str, tone: str = "text", **more: Any) -> Cell:
    return mono(text, tone, tip=tip(row), **more)


def columns(name_of: Callable[[str], str]) -> tuple[TableColumn, ...]:
    """`name_of` turns an address into a display name."""

    def at(entry: PredictionEntry) -> Cell:
        return _text(entry[1], clock_text(entry[1].at_unix_ms / 1000), "dim")

    def server(entry: PredictionEntry) -> Cell:
        return _text(entry[1], name_of(entry[0]), "dim")

    def label(entry: PredictionEntry) -> Cell:
        row = entry[1]
        if row.error:
            text = row.error_message or row.error
            return Cell(text, "critical", "sentence", value="critical", tip=tip(row))
        wrong = bool(row.true_label) and row.true_label != row.label
        text = f"{row.label} (true: {row.true_label})" if wrong else row.label
        sign = "warning" if wrong else "ok" if row.true_label else "info"
        tone = "warning" if wrong else "text"
        return Cell(text, tone, "sign", value=sign, tip=tip(row))

    def output(spec: OutputSpec) -> Callable[[PredictionEntry], Cell]:
        def cell(entry: PredictionEntry) -> Cell:
            row, form = entry[1], "d" if spec.whole else ".3f"
            if row.error:
                return Cell(kind="continued", tip=tip(row))
            return _text(row, f"{getattr(row, spec.name):{form}}")

        return cell

    def total(entry: PredictionEntry) -> Cell:
        return _text(entry[1], milliseconds(entry[1].timing.total_ms))

    def slices(entry: PredictionEntry) -> Cell:
        text = " ".join(f"{key}={value}" for key, value in sorted(entry[1].slices.items()))
        return _text(entry[1], text, "dim")

    def kept(entry: PredictionEntry) -> Cell:
        return _text(entry[1], "■" if entry[1].payload_kept else "", "accent")

    return (
        TableColumn("UTC", at, 70),
        TableColumn("server", server, 94, spare=2),
        # The next columns carry on the error sentence of a refused row.
        TableColumn("label", label, 132),
        *(TableColumn(spec.head, output(spec), 56, right=True) for spec in OUTPUTS if spec.head),
        TableColumn("mix", lambda e: _text(e[1], short_mix(e[1].mix), "dim"), 92, spare=4),
        TableColumn("stamp", lambda e: _text(e[1], e[1].stamp[:8], "dim"), 74, spare=5),
        TableColumn("kept", kept, 40, spare=3, tip="payload kept: text, image, audio"),
        TableColumn("total", total, 68, right=True, spare=1),
        TableColumn("slices", slices, 0, least=230),
    )


_MIX = {"text": "txt", "image": "img", "audio": "snd"}


def short_mix(mix: str) -> str:
    """`image+text` shortened to fit a column; the filter takes the full names."""
    return "+".join(_MIX.get(part, part) for part in mix.split("+"))


def tip(row: CachedPrediction) -> str:
    lines = [
        row.prediction_id,
        f"{row.mix} · {row.task}",
        f"client {row.client} · session {row.session}",
    ]
    lines += [text for text in (row.error_message, row.error) if text]
    return "\n".join(lines)


class PredictionsModel(ColumnsModel):
    """`need(numbers)` is called for a visible page that has not been read."""

    def __init__(self, name_of: Callable[[str], str], need: Callable[[list[int]], None]) -> None:
        super().__init__(columns(name_of))
        self._need = need
        self._numbers: NDArray[np.int64] = np.zeros(0, np.int64)
        self._pages: OrderedDict[int, dict[int, PredictionEntry]] = OrderedDict()
        self._asked: set[int] = set()

    def show(self, numbers: NDArray[np.int64]) -> None:
        self.beginResetModel()
        self._numbers = numbers
        self._pages.clear()
        self._asked.clear()
        self.endResetModel()

    def fill(self, rows: Mapping[int, PredictionEntry]) -> None:
        """Take over a page that was read."""
        wanted = set(rows)
        for page in sorted(self._asked):
            numbers = self._numbers[page * PAGE : (page + 1) * PAGE]
            if not wanted & set(numbers.tolist()):
                continue
            self._asked.discard(page)
            self._pages[page] = {int(n): rows[int(n)] for n in numbers if int(n) in rows}
            while len(self._pages) > MOST_PAGES:
                self._pages.popitem(last=False)
            last = min((page + 1) * PAGE, len(self._numbers)) - 1
            self.dataChanged.emit(
                self.index(page * PAGE, 0), self.index(last, len(self.columns) - 1)
            )
            return

    def read(self) -> list[int]:
        """The positions whose rows are loaded, in order."""
        pages = (range(page * PAGE, (page + 1) * PAGE) for page in sorted(self._pages))
        return [place for page in pages for place in page if place < len(self._numbers)]

    def entry(self, place: int) -> PredictionEntry | None:
        """The row at a position; None while it is being read, or if it was deleted."""
        if not 0 <= place < len(self._numbers):
            return None
        page = place // PAGE
        found = self._pages.get(page)
        if found is None:
            if page not in self._asked:
                self._asked.add(page)
                self._need(self._numbers[page * PAGE : (page + 1) * PAGE].tolist())
            return None
        return found.get(int(self._numbers[place]))

    def rowCount(self, parent: Index = ROOT) -> int:
        return 0 if parent.isValid() else len(self._numbers)

    def row_at(self, place: int) -> PredictionEntry | None:
        return self.entry(place)

    def cell_of(self, row: PredictionEntry | None, index: Index) -> Cell:
        return super().cell_of(row, index) if row is not None else _absent(self, index)


def _absent(model: PredictionsModel, index: Index) -> Cell:
    text = "…" if index.row() // PAGE not in model._pages else "deleted"
    return Cell(text if index.column() == 0 else "", "dim")
