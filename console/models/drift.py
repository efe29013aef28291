"""Columns of the drift table. The bar shows the chosen measure against its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from console.models.cells import Cell, TableColumn, mono, number_column
from console.state.dashboard import MEASURES, DriftLine
from console.state.firing import SHIFTED
from console.state.timetext import clock_text
from console.state.units import number
from server.telemetry.drift.scores import (
    CRITICAL_EXCESS_KL,
    HIGH_KS,
    HIGH_PSI,
    MIN_EFFECTIVE,
    WARNING_KS,
)

# Value at the full length of the bar, and its ticks, which are the server's own thresholds.
SCALES = {
    "psi": (0.5, (HIGH_PSI,)),
    "ks": (0.3, (WARNING_KS, HIGH_KS)),
    "kl": (0.45, (CRITICAL_EXCESS_KL,)),
    "js": (0.5, ()),
}
TITLES = {"psi": "PSI", "ks": "KS", "kl": "KL", "js": "JS"}
INSUFFICIENT = ("insufficient", "learning", "")


def learning(lines: Sequence[DriftLine]) -> str:
    """`learning: 9 of about 640 rows`, for the feature that has the most rows."""
    first = max(lines, key=lambda line: line.row.n)
    needed = first.row.n_needed or MIN_EFFECTIVE
    return f"learning: {first.row.n:,.0f} of about {needed:,.0f} rows"


def key(line: DriftLine) -> tuple[str, str]:
    return line.key


def face(line: DriftLine) -> object:
    """What is visible of a line, which each board makes again from the same row. Its spark follows
    from the evaluation and from how much of the history has been read."""
    seen = (line.row, line.name, line.firing_at, clock_text(line.since_s, "%H:%M"))
    return *seen, line.at_s, len(line.spark)


def columns(measure: str, wide: bool, fleet: bool = False) -> tuple[TableColumn, ...]:
    """`measure` comes first and draws the bar; a wide table adds the others as numbers. `fleet`:
    several servers are shown, so each row names its server."""
    others = [name for name in MEASURES if name != measure][: 3 if wide else 0]
    found = [
        TableColumn("feature", _feature, 0, least=152, order=attrgetter("row.feature")),
        TableColumn("slice", _slice, 118 if wide else 94, order=attrgetter("row.slice")),
        TableColumn(
            TITLES[measure], _bar(measure), 70 if wide else 60, tip="marks: the thresholds"
        ),
        number_column("", _figure(measure, True), 44, order=attrgetter(f"row.{measure}")),
    ]
    for place, name in enumerate(others):
        order, cell = attrgetter(f"row.{name}"), _figure(name, False)
        found.append(number_column(TITLES[name], cell, 42, order=order, spare=5 + place))
    if fleet:
        worst, order = "the server where it is worst", attrgetter("name")
        found.append(TableColumn("server", _server, 118, order=order, tip=worst, spare=2))
    shift = "first of the evaluations in a row that found this shift"
    window = "of the windows evaluated, the one with the worst level"
    rows = "how many rows it was computed from"
    return (
        *found,
        number_column("since", _since, 52, order=attrgetter("since_s"), tip=shift, spare=1),
        number_column("window", _over, 54, order=attrgetter("row.window_s"), tip=window, spare=4),
        number_column("rows", _count, 70, order=attrgetter("row.n"), tip=rows, spare=1),
        TableColumn("trend", _spark, 62 if wide else 52, tip="last evaluations", spare=3),
    )


def _known(line: DriftLine) -> bool:
    return line.row.level not in INSUFFICIENT


def loudness(line: DriftLine) -> str:
    """The level of the line while an alert about it fires. A shift without such an alert is `info`:
    one evaluation in twenty finds a shift by chance."""
    if not _known(line):
        return "unknown"
    return line.row.level if line.firing or line.row.level == "ok" else "info"


def _feature(line: DriftLine) -> Cell:
    tone = "text" if line.firing else "dim"
    return Cell(line.row.feature, tone, "sign", mono=True, value=loudness(line), tip=tip(line))


def _server(line: DriftLine) -> Cell:
    more = f" +{len(line.firing_at) - 1}" if len(line.firing_at) > 1 else ""
    return mono(line.name + more, tip=tip(line))


def _since(line: DriftLine) -> Cell:
    text = clock_text(line.since_s, "%H:%M")
    return Cell(text, "text" if line.firing else "dim", mono=True, tip=tip(line))


def _slice(line: DriftLine) -> Cell:
    return mono(line.row.slice or "all", tip=tip(line))


def _bar(measure: str) -> Callable[[DriftLine], Cell]:
    full, marks = SCALES[measure]

    def cell(line: DriftLine) -> Cell:
        if not _known(line):
            return Cell("learning", "dim", tip=tip(line))
        value = getattr(line.row, measure)
        tone = line.row.level if line.firing else "p50"
        shares = [mark / full for mark in marks]
        return Cell(f"{value:.2f}", tone, "bar", value=(value / full, shares), tip=tip(line))

    return cell


def _figure(measure: str, main: bool) -> Callable[[DriftLine], Cell]:
    def cell(line: DriftLine) -> Cell:
        value = getattr(line.row, measure)
        text = f"{value:.2f}" if value == value else "–"
        if not _known(line):
            return Cell(text if not main else "–", "dim", mono=True)
        loud = main and line.firing
        tone = line.row.level if loud else "dim"
        bold = loud and line.row.level in ("critical", "high")
        return mono(text, tone, bold=bold, tip=tip(line))

    return cell


def _count(line: DriftLine) -> Cell:
    row = line.row
    if _known(line):
        return mono(f"{row.n:,.0f}", tip=tip(line))
    text = f"{row.n:.0f}/{row.n_needed or MIN_EFFECTIVE:.0f}"
    return mono(text, tip=tip(line))


def _over(line: DriftLine) -> Cell:
    return mono(_hours(line), tip=tip(line))


def _hours(line: DriftLine) -> str:
    return f"{line.row.window_s / 3600:.0f}h" if line.row.window_s else ""


def _spark(line: DriftLine) -> Cell:
    return Cell("", line.row.level if line.firing else "p50", "spark", value=line.spark)


def tip(line: DriftLine) -> str:
    row = line.row
    first = f"{row.feature} [{row.slice or 'all'}]: {row.level or 'no level'}"
    if row.level == "insufficient":
        first += f", {row.n:.0f} of about {row.n_needed:.0f} rows"
    lines = [
        first,
        f"KS {row.ks:.3f} (p {number(row.p, 2)}, q {number(row.q, 2)}) · KL {row.kl:.3f} nats,"
        f" excess {row.excess_kl:.3f} · JS {row.js:.3f} · PSI {row.psi:.3f}",
        f"n {row.n:,.0f}, effective {row.n_effective:,.0f} · baseline {row.baseline}",
    ]
    if row.structural:
        lines.append(row.structural)
    if line.source == "console":
        lines.append("computed by the console from the hourly profiles of this window")
    else:
        if row.level in SHIFTED:
            alert = "an alert about it fires" if line.firing else "no alert: not confirmed yet"
            lines.append(f"{alert} · shifted since {clock_text(line.since_s)} UTC")
        lines.append(f"window {_hours(line)} · evaluated at {clock_text(line.at_s)} UTC")
        lines.append(f"worst of {line.servers} servers and of all windows")
    return "\n".join(lines)
