"""Quality of a fleet by slice, and the columns of its tables. Servers are added up, each weighted
by its number of predictions or labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from console.models.cells import Cell, TableColumn, mono, number_column
from console.state.dashboard import QualityLine
from console.state.units import Z95, duration, points_of, share, share_of, wilson
from server.telemetry.rows import QualityRow, ReliabilityBin, SliceRow

GAP = (
    "realised minus estimated in points, on the {n:,} answers with a true label; after ± how far "
    "it may be off in 95 of 100 cases"
)
N_LABELLED = "of {n:,} answers with a true label; in brackets where it lies with 95 %"
N_ECE = "of {n:,} answers with a true label, and how far chance alone moves it in 95 of 100 cases"
LEAST_GAP = -0.05  # accuracy minus estimate; a smaller gap gets no colour
N_ALL = "of {n:,} answers; in brackets where it lies with 95 %, or nearer"


def _money(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".strip() if value == value else "–"


def merged(lines: Sequence[QualityLine]) -> dict[str, list[QualityRow]]:
    """By slice: one row for each bucket in time order, servers weighted by their predictions."""
    groups: dict[tuple[str, int], list[QualityRow]] = {}
    for line in lines:
        groups.setdefault((line.row.slice, line.row.bucket_unix_s), []).append(line.row)
    found: dict[str, list[QualityRow]] = {}
    for (place, _), rows in sorted(groups.items(), key=lambda item: item[0][1]):
        found.setdefault(place, []).append(_merge(rows))
    return found


def _merge(rows: Sequence[QualityRow]) -> QualityRow:
    if len(rows) == 1:
        return rows[0]
    best = max(rows, key=lambda row: row.predictions)
    bins = max((len(row.reliability) for row in rows), default=0)
    fitting = [row for row in rows if len(row.reliability) == bins]
    reliability = tuple(
        ReliabilityBin(
            sum(row.reliability[i].n for row in fitting),
            sum(row.reliability[i].sum_confidence for row in fitting),
            sum(row.reliability[i].sum_correct for row in fitting),
        )
        for i in range(bins)
    )
    same = [r for r in rows if r.labels == best.labels and len(r.confusion) == len(best.confusion)]
    return replace(
        best,
        predictions=sum(row.predictions for row in rows),
        labelled=sum(row.labelled for row in rows),
        accuracy=_mean(rows, "accuracy", "labelled"),
        estimated_accuracy=_mean(rows, "estimated_accuracy", "predictions"),
        value_per_1000=_mean(rows, "value_per_1000", "labelled"),
        estimated_value_per_1000=_mean(rows, "estimated_value_per_1000", "predictions"),
        ece=_mean(rows, "ece", "labelled"),
        median_label_delay_s=_mean(rows, "median_label_delay_s", "labelled"),
        reliability=reliability,
        confusion=tuple(sum(parts) for parts in zip(*(r.confusion for r in same), strict=True)),
        estimated_accuracy_labelled=_mean(rows, "estimated_accuracy_labelled", "labelled"),
    )


def _mean(rows: Sequence[QualityRow], name: str, weight: str) -> float:
    pairs = [(getattr(row, name), getattr(row, weight)) for row in rows]
    known = [(value, count) for value, count in pairs if value == value and count > 0]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else math.nan


def slice_columns() -> tuple[TableColumn, ...]:
    def gap(row: QualityRow) -> Cell:
        """For these rows the estimate is the confidence that the model stated, so it has no error
        of its own."""
        known = row.estimated_accuracy_labelled
        surely_below = wilson(row.accuracy * row.labelled, row.labelled)[1] < known
        odd = row.accuracy - known < LEAST_GAP and surely_below
        text = points_of(row.accuracy, known, row.labelled)
        return mono(text, "warning" if odd else "dim", tip=GAP.format(n=row.labelled))

    def labelled(row: QualityRow) -> Cell:
        part = row.labelled / row.predictions if row.predictions else math.nan
        return mono(f"{row.labelled:,} of {row.predictions:,}", tip=share(part))

    def realised(row: QualityRow) -> Cell:
        tip = N_LABELLED.format(n=row.labelled)
        return mono(share_of(row.accuracy, row.labelled), "text", tip=tip)

    def expected(row: QualityRow) -> Cell:
        """The server does not report the spread of single probabilities. Each counts as the mean,
        which can only make the interval wider."""
        tip = N_ALL.format(n=row.predictions)
        return mono(share_of(row.estimated_accuracy, row.predictions), tip=tip)

    def estimate(row: QualityRow) -> Cell:
        tip = f"of {row.predictions:,} answers"
        return mono(_money(row.estimated_value_per_1000, row.value_unit), tip=tip)

    def value(row: QualityRow) -> Cell:
        tip = f"of {row.labelled:,} answers with a true label"
        return mono(_money(row.value_per_1000, row.value_unit), "text", tip=tip)

    def ece(row: QualityRow) -> Cell:
        tip = N_ECE.format(n=row.labelled)
        return mono(f"{row.ece:.3f} ±{ece_error(row):.3f}" if row.ece == row.ece else "–", tip=tip)

    def delay(row: QualityRow) -> Cell:
        tip = f"the median of {row.labelled:,} answers with a true label"
        return mono(duration(row.median_label_delay_s), tip=tip)

    return (
        TableColumn("slice", lambda r: Cell(r.slice or "all", mono=True), 0, least=84),
        number_column("labelled", labelled, 134),
        number_column("realised", realised, 126),
        number_column("estimated", expected, 126, spare=1),
        number_column("difference", gap, 92, spare=3),
        number_column("value/1000", value, 112, spare=2),
        number_column("estimated", estimate, 112, spare=6),
        number_column("delay", delay, 64, spare=4),
        number_column("ECE", ece, 98, spare=5),
    )


def ece_error(row: QualityRow) -> float:
    """Half of the 95 % interval of the calibration error. If the rows of a bin are right as often
    as their mean confidence c states, the bin's sum of n rows has the variance n c (1 - c) by
    chance."""
    means = ((found.n, found.sum_confidence / found.n) for found in row.reliability if found.n)
    variance = sum(n * max(c * (1 - c), 0.0) for n, c in means)
    labelled = sum(found.n for found in row.reliability)
    return Z95 * math.sqrt(variance) / labelled if labelled else math.nan


def worst_by_expression(
    found: Sequence[tuple[str, SliceRow]],
) -> list[tuple[str, SliceRow]]:
    """One row for each expression, as servers with the same stamp find the same slices: the one
    with the largest error."""
    worst: dict[str, tuple[str, SliceRow]] = {}
    for pair in found:
        held = worst.get(pair[1].expression)
        if held is None or pair[1].error > held[1].error:
            worst[pair[1].expression] = pair
    return sorted(worst.values(), key=lambda pair: -pair[1].z)


def worst_columns() -> tuple[TableColumn, ...]:
    def message(pair: tuple[str, SliceRow]) -> Cell:
        row = pair[1]
        return Cell(row.message or row.expression, "text", tip=row.expression)

    def error(pair: tuple[str, SliceRow]) -> Cell:
        row = pair[1]
        loud = "critical" if row.error > 2 * max(row.error_elsewhere, 1e-9) else "text"
        tip = f"of {row.support:,} rows; in brackets where it lies with 95 %"
        return Cell(share_of(row.error, row.support), loud, mono=True, tip=tip)

    def elsewhere(pair: tuple[str, SliceRow]) -> Cell:
        row = pair[1]
        others = _rows_of_all(row) - row.support
        tip = f"of {others:,.0f} rows; in brackets where it lies with 95 %"
        return mono(share_of(row.error_elsewhere, others), tip=tip)

    def part(pair: tuple[str, SliceRow]) -> Cell:
        return mono(share(pair[1].share), tip=f"of {_rows_of_all(pair[1]):,.0f} rows")

    return (
        TableColumn("worst slice", message, 0, least=210),
        number_column("error", error, 126, order=lambda pair: pair[1].error),
        number_column("elsewhere", elsewhere, 126, spare=2),
        number_column("rows", lambda p: mono(f"{p[1].support:,}"), 62, spare=1),
        number_column("share", part, 66, spare=3),
        TableColumn("filter", lambda p: mono(p[1].expression), 220, spare=4),
    )


def _rows_of_all(row: SliceRow) -> float:
    """The number of rows that the slice was found among."""
    return row.support / row.share if row.share > 0 else 0.0
