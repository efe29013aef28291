"""Columns of the drift table. The bar is the measure chosen against its thresholds."""

from __future__ import annotations

from collections.abc import Callable

from console.models.cells import Cell, TableColumn
from console.state.dashboard import MEASURES, DriftLine
from console.state.timetext import clock_text
from server.telemetry.drift.scores import (
    CRITICAL_EXCESS_KL,
    HIGH_KS,
    HIGH_PSI,
    MIN_EFFECTIVE,
    WARNING_KS,
)

# Full length of the bar, and the ticks in it; the thresholds are the server's own.
SCALES = {
    "psi": (0.5, (HIGH_PSI,)),
    "ks": (0.3, (WARNING_KS, HIGH_KS)),
    "kl": (0.45, (CRITICAL_EXCESS_KL,)),
    "js": (0.5, ()),
}
TITLES = {"psi": "PSI", "ks": "KS", "kl": "KL", "js": "JS"}
INSUFFICIENT = ("insufficient", "learning", "")


def key(line: DriftLine) -> tuple[str, str]:
    return line.key


def columns(measure: str, wide: bool) -> tuple[TableColumn, ...]:
    """`measure` comes first and draws the bar; with room the others follow as numbers."""
    others = [name for name in MEASURES if name != measure][: 3 if wide else 0]
    found = [
        TableColumn("feature", _feature, 0, least=128, order=lambda line: line.row.feature),
        TableColumn("slice", _slice, 76 if wide else 70, order=lambda line: line.row.slice),
        TableColumn(
            TITLES[measure], _bar(measure), 70 if wide else 60, tip="marks: the thresholds"
        ),
        TableColumn("", _figure(measure, True), 44, right=True, order=_by(measure)),
    ]
    for name in others:
        found.append(
            TableColumn(
                TITLES[name], _figure(name, False), 42, right=True, order=_by(name), spare=3
            )
        )
    found.append(
        TableColumn(
            "window",
            _over,
            54,
            right=True,
            order=lambda line: line.row.window_s,
            tip="of the windows evaluated, the one with the worst level",
            spare=2,
        )
    )
    text = "rows; if too few, effective rows / rows needed"
    found.append(
        TableColumn("n", _count, 66, right=True, order=lambda line: line.row.n, tip=text, spare=1)
    )
    found.append(TableColumn("trend", _spark, 62 if wide else 52, tip="last evaluations", spare=2))
    return tuple(found)


def _by(measure: str) -> Callable[[DriftLine], float]:
    return lambda line: getattr(line.row, measure)


def _known(line: DriftLine) -> bool:
    return line.row.level not in INSUFFICIENT


def _feature(line: DriftLine) -> Cell:
    severity = line.row.level if _known(line) else "unknown"
    tone = "text" if _known(line) else "dim"
    return Cell(line.row.feature, tone, "sign", mono=True, value=severity, tip=tip(line))


def _slice(line: DriftLine) -> Cell:
    return Cell(line.row.slice or "all", "dim", mono=True, tip=tip(line))


def _bar(measure: str) -> Callable[[DriftLine], Cell]:
    full, marks = SCALES[measure]

    def cell(line: DriftLine) -> Cell:
        if not _known(line):
            text = "learning" if line.row.level == "learning" else "too few"
            return Cell(text, "dim", tip=tip(line))
        value = getattr(line.row, measure)
        tone = "p50" if line.row.level == "ok" else line.row.level
        shares = [mark / full for mark in marks]
        return Cell(f"{value:.2f}", tone, "bar", value=(value / full, shares), tip=tip(line))

    return cell


def _figure(measure: str, main: bool) -> Callable[[DriftLine], Cell]:
    def cell(line: DriftLine) -> Cell:
        value = getattr(line.row, measure)
        text = f"{value:.2f}" if value == value else "–"
        if not _known(line):
            return Cell(text if not main else "–", "faint", mono=True, right=True)
        loud = main and line.row.level in ("critical", "high", "warning")
        tone = line.row.level if loud else "text" if main else "dim"
        bold = main and line.row.level in ("critical", "high")
        return Cell(text, tone, mono=True, right=True, bold=bold, tip=tip(line))

    return cell


def _count(line: DriftLine) -> Cell:
    row = line.row
    if _known(line):
        return Cell(f"{row.n:,.0f}", "dim", mono=True, right=True, tip=tip(line))
    needed = row.n_needed or MIN_EFFECTIVE
    text = f"{row.n_effective:.0f}/{needed:.0f}"
    return Cell(text, "dim", mono=True, right=True, tip=tip(line))


def _over(line: DriftLine) -> Cell:
    return Cell(_hours(line), "dim", mono=True, right=True, tip=tip(line))


def _hours(line: DriftLine) -> str:
    return f"{line.row.window_s / 3600:.0f}h" if line.row.window_s else ""


def _spark(line: DriftLine) -> Cell:
    tone = line.row.level if line.row.level in ("critical", "high", "warning") else "p50"
    return Cell("", tone, "spark", value=line.spark)


def tip(line: DriftLine) -> str:
    row = line.row
    first = f"{row.feature} [{row.slice or 'all'}]: {row.level or 'no level'}"
    if row.level == "insufficient":
        first += f", {row.n_effective:.0f} effective rows, {row.n_needed:.0f} needed"
    lines = [
        first,
        f"KS {row.ks:.3f} (p {row.p:.2g}, q {row.q:.2g}) · KL {row.kl:.3f} nats,"
        f" excess {row.excess_kl:.3f} · JS {row.js:.3f} · PSI {row.psi:.3f}",
        f"n {row.n:,.0f}, effective {row.n_effective:,.0f} · baseline {row.baseline}",
    ]
    if row.structural:
        lines.append(row.structural)
    if line.source == "console":
        lines.append("computed by the console from the hourly profiles of this window")
    else:
        lines.append(f"window {_hours(line)} · evaluated at {clock_text(line.at_s)} UTC")
        lines.append(f"worst of {line.servers} servers and of all windows")
    return "\n".join(lines)
